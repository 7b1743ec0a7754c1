"""Make a data set of some of another's classes."""
from cpnet.kinds import filename
from cpnet.options import Parser
from data.store.dataset import Dataset
from data.subset import choose_classes, subset


def main(words):
    parser = Parser("subset", "DATA.h5 OUT.h5 --classes CLASSES",
                    "Makes a data set that holds only some classes of another.",
                    "Example: python run.py subset my.h5 five.h5 --classes 0-4")
    parser.add_argument("data", type=filename, metavar="DATA.h5", help="The data set to take them from.")
    parser.add_argument("out", type=filename, metavar="OUT.h5", help="The file to make.")
    parser.add_argument("--classes", required=True, metavar="CLASSES",
                        help="Takes these classes, named by number, by name or by WordNet's identifier "
                             "(WNID). Examples: 0-4; Bag,Coat,7.")
    options = parser.parse(words)
    with Dataset(options.data) as dataset:
        classes = choose_classes(dataset, options.classes)
        count = subset(dataset, options.out, classes)
        names = ", ".join(dataset.classes[k] for k in classes[:10]) + ", …" * (len(classes) > 10)
    print(f"{options.out}: ready, {count:,} images of {len(classes)} classes: {names}")

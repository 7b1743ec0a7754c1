"""Some of the classes of a data set."""
from cpnet.options import Parser
from data.store.dataset import Dataset
from data.subset import choose_classes, subset


def main(words):
    parser = Parser(prog="run.py subset", description="some of the classes of a data set, as a data set of its own")
    parser.add_argument("data", help="an .h5 data set")
    parser.add_argument("out", help="the .h5 file to make")
    parser.add_argument("--classes", required=True, help="by number, by name or by WNID, such as 0-4 or Bag,Coat,7")
    options = parser.parse(words)
    with Dataset(options.data) as dataset:
        classes = choose_classes(dataset, options.classes)
        count = subset(dataset, options.out, classes)
        names = ", ".join(dataset.classes[k] for k in classes[:10]) + ", …" * (len(classes) > 10)
    print(f"{options.out}: ready, {count:,} images of {len(classes)} classes: {names}")

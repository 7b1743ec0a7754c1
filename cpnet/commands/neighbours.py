"""Images alike: precision and speed of retrieval, and figure 4, right."""
from cpnet.commands.common import add_one_device, one_device, open_data
from cpnet.kinds import filename, positive, whole
from cpnet.options import Parser
from cpnet.studies.codes import Codes
from cpnet.studies.features import Features
from cpnet.studies.retrieval import Retrieval


def main(words):
    parser = Parser("neighbours", "FEATURES DATA.h5",
                    "Looks up images: finds the training images that are nearest to each by features, by "
                    "codes and by pixels, and counts how many of those have its class.",
                    "Example: python run.py neighbours features.h5 my.h5 --codes codes.h5 --picture "
                    "alike.png")
    parser.add_argument("features", type=filename, metavar="FEATURES",
                        help="A file that the command features made.")
    parser.add_argument("data", type=filename, metavar="DATA.h5", help="The data set that it was made from.")
    parser.add_argument("--codes", nargs="+", default=[], type=filename, metavar="CODES",
                        help="Also searches by these files, which the command codes made from the features "
                             "or the data.")
    parser.add_argument("--shortlist", type=positive, metavar="K",
                        help="Also searches by features among only the K images that are nearest by the "
                             "features' codes.")
    parser.add_argument("--queries", default="test", metavar="SPLIT", help="Looks up images of this split.")
    parser.add_argument("--count", type=positive, default=1000, metavar="N",
                        help="Looks up N images, drawn at random.")
    parser.add_argument("--seed", type=whole, default=0, metavar="N", help="Draws them from this number.")
    parser.add_argument("--picture", type=filename, metavar="PNG",
                        help="Draws five images, each with the six nearest by features, as figure 4 (right).")
    add_one_device(parser)
    options = parser.parse(words)
    features, coded = Features(options.features), [Codes(path) for path in options.codes]
    device = one_device(options)
    with open_data(options.data) as dataset:
        Retrieval(features, coded, dataset, device, split=options.queries, count=options.count,
                  seed=options.seed, shortlist=options.shortlist, picture=options.picture).run()
    features.close()

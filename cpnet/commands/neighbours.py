"""Images alike: precision and speed of retrieval, and figure 4, right."""
from cpnet.commands.common import one_device, one_device_options, open_data
from cpnet.kinds import positive, whole
from cpnet.options import Parser
from cpnet.studies.codes import Codes
from cpnet.studies.features import Features
from cpnet.studies.retrieval import Retrieval


def main(words):
    parser = Parser(prog="run.py neighbours",
                    description="how often the nearest training images, by features, codes and pixels, have the query's class")
    parser.add_argument("features", help="a file made by `features`")
    parser.add_argument("data", help="the data set that it was made from")
    parser.add_argument("--codes", nargs="+", default=[], metavar="H5", help="files made by `codes` from either")
    parser.add_argument("--shortlist", type=positive, metavar="K",
                        help="also by features, but only among the K nearest by each of the features' codes")
    parser.add_argument("--queries", default="test", help="the split whose images are looked up")
    parser.add_argument("--count", type=positive, default=1000, help="queries, drawn at random")
    parser.add_argument("--seed", type=whole, default=0, help="of the draw")
    parser.add_argument("--picture", metavar="PNG", help="figure 4, right: five queries, their six nearest by features")
    one_device_options(parser)
    options = parser.parse(words)
    features, coded = Features(options.features), [Codes(path) for path in options.codes]
    device = one_device(options)
    with open_data(options.data) as dataset:
        Retrieval(features, coded, dataset, device, split=options.queries, count=options.count, seed=options.seed,
                  shortlist=options.shortlist, picture=options.picture).run()
    features.close()

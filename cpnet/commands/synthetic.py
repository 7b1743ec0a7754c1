"""Make a data set of random images, to measure speed."""
from cpnet.kinds import filename, positive, whole
from cpnet.options import Parser
from data.prepare import synthetic


def main(words):
    parser = Parser("synthetic", "OUT.h5",
                    "Makes a data set of random images of ImageNet's shape, to measure speed.",
                    "Example: python run.py synthetic noise.h5 --images 20000")
    parser.add_argument("out", type=filename, metavar="OUT.h5", help="The file to make.")
    parser.add_argument("--images", type=positive, default=1000, metavar="N", help="Makes N training images.")
    parser.add_argument("--classes", type=positive, default=1000, metavar="N",
                        help="Gives them labels of N classes.")
    parser.add_argument("--size", type=positive, default=256, metavar="PIXELS",
                        help="Makes squares with sides this long.")
    parser.add_argument("--seed", type=whole, default=0, metavar="N",
                        help="Draws pixels and labels from this number.")
    options = parser.parse(words)
    synthetic(options.out, images=options.images, classes=options.classes, size=options.size,
              seed=options.seed)
    print(f"{options.out}: ready; {options.images:,} random images")

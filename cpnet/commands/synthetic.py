"""Random images, to measure speed."""
from cpnet.kinds import positive, whole
from cpnet.options import Parser
from data.prepare import synthetic


def main(words):
    parser = Parser(prog="run.py synthetic", description="an ImageNet-shaped file of random images, for speed tests")
    parser.add_argument("out", help="the .h5 file to make")
    parser.add_argument("--images", type=positive, default=1000)
    parser.add_argument("--classes", type=positive, default=1000)
    parser.add_argument("--size", type=positive, default=256)
    parser.add_argument("--seed", type=whole, default=0)
    options = parser.parse(words)
    synthetic(options.out, images=options.images, classes=options.classes, size=options.size, seed=options.seed)
    print(f"{options.out}: ready; {options.images:,} random images")

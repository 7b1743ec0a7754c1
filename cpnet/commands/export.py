"""A checkpoint's weights for other programs."""
from cpnet.export import export_npz
from cpnet.options import Parser


def main(words):
    parser = Parser(prog="run.py export", description="a checkpoint's weights, and all that predicting takes, as .npz")
    parser.add_argument("checkpoint")
    parser.add_argument("out")
    options = parser.parse(words)
    export_npz(options.checkpoint, options.out)
    print(f"{options.out}: ready")

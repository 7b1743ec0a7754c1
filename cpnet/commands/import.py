"""A checkpoint from exported weights."""
from cpnet.export import import_npz
from cpnet.options import Parser


def main(words):
    parser = Parser(prog="run.py import", description="a checkpoint from an exported .npz")
    parser.add_argument("source")
    parser.add_argument("out")
    options = parser.parse(words)
    import_npz(options.source, options.out)
    print(f"{options.out}: ready; python run.py evaluate {options.out}")

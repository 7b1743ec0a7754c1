"""Images of any kind to a data set."""
from cpnet.options import Parser, above_zero, positive, whole
from data.prepare import prepare


def main(words):
    parser = Parser(prog="run.py prepare", description="class folders, or IDX files (MNIST, Fashion-MNIST), to one .h5")
    parser.add_argument("source", help="a folder: train/ and val/ of class folders, class folders alone, or IDX files")
    parser.add_argument("out", help="the .h5 file to make")
    parser.add_argument("--size", type=positive, default=256, help="of class folders: shorter side, then central square")
    parser.add_argument("--val-fraction", type=above_zero, default=0.1,
                        help="of class folders without val/: share for validation")
    parser.add_argument("--val", type=positive, default=5000, help="of IDX files: images split off for validation")
    parser.add_argument("--seed", type=whole, default=0, help="of the split")
    parser.add_argument("--workers", type=positive, help="threads (default: one a core)")
    parser.add_argument("--class-names", help="of IDX files: names, separated by commas")
    options = parser.parse(words)
    out = prepare(options.source, options.out, size=options.size, val_fraction=options.val_fraction, val=options.val,
                  seed=options.seed, workers=options.workers,
                  class_names=options.class_names.split(",") if options.class_names else None)
    print(f"{out}: ready; train with python run.py --data {out}")

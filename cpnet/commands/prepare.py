"""Images of any kind to a data set."""
import os
import sys

from cpnet.errors import fail
from cpnet.kinds import above_zero, positive, share, whole
from cpnet.options import Parser
from data.prepare import prepare
from data.store.part import STORES


def main(words):
    parser = Parser(prog="run.py prepare",
                    description="ImageNet as downloaded, class folders, CIFAR-10 or IDX files (MNIST) to one .h5; "
                                "interrupted, the same command goes on where it was")
    parser.add_argument("source", help="a folder: ILSVRC's tars and development kit; train/ and val/ of class folders; class "
                                       "folders alone; IDX files; or CIFAR-10's binary archive")
    parser.add_argument("out", help="the .h5 file to make")
    parser.add_argument("--store", choices=STORES, default="raw", help="pixels, or JPEGs of them at quality 95")
    parser.add_argument("--size", type=positive, default=256, help="of images: shorter side, then central square")
    parser.add_argument("--val-fraction", type=above_zero, default=0.1, help="of images without val/: share for validation")
    parser.add_argument("--val", type=positive, default=5000, help="of IDX and CIFAR-10: images split off for validation")
    parser.add_argument("--seed", type=whole, default=0, help="of the split")
    parser.add_argument("--workers", type=positive, help="threads (default: one a core)")
    parser.add_argument("--class-names", help="of IDX and CIFAR-10: names, separated by commas")
    parser.add_argument("--max-skipped", type=share, default="0.1%",
                        help="exit with status 1 if more of the images than this could not be converted")
    options = parser.parse(words)
    try:
        done = prepare(options.source, options.out, size=options.size, store=options.store, val=options.val,
                       val_fraction=options.val_fraction, seed=options.seed, workers=options.workers,
                       class_names=options.class_names.split(",") if options.class_names else None)
    except KeyboardInterrupt:
        return fail("interrupted; the same command goes on from here", 130)
    print(f"{done.out}: ready, {done.images:,} images; train with python run.py --data {done.out}")
    if done.skipped:
        part = done.skipped / (done.images + done.skipped)
        print(f"{done.skipped:,} images ({part:.2%}) could not be converted, for the reasons in "
              f"{os.path.splitext(done.out)[0]}.skipped.jsonl", file=sys.stderr if part > options.max_skipped else sys.stdout)
        return int(part > options.max_skipped)

"""Make a data set from images of many kinds."""
from cpnet.errors import fail
from cpnet.kinds import above_zero, filename, positive, share, whole
from cpnet.options import Parser, add_threads
from data.check import class_table
from data.prepare import prepare
from data.store.dataset import Dataset
from data.store.part import STORES
from data.store.skipped import skipped_path


def main(words):
    parser = Parser("prepare", "SOURCE OUT.h5",
                    "Makes one .h5 data set from ImageNet as downloaded, from folders of images, from "
                    "CIFAR-10 or from IDX files such as MNIST's (docs/data.md).",
                    "Example: python run.py prepare photos my.h5. If it is interrupted, the same command "
                    "goes on.")
    parser.add_argument("source", type=filename, metavar="SOURCE",
                        help="A folder with one of these: ILSVRC's tars and development kit; train/ and val/ "
                             "with a folder for each class; a folder for each class; IDX files; CIFAR-10's "
                             "binary archive.")
    parser.add_argument("out", type=filename, metavar="OUT.h5", help="The file to make.")
    parser.add_argument("--store", choices=STORES, default="raw",
                        help="Stores images as pixels (raw), or as JPEGs of quality 95, which take less room "
                             "(jpeg).")
    parser.add_argument("--size", type=positive, default=256, metavar="PIXELS",
                        help="Scales each image until its shorter side has this length, then cuts out the "
                             "central square.")
    parser.add_argument("--val-fraction", type=above_zero, default=0.1, metavar="SHARE",
                        help="Takes this share of the images for validation, if they are in folders without "
                             "a val/.")
    parser.add_argument("--val", type=positive, default=5000, metavar="N",
                        help="Takes N images for validation from IDX files or CIFAR-10.")
    parser.add_argument("--seed", type=whole, default=0, metavar="N",
                        help="Draws the images for validation from this number.")
    add_threads(parser, "convert the images", old_spelling="--workers")
    parser.add_argument("--class-names", metavar="NAMES",
                        help="Names the classes of IDX files or CIFAR-10 so. Example: cat,dog,horse.")
    parser.add_argument("--max-skipped", type=share, default="0.1%", metavar="SHARE",
                        help="Ends with exit code 1 if a larger share of the images could not be converted.")
    options = parser.parse(words)
    try:
        done = prepare(options.source, options.out, size=options.size, store=options.store, val=options.val,
                       val_fraction=options.val_fraction, seed=options.seed, workers=options.threads,
                       class_names=options.class_names.split(",") if options.class_names else None)
    except KeyboardInterrupt:
        return fail("interrupted; the same command goes on from here", 130)
    with Dataset(done.out) as dataset:
        print(*class_table(dataset), sep="\n")
        classes = len(dataset.classes)
    print("left out:" if done.left_out else "left out: nothing")
    print(*(f"  {count:12,}  {reason}\n" for reason, count in done.left_out.items()), sep="", end="")
    left_out = sum(done.left_out.values())
    listed = f", which {skipped_path(done.out)} lists" if left_out else ""
    print(f"{done.out}: ready, {done.images:,} images of {classes:,} classes; {left_out:,} files left out"
          f"{listed}; train with python run.py --data {done.out}")
    part = done.skipped / (done.images + done.skipped)
    if part > options.max_skipped:
        return fail(f"{done.skipped:,} images ({part:.2%}) could not be converted, for the reasons in "
                    f"{skipped_path(done.out)}; mend them or allow for them with --max-skipped")

"""Make the bundled data set from Fashion-MNIST's official training files: python -m data.bundle FOLDER [OUT]

12,000 of the 60,000 images, 1,200 of each class: 1,000 for training and 200 for validation.
The official test images are not used, so a result on them stays comparable with published ones.
"""

import argparse
import os
import shutil

from data.errors import DataError
from data.sources.idx import FASHION, find_idx, read_pair
from data.sources.split import stratified_split
from data.store.moments import Statistics
from data.store.writer import Writer

HERE = os.path.dirname(os.path.abspath(__file__))
DEFAULT = os.path.join(HERE, "fashion-mnist-12k.h5")
IMAGES, VAL, SEED = 12_000, 2_000, 0


def bundle(folder, out=DEFAULT):
    """Write the set to `out`, its licence beside it as fashion-mnist-LICENSE.
    The same files give the same pixels."""
    found, licence = find_idx(folder), os.path.join(folder, "LICENSE")
    if "train" not in found or not os.path.isfile(licence):
        raise DataError(f"{folder}: needs train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz and LICENSE "
                        "of Fashion-MNIST")
    images, labels = read_pair(*found["train"])
    _, kept = stratified_split(labels, IMAGES, SEED)
    images, labels = images[kept], labels[kept]
    train, val = stratified_split(labels, VAL, SEED)
    source = (f"Fashion-MNIST (Zalando SE, MIT licence), {IMAGES} of its training images, stratified, seed "
              f"{SEED}; https://github.com/zalandoresearch/fashion-mnist")
    with Writer(out, FASHION, images.shape[1:], source=source, compress=True) as writer:
        for name, part in (("train", train), ("val", val)):
            writer.add_split(name, labels[part])
            writer.write(name, 0, images[part])
        writer.set_statistics(Statistics(images[train]))
    shutil.copyfile(licence, os.path.join(os.path.dirname(os.path.abspath(out)), "fashion-mnist-LICENSE"))
    return out


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="the folder with Fashion-MNIST's IDX files and LICENSE")
    parser.add_argument("out", nargs="?", default=DEFAULT)
    arguments = parser.parse_args()
    try:
        print(bundle(arguments.folder, arguments.out))
    except DataError as error:
        raise SystemExit(f"error: {error}") from None

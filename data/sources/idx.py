"""MNIST and Fashion-MNIST: the IDX files that they come in."""

import gzip
import os
import re
import zlib

import numpy as np

from data.errors import DataError
from data.sources.folders import HIDDEN

FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker",
           "Bag", "Ankle boot")
# train-images-idx3-ubyte.gz, emnist-letters-test-labels-idx1-ubyte, t10k-images.idx3-ubyte and the like
NAME = re.compile(r"(?:(?P<set>.+)[-_.])?(?P<part>train|t10k|test)[-_.](?P<what>images|labels)"
                  r"[-_.]idx[13]?(?:[-_.]ubyte)?(?:\.gz)?$", re.IGNORECASE)


def find_idx(folder):
    """The IDX files in `folder`: {"train": (images path, labels path), "test": …},
    a part only where both are there.

    Empty if there are none; DataError if one half of a pair is missing, or there are files of two sets.
    Of a file that is there both gzipped and not, the latter is taken.
    """
    sets = {}  # what stands before "train" or "test" in a name → {(part, images or labels): names}
    for name in sorted(os.listdir(folder)):
        match = NAME.match(name)
        if match and not HIDDEN.match(name) and os.path.isfile(os.path.join(folder, name)):
            key = "train" if match["part"].lower() == "train" else "test", match["what"].lower()
            sets.setdefault(match["set"], {}).setdefault(key, []).append(name)
    if len(sets) > 1:
        names = ", ".join(next(iter(files.values()))[0] for files in sets.values())
        raise DataError(f"{folder}: holds IDX files of {len(sets)} sets, such as {names}; put those of one "
                        "set into a folder of their own")
    files = next(iter(sets.values()), {})
    for names in files.values():
        if len({name.lower().removesuffix(".gz") for name in names}) > 1:
            raise DataError(f"{folder}: holds both {names[0]} and {names[1]}; move one of them elsewhere")
    found = {}
    for part in "train", "test":
        pair = [os.path.join(folder, files[part, what][0]) for what in ("images", "labels")
                if (part, what) in files]
        if len(pair) == 1:
            raise DataError(f"{folder}: has {os.path.basename(pair[0])} but not the "
                            f"{'labels' if (part, 'images') in files else 'images'} that belong to it")
        if pair:
            found[part] = tuple(pair)
    return found


def read_idx(path):
    """The array in an IDX file of unsigned bytes, gzipped or not: uint8, shape as the file says."""
    try:
        with open(path, "rb") as file:
            data = file.read()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    if len(data) < 4 or data[:3] != b"\x00\x00\x08" or len(data) < 4 + 4 * data[3]:
        raise DataError(f"{path}: is not an IDX file of bytes (it begins with {data[:4].hex() or 'nothing'})")
    shape = tuple(np.frombuffer(data, ">u4", data[3], 4).tolist())
    start = 4 + 4 * data[3]
    if len(data) - start != int(np.prod(shape)):
        raise DataError(f"{path}: promises {shape} = {int(np.prod(shape))} bytes but holds "
                        f"{len(data) - start}; download it again")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def read_pair(images_path, labels_path):
    """Images uint8 (N, 1, H, W) and labels uint8 (N,) of one part."""
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
        raise DataError(f"{images_path}: images {images.shape} and labels {labels.shape} do not belong "
                        "together")
    return images[:, None], labels


def first_label(labels, names=None):
    """What labels uint8 (N,) count from: 0; or 1, if 1 is the smallest, as of EMNIST's letters,
    unless there are names for 0 as well."""
    return int(labels.min() == 1 and (names is None or len(names) <= labels.max()))


def choose_names(folder, labels, names=None):
    """Names of the classes from first_label to the largest label: `names` if given; the clothes if `folder`
    is called fashion; else the numbers. Raises DataError if names are too few.
    """
    last = int(labels.max())
    first = first_label(labels, names)
    fashion = "fashion" in os.path.basename(os.path.abspath(folder)).lower()
    if names is None and (first, last) == (0, len(FASHION) - 1) and fashion:
        names = FASHION
    if names is None:
        return [str(k) for k in range(first, last + 1)]
    if len(names) <= last - first:
        raise DataError(f"{folder}: {len(names)} class names given, but there is a label {last}")
    return list(names)

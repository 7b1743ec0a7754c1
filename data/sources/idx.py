"""MNIST and Fashion-MNIST: the IDX files that they come in."""

import gzip
import os
import zlib

import numpy as np

from data.errors import DataError

FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker",
           "Bag", "Ankle boot")
_NAMES = {"train": "train", "test": "t10k"}


def find_idx(folder):
    """The IDX files in `folder`: {"train": (images path, labels path), "test": …},
    a part only where both are there.

    Empty if there are none; DataError if one half of a pair is missing.
    """
    found = {}
    for part, prefix in _NAMES.items():
        pair = [_find(folder, f"{prefix}-images", "idx3-ubyte"),
                _find(folder, f"{prefix}-labels", "idx1-ubyte")]
        if all(pair):
            found[part] = tuple(pair)
        elif any(pair):
            raise DataError(f"{folder}: has {os.path.basename(pair[0] or pair[1])} but not the "
                            f"{'labels' if pair[0] else 'images'} that belong to it")
    return found


def _find(folder, stem, kind):
    for name in (f"{stem}-{kind}", f"{stem}-{kind}.gz", f"{stem}.{kind}", f"{stem}.{kind}.gz"):
        if os.path.isfile(os.path.join(folder, name)):
            return os.path.join(folder, name)
    return None


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


def choose_names(folder, labels, names=None):
    """Names of the classes 0..K−1: `names` if given; the clothes if `folder` is called fashion;
    else the numbers.

    K is one more than the largest label. Raises DataError if names are too few.
    """
    count = int(labels.max()) + 1
    fashion = "fashion" in os.path.basename(os.path.abspath(folder)).lower()
    if names is None and count == len(FASHION) and fashion:
        names = FASHION
    if names is None:
        return [str(k) for k in range(count)]
    if len(names) < count:
        raise DataError(f"{folder}: {len(names)} class names given, but there is a label {count - 1}")
    return list(names)

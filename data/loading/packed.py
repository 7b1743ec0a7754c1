"""A batch of raw crops in one piece of memory, so that one copy takes it to a GPU:
the same layout on both sides."""
from collections import namedtuple
from functools import cache
from math import prod

import numpy as np

ALIGN = 64  # bytes: every field starts on a boundary that suits vector loads

Packed = namedtuple("Packed", "images labels top left mirror shift")
Packed.__doc__ = """images uint8 (V, C, crop, crop), not mirrored; labels int32 (N,); of each of the V views
of N images: its corner in the whole image, top and left int32 (V,); whether to mirror it, bool (V,);
its colours' shift, float (V, C)."""


@cache
def _fields(labels, shape, dtype):
    """[(first byte, one past the last, dtype, shape)] in the order of Packed."""
    views = shape[:1]
    fields, start = [], 0
    for kind, size in ((np.uint8, shape), (np.int32, (labels,)), (np.int32, views), (np.int32, views),
                       (np.bool_, views), (dtype, shape[:2])):
        stop = start + prod(size) * np.dtype(kind).itemsize
        fields.append((start, stop, np.dtype(kind), size))
        start = -(-stop // ALIGN) * ALIGN
    return fields


def packed_bytes(labels, shape, dtype):
    """How many bytes a batch of `labels` images takes,
    of which views of `shape` (V, C, crop, crop) are made."""
    return _fields(labels, shape, dtype)[-1][1]


def unpack(memory, labels, shape, dtype):
    """The fields of a batch in `memory`, flat uint8, NumPy's or a GPU's, as views of it.
    `dtype` is the shift's."""
    return Packed(*(memory[start:stop].view(kind).reshape(size)
                    for start, stop, kind, size in _fields(labels, shape, dtype)))

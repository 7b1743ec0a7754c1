"""What happens to an image between file and net, drawn at random: crop, mirror, colour.
data/store/crops.py does it.

The random part is drawn for a whole epoch at once, one row per image, from a counter-based generator keyed by
(seed, epoch). What an image looks like in an epoch therefore depends on seed, epoch and its own index and on
nothing else: not on threads, on the batch it falls into, or on where a resumed run begins.
"""

from collections import namedtuple

import numpy as np

from data.loading.order import COLOUR, CROP, MIRROR, generator
from data.store import crops

COLOUR_STD = 0.1  # of the Gaussian α in the paper's section 4.1

View = namedtuple("View", "top left mirror shift")
View.__doc__ = """Of n images, or of all: crop corner top, left int32 (n,); mirror bool (n,); colour shift
float (n, C), or None for no shift. data.loading.packed.Packed has the same, of a batch."""


def random_views(count, shape, crop, seed, epoch, *, mirror=True, pca=None, crops=True):
    """One random View for each of `count` images of shape (C, H, W), section 4.1.

    The corner is uniform over all (H−crop+1)·(W−crop+1) places, or, without `crops`, that of the central
    crop; a mirror has probability ½; the shift is vectors @ (α · std), α ~ N(0, 0.1),
    one per image (pca: a Colour, or None for no shift).
    """
    _, height, width = shape
    if crops:
        across = width - crop + 1
        place = generator(seed, epoch, CROP).integers((height - crop + 1) * across, size=count)
        top, left = (place // across).astype(np.int32), (place % across).astype(np.int32)
    else:
        top, left = (np.repeat(corner, count) for corner in centre_view(shape, crop)[:2])
    mirrors = np.zeros(count, bool)
    if mirror:
        mirrors = generator(seed, epoch, MIRROR).random(count, dtype=np.float32) < 0.5
    shift = None
    if pca is not None:
        alpha = COLOUR_STD * generator(seed, epoch, COLOUR).standard_normal((count, 3), dtype=np.float32)
        shift = (alpha * pca.std) @ pca.vectors.T
    return View(top, left, mirrors, shift)


def centre_view(shape, crop):
    """The central crop, in which every image is seen: a View of one."""
    return _fixed_views([((shape[1] - crop) // 2, (shape[2] - crop) // 2)], [False])


def ten_views(shape, crop):
    """The paper's ten: top left, top right, bottom left, bottom right, centre,
    and the mirrors of these in that order."""
    bottom, right = shape[1] - crop, shape[2] - crop
    corners = [(0, 0), (0, right), (bottom, 0), (bottom, right), (bottom // 2, right // 2)]
    return _fixed_views(corners * 2, [False] * 5 + [True] * 5)


def _fixed_views(corners, mirror):
    top, left = np.array(corners, np.int32).T.copy()
    return View(top, left, np.array(mirror), None)


def central_crops(raw, mean, crop, dtype=np.float32):
    """Images raw uint8 (N, C, H, W), less the mean (C, H, W) → their central crops (C, crop, crop, N),
    as in validation."""
    count, channels = len(raw), len(mean)
    cuts, out = np.empty((count, channels, crop, crop),
                         np.uint8), np.empty((channels, crop, crop, count), dtype)
    view = [np.repeat(field, count) for field in centre_view(mean.shape, crop)[:3]]
    crops.cut(np.ascontiguousarray(raw), np.arange(count), *view, cuts)
    crops.centre(cuts, mean.astype(dtype), *view, np.zeros((count, channels), dtype), out)
    return out

"""What happens to an image between file and net: crop, mean image, mirror, colour; images end up innermost.

The random part is drawn for a whole epoch at once, one row per image, from a counter-based generator keyed by
(seed, epoch). What an image looks like in an epoch therefore depends on seed, epoch and its own index and on nothing
else: not on threads, on the batch it falls into, or on where a resumed run begins.
"""

from collections import namedtuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from data.order import COLOUR, CROP, MIRROR, generator

STRIP_BYTES = 1 << 19  # float32 pixels of one strip of a batch: with what is made of them, within a core's L2 cache
COLOUR_STD = 0.1  # of the Gaussian α in the paper's section 4.1

View = namedtuple("View", "top left mirror shift")
View.__doc__ = "Of n images: crop corner top, left int64 (n,); mirror bool (n,); colour shift float (n, C), or None."


def random_views(count, shape, crop, seed, epoch, *, mirror=True, pca=None, crops=True):
    """One random View for each of `count` images of shape (C, H, W), section 4.1.

    The corner is uniform over all (H−crop+1)·(W−crop+1) places, or, without `crops`, that of the central crop; a mirror has
    probability ½; the shift is vectors @ (α · std), α ~ N(0, 0.1), one per image (pca: a Colour, or None for no shift).
    """
    _, height, width = shape
    if crops:
        across = width - crop + 1
        place = generator(seed, epoch, CROP).integers((height - crop + 1) * across, size=count)
        top, left = place // across, place % across
    else:
        top, left, _, _ = take(centre_view(shape, crop), count)
    mirrors = generator(seed, epoch, MIRROR).random(count, dtype=np.float32) < 0.5 if mirror else np.zeros(count, bool)
    shift = None
    if pca is not None:
        alpha = COLOUR_STD * generator(seed, epoch, COLOUR).standard_normal((count, 3), dtype=np.float32)
        shift = (alpha * pca.std) @ pca.vectors.T
    return View(top, left, mirrors, shift)


def centre_view(shape, crop):
    """The central crop, as a View of one image."""
    return fixed_view((shape[1] - crop) // 2, (shape[2] - crop) // 2, False)


def ten_views(shape, crop):
    """The paper's ten: top left, top right, bottom left, bottom right, centre, and the mirrors of these in that order."""
    bottom, right = shape[1] - crop, shape[2] - crop
    corners = [(0, 0), (0, right), (bottom, 0), (bottom, right), (bottom // 2, right // 2)]
    return [fixed_view(top, left, mirror) for mirror in (False, True) for top, left in corners]


def fixed_view(top, left, mirror):
    return View(np.array([top]), np.array([left]), np.array([mirror]), None)


def take(view, images):
    """The View of `images` (indices, a slice, or a count of images that share a fixed view)."""
    if isinstance(images, int):
        return View(*(np.repeat(field, images) for field in view[:3]), None)
    return View(*(None if field is None else field[images] for field in view))


def mirror_into(out, pixels):
    """Rows of pixels uint8 (…, W), each contiguous, reversed into `out`."""
    if pixels.shape[-1] % 8:
        out[...] = pixels[..., ::-1]
    else:  # eight at a time: words in reverse order, each with its bytes swapped
        out.view(">u8")[...] = pixels.view("<u8")[..., ::-1]


def cut(raw, view, out, *, mirror):
    """Crops of raw uint8 (n, C, H, W) as View says → out uint8 (n, C, crop, crop); mirrored only if `mirror`."""
    crop = out.shape[-1]
    if not mirror:  # all by one call: a thread that launches kernels meanwhile is hardly interrupted
        out[...] = sliding_window_view(raw, out.shape[1:], axis=(1, 2, 3))[np.arange(len(raw)), 0, view.top, view.left]
        return
    corners = zip(view.top.tolist(), view.left.tolist(), view.mirror.tolist(), strict=True)
    for image, (top, left, flip), place in zip(raw, corners, out, strict=True):
        pixels = image[:, top:top + crop, left:left + crop]
        if flip:
            mirror_into(place, pixels)
        else:
            place[...] = pixels


class Cropper:
    """Turns raw images into crops for one mean image. Holds no state between calls; threads may share it.

    mean: float32 (C, H, W), subtracted at the image's own offset and mirrored with it; crop: the side of the crops.
    """

    def __init__(self, mean, crop, dtype=np.float32):
        self.crop, self.dtype, self.width = crop, dtype, mean.shape[2]
        self.means = np.stack([mean, mean[:, :, ::-1]]).astype(dtype)  # a mirrored crop is a crop of the mirrored mean

    def __call__(self, raw, view, out):
        """raw uint8 (n, C, H, W) seen by View (of n images) → out float (C, crop, crop, n), written in place.

        A strip of rows of one channel of all n images at a time, small enough for the cache: gather u8 windows, subtract
        gathered mean windows, add the shift, transpose. Few NumPy calls on much data each, so the interpreter lock stays free.
        """
        n, channels, crop = *raw.shape[:2], self.crop
        if not n:
            return
        flipped, images, mirror = np.flatnonzero(view.mirror), np.arange(n), view.mirror.astype(np.intp)
        mean_left = np.where(view.mirror, self.width - crop - view.left, view.left)
        shift = None if view.shift is None else view.shift.astype(self.dtype)
        height = max(1, min(crop, STRIP_BYTES // (n * crop * 4)))
        for c in range(channels):
            pixels_at, means_at = (sliding_window_view(planes[:, c], (height, crop), axis=(1, 2))
                                   for planes in (raw, self.means))
            for row in [*range(0, crop - height, height), crop - height]:  # the last may repeat a part of the one before
                pixels = pixels_at[images, view.top + row, view.left]
                if len(flipped):
                    rows = pixels[flipped]
                    turned = np.empty_like(rows)
                    mirror_into(turned, rows)
                    pixels[flipped] = turned
                values = means_at[mirror, view.top + row, mean_left]
                np.subtract(pixels, values, out=values)
                if shift is not None:
                    values += shift[:, c, None, None]
                np.copyto(out[c, row:row + height], values.transpose(1, 2, 0))


def central_crops(raw, mean, crop, dtype=np.float32):
    """Images raw uint8 (n, C, H, W), less the mean (C, H, W) → their central crops (C, crop, crop, n), as in validation."""
    out = np.empty((len(mean), crop, crop, len(raw)), dtype)
    Cropper(mean, crop, dtype)(raw, take(centre_view(mean.shape, crop), len(raw)), out)
    return out

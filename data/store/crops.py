"""Crops of images: compiled loops over pixels, and the system calls that read them.

One call does a whole batch in as few passes over memory as can be.
NumPy would take a dozen calls, each with a pass of its own.

    fd, places, indices  image i begins at byte places[i] of the open file fd; the images meant, int64 (n,)
    top, left, mirror    of every crop: its corner in the whole image, int32 (V·n,), and whether to mirror it,
                         bool (V·n,). Every image may be seen V times: crop v·n + i is one of image indices[i]

All arrays are C-contiguous. Raises ValueError for a crop that does not lie in its image.
"""
import numpy as np
from numba import int32, types, uint64

from data.compiled import compiled

STRIP_BYTES = 1 << 19  # float pixels that wait to be turned: within a core's L2 cache

# of the C library
_pread = types.ExternalFunction("pread", types.intp(types.int32, types.voidptr, types.uintp, types.int64))

# Counters are unsigned where it matters: of a signed index Numba asks whether it is negative,
# and LLVM gives up on vectors.


@compiled
def read(fd, places, indices, out):
    """Images `indices` → out uint8 (n, …). Returns whether all could be read."""
    for n in range(len(indices)):
        if not _read_one(fd, places[indices[n]], out[n].reshape(-1)):
            return False
    return True


@compiled
def read_and_cut(fd, places, indices, image, top, left, mirror, out):
    """As `cut`, of images in a file. Returns whether all could be read.
    image: memory for one, uint8 (C, H, W)."""
    pixels = image.reshape(-1)
    for n in range(len(indices)):
        if not _read_one(fd, places[indices[n]], pixels):
            return False
        for k in range(n, len(out), len(indices)):  # while it is in the cache
            _cut_one(image, top[k], left[k], mirror[k], out[k])
    return True


@compiled
def cut(images, indices, top, left, mirror, out):
    """Crops of images[indices], of uint8 (…, C, H, W) → out uint8 (V·n, C, crop, crop)."""
    for k in range(len(out)):
        _cut_one(images[indices[k % len(indices)]], top[k], left[k], mirror[k], out[k])


def centre(crops, mean, top, left, mirror, shift, out):
    """Crops uint8 (N, C, crop, crop) less the mean image's (C, H, W) at the same place, mirrored,
    plus shift (N, C) → out (C, crop, crop, N). Sections 2 and 4.1.

    mean, shift and out are of one dtype. The crops are not mirrored yet: `mirror` says which are to be.
    """
    rows = STRIP_BYTES // max(1, out[0, 0].nbytes)
    _centre(crops, mean, top, left, mirror, shift, out, max(1, min(rows, out.shape[1])))


@compiled
def _read_one(fd, place, image):
    done = 0
    while done < len(image):  # one call may bring less than it was asked for
        count = _pread(fd, image[done:].ctypes, len(image) - done, place + done)
        if count <= 0:
            return False
        done += count
    return True


@compiled
def _cut_one(image, top, left, mirror, out):
    crop = uint64(out.shape[2])
    if out.shape[0] != image.shape[0] or top < 0 or left < 0 or \
            top + out.shape[1] > image.shape[1] or left + out.shape[2] > image.shape[2]:
        raise ValueError("a crop lies outside its image")  # else memory that is not its own would be read
    for c in range(out.shape[0]):
        for h in range(out.shape[1]):
            pixels, row = image[c, top + h, left:left + out.shape[2]], out[c, h]
            if mirror:
                for w in range(crop):
                    row[crop - uint64(1) - w] = pixels[w]
            else:
                for w in range(crop):
                    row[w] = pixels[w]


@compiled
def _centre(crops, mean, top, left, mirror, shift, out, rows):
    channels, height, crop = out.shape[0], out.shape[1], uint64(out.shape[2])
    for n in range(len(crops)):
        if mean.shape[0] != channels or min(top[n], left[n]) < 0 or \
                top[n] + height > mean.shape[1] or left[n] + out.shape[2] > mean.shape[2]:
            raise ValueError("a crop lies outside the mean image")
    strip = np.empty((rows, len(crops), crop), out.dtype)
    for c in range(channels):
        for start in range(0, height, rows):
            count = min(rows, height - start)
            for n in range(len(crops)):
                s = shift[n, c]
                for h in range(count):
                    pixels, row = crops[n, c, start + h], strip[h, n]
                    average = mean[c, top[n] + start + h, left[n]:left[n] + out.shape[2]]
                    if mirror[n]:
                        for w in range(crop):
                            row[crop - uint64(1) - w] = out.dtype.type(int32(pixels[w])) - average[w] + s
                    else:
                        for w in range(crop):
                            row[w] = out.dtype.type(int32(pixels[w])) - average[w] + s
            for h in range(count):  # images become innermost
                for w in range(out.shape[2]):
                    pixel = out[c, start + h, w]
                    for n in range(len(crops)):
                        pixel[n] = strip[h, n, w]

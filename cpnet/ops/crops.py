"""From bytes to the net's input (section 4.1), the part that is arithmetic on pixels. On the CPU the loader's
threads do it; a GPU is sent the crops' bytes, a quarter of the traffic, with what was drawn for each,
and does it here. Mirroring is free here: it is an address.

    x[c, h, w, n] = images[n, c, h, v] − mean[c, top[n] + h, left[n] + v] + shift[n, c]

with v = w, or crop − 1 − w where mirror[n]: the mean image's own crop subtracted, mirrored,
its colour shifted.
"""
import numpy as np

from cpnet.gpu.kernels import blocks, expect, launch
from cpnet.gpu.memory import empty
from cpnet.gpu.platform import on_gpu

TILE, ROWS = 32, 8  # a GPU block: tiles of 32 columns by 32 images, by 32 × 8 threads


def center_crops(images, mean, top, left, mirror, shift, *, out=None):
    """images uint8 (N, C, crop, crop), mean (C, H, W), top and left int32 (N), mirror bool (N), shift (N, C)
    → x (C, crop, crop, N).

    x, mean and shift are of one dtype. Raises ValueError for a crop from outside the mean image; on a GPU,
    which the CPU would have to wait for, pixels from outside become NaN instead.
    """
    if on_gpu(images):
        return _center_crops_gpu(images, mean, top, left, mirror, shift, out)
    (count, channels, crop, _), (height, width) = images.shape, mean.shape[1:]
    if count and not (0 <= min(top.min(), left.min()) and top.max() <= height - crop
                      and left.max() <= width - crop):
        raise ValueError(f"a crop of {crop} pixels lies outside the mean image of {height}×{width}")
    x = np.empty((channels, crop, crop, count), mean.dtype) if out is None else out
    for n in range(count):
        centred = images[n] - mean[:, top[n]:top[n] + crop, left[n]:left[n] + crop]
        x[..., n] = (centred[..., ::-1] if mirror[n] else centred) + shift[n][:, None, None]
    return x


def _center_crops_gpu(images, mean, top, left, mirror, shift, out):
    (count, channels, crop, _), (height, width) = images.shape, mean.shape[1:]
    x = empty((channels, crop, crop, count), mean.dtype, images) if out is None else out
    expect("center_crops", (count, channels, crop, crop), images=images)
    expect("center_crops", (channels, height, width), mean=mean)
    expect("center_crops", (count,), top=top, left=left, mirror=mirror)
    expect("center_crops", (count, channels), shift=shift)
    expect("center_crops", (channels, crop, crop, count), out=x)
    grid = blocks(crop, TILE), crop, channels * blocks(count, TILE)
    launch(__file__, "center_crops", grid, (TILE, ROWS), images, mean, top, left, mirror, shift, x, count,
           channels, height, width, crop, defines={"TILE": TILE, "ROWS": ROWS})
    return x

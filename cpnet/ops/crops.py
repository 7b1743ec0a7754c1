"""From raw images to the net's input (section 4.1), the part that is arithmetic on pixels: what the loader's threads do on
the CPU, for a GPU that is sent the raw bytes, a quarter of the traffic, and the random draws.

    x[c, h, w, n] = raw[n, c, top[n] + h, left[n] + v] − mean[c, top[n] + h, left[n] + v] + shift[n, c]

with v = w, or crop − 1 − w where mirror[n]: a crop, the mean image's own crop subtracted, mirrored, its colour shifted.
"""
import numpy as np

from cpnet.launch import blocks, empty, expect, launch, on_gpu

TILE, ROWS = 32, 8  # a GPU block: tiles of 32 columns by 32 images, by 32 × 8 threads


def crop_images(raw, mean, top, left, mirror, shift, *, crop, out=None):
    """raw uint8 (N, C, H, W), mean (C, H, W), top and left int32 (N), mirror bool (N), shift (N, C) → x (C, crop, crop, N).

    x, mean and shift are of one dtype. Raises ValueError for a crop that is not inside its image; on a GPU, which the CPU
    would have to wait for, the pixels outside become NaN instead.
    """
    if on_gpu(raw):
        return _crop_images_gpu(raw, mean, top, left, mirror, shift, crop, out)
    images, channels, height, width = raw.shape
    if len(top) and not (0 <= min(top.min(), left.min()) and top.max() <= height - crop and left.max() <= width - crop):
        raise ValueError(f"a crop of {crop} pixels lies outside its image of {height}×{width}")
    x = np.empty((channels, crop, crop, images), mean.dtype) if out is None else out
    for n in range(images):
        rows, cols = slice(top[n], top[n] + crop), slice(left[n], left[n] + crop)
        centred = raw[n, :, rows, cols] - mean[:, rows, cols]
        x[..., n] = (centred[..., ::-1] if mirror[n] else centred) + shift[n][:, None, None]
    return x


def _crop_images_gpu(raw, mean, top, left, mirror, shift, crop, out):
    images, channels, height, width = raw.shape
    x = empty((channels, crop, crop, images), mean.dtype, raw) if out is None else out
    expect("crop_images", (images,), top=top, left=left, mirror=mirror)
    expect("crop_images", (channels, height, width), mean=mean)
    expect("crop_images", (images, channels), shift=shift)
    expect("crop_images", (channels, crop, crop, images), out=x)
    grid = blocks(crop, TILE), crop, channels * blocks(images, TILE)
    launch(__file__, "crop_images", grid, (TILE, ROWS), raw, mean, top, left, mirror, shift, x, images, channels, height,
           width, crop, defines={"TILE": TILE, "ROWS": ROWS})
    return x

"""Pooling (section 3.4): every z×z window, s pixels apart, becomes its largest value, or its mean.

Overlapping when s < z; the paper's nets use z = 3, s = 2. With `ceil`, as in the authors' code, the last
window may hang over the right and lower edge and sees only the pixels inside; without, it must lie inside.
In the paper's own nets every window fits exactly (55 → 27 → 13 → 6), so the two agree.
"""
import numpy as np

from cpnet.gpu.kernels import blocks, expect, launch
from cpnet.gpu.memory import empty
from cpnet.gpu.platform import on_gpu
from cpnet.loops import beside
from cpnet.threads import chunks, parallel

THREADS = 256  # a GPU block's, one number each
BLOCK_BYTES = 1 << 20  # of input a task works on, so that it is read from memory once and then from the cache

loops = beside(__name__)


def pool_size(size, z, s, ceil):
    """Windows along an axis of `size` pixels. Raises ValueError where none fits."""
    if size < z and not ceil:
        raise ValueError(f"a pooling window of {z} pixels does not fit in {size}")
    count = (max(size - z, 0) + (s - 1 if ceil else 0)) // s + 1
    return count - (count > 1 and (count - 1) * s >= size)  # with s > z the last window could start outside


def pool_shape(x_shape, z, s, ceil):
    """The shape (C, P, Q, N) of the output for x (C, H, W, N)."""
    channels, height, width, images = x_shape
    return channels, pool_size(height, z, s, ceil), pool_size(width, z, s, ceil), images


def max_pool_forward(x, *, z=3, s=2, ceil=True, out=None):
    """x (C, H, W, N) → y (C, P, Q, N). Kept for backward: x and y."""
    if on_gpu(x):
        return _forward_gpu("max_pool_forward", x, z, s, ceil, out)
    y = np.empty(pool_shape(x.shape, z, s, ceil), x.dtype) if out is None else out
    parallel(lambda start, stop: loops.max_pool_forward(x[start:stop], z, s, y[start:stop]), _tasks(x))
    return y


def max_pool_backward(d_y, x, y, *, z=3, s=2, out=None):
    """d_y, y (C, P, Q, N), x (C, H, W, N) → d_x: each window's gradient goes to its largest value;
    where windows overlap they add. Of equal values the first in reading order has it."""
    if on_gpu(x):
        expect("max_pool_backward", d_y.shape, y=y)
        return _backward_gpu("max_pool_backward", (d_y, x, y), x.shape, z, s, out)
    d_x = np.empty_like(x) if out is None else out

    def block(start, stop):
        own = slice(start, stop)
        loops.max_pool_backward(d_y[own], x[own], y[own], z, s, d_x[own])

    parallel(block, _tasks(x))
    return d_x


def average_pool_forward(x, *, z=3, s=2, ceil=True, out=None):
    """x (C, H, W, N) → y (C, P, Q, N): the mean over the window's pixels inside the image.
    Kept for backward: nothing."""
    if on_gpu(x):
        return _forward_gpu("average_pool_forward", x, z, s, ceil, out)
    y = np.empty(pool_shape(x.shape, z, s, ceil), x.dtype) if out is None else out
    parallel(lambda start, stop: loops.average_pool_forward(x[start:stop], z, s, y[start:stop]), _tasks(x))
    return y


def average_pool_backward(d_y, x_shape, *, z=3, s=2, out=None):
    """d_y (C, P, Q, N) → d_x (C, H, W, N): each window's gradient is shared evenly by its
    pixels inside the image."""
    if on_gpu(d_y):
        return _backward_gpu("average_pool_backward", (d_y,), x_shape, z, s, out)
    d_x = np.empty(x_shape, d_y.dtype) if out is None else out
    parallel(lambda start, stop: loops.average_pool_backward(d_y[start:stop], z, s, d_x[start:stop]),
             _tasks(d_x))
    return d_x


def _forward_gpu(kernel, x, z, s, ceil, out):
    shape = pool_shape(x.shape, z, s, ceil)
    y = empty(shape, x.dtype, x) if out is None else out
    expect(kernel, shape, out=y)
    _launch(kernel, (x, y), y.shape, x.shape, shape, z, s)
    return y


def _backward_gpu(kernel, arrays, x_shape, z, s, out):
    d_y = arrays[0]
    d_x = empty(x_shape, d_y.dtype, d_y) if out is None else out
    expect(kernel, x_shape, out=d_x)
    _launch(kernel, (*arrays, d_x), x_shape, x_shape, d_y.shape, z, s)
    return d_x


def _launch(kernel, arrays, result_shape, x_shape, y_shape, z, s):
    """A thread for each number of `result_shape`; grid (blocks of a row, rows, channels)."""
    channels, height, width, images = result_shape
    if x_shape[1] * x_shape[2] * images >= 2**31 - THREADS:
        raise ValueError(f"{kernel}: a channel of {x_shape[1:]} has more numbers than the kernel counts, 2³¹")
    grid = blocks(width * images, THREADS), height, channels
    launch(__file__, kernel, grid, THREADS, *arrays, *x_shape[1:3], *y_shape[1:],
           defines={"THREADS": THREADS, "Z": z, "STRIDE": s})


def _tasks(x):
    return chunks(len(x), max(1, BLOCK_BYTES // max(1, x[0].nbytes)))

"""Pooling (section 3.4): every z×z window, s pixels apart, becomes its largest value, or its mean.

Overlapping when s < z; the paper's nets use z = 3, s = 2. With `ceil`, as in the authors' code, the last
window may hang over the right and lower edge and sees only the pixels inside; without, it must lie inside.
In the paper's own nets every window fits exactly (55 → 27 → 13 → 6), so the two agree.

A window's largest value is the largest of its rows' largest values, and its sum the sum of its rows' sums.
So both go first along the columns, (C, H, W, N) → (C, H, Q, N), then along the rows → (C, P, Q, N),
and backward the other way.
"""
import numpy as np

from cpnet.gpu.kernels import blocks, expect, launch
from cpnet.gpu.memory import empty
from cpnet.gpu.platform import on_gpu
from cpnet.threads import chunks, parallel, scratch

THREADS = 256  # a GPU block's, one number each
BLOCK_BYTES = 1 << 20  # of input a task works on, so that it is read from memory once and then from the cache
ROWS, COLS = 1, 2  # axes


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

    def block(start, stop):
        across = _across(x[start:stop], y.shape[COLS])
        _reduce(np.maximum, x[start:stop], across, COLS, z, s)
        _reduce(np.maximum, across, y[start:stop], ROWS, z, s)

    parallel(block, _blocks(x))
    return y


def max_pool_backward(d_y, x, y, *, z=3, s=2, out=None):
    """d_y, y (C, P, Q, N), x (C, H, W, N) → d_x: each window's gradient goes to its largest value;
    where windows overlap they add. Of equal values the first in reading order has it."""
    if on_gpu(x):
        expect("max_pool_backward", d_y.shape, y=y)
        return _backward_gpu("max_pool_backward", (d_y, x, y), x.shape, z, s, out)
    d_x = np.empty_like(x) if out is None else out

    def block(start, stop):
        across = _across(x[start:stop], y.shape[COLS])
        d_across = scratch("pool.d_across", across.shape, across.dtype)
        _reduce(np.maximum, x[start:stop], across, COLS, z, s)
        _to_winner(d_y[start:stop], y[start:stop], across, d_across, ROWS, z, s)
        _to_winner(d_across, across, x[start:stop], d_x[start:stop], COLS, z, s)

    parallel(block, _blocks(x))
    return d_x


def average_pool_forward(x, *, z=3, s=2, ceil=True, out=None):
    """x (C, H, W, N) → y (C, P, Q, N): the mean over the window's pixels inside the image.
    Kept for backward: nothing."""
    if on_gpu(x):
        return _forward_gpu("average_pool_forward", x, z, s, ceil, out)
    y = np.empty(pool_shape(x.shape, z, s, ceil), x.dtype) if out is None else out
    share = _share(x.shape, y.shape, z, s, x.dtype)

    def block(start, stop):
        across = _across(x[start:stop], y.shape[COLS])
        _reduce(np.add, x[start:stop], across, COLS, z, s)
        _reduce(np.add, across, y[start:stop], ROWS, z, s)
        y[start:stop] *= share

    parallel(block, _blocks(x))
    return y


def average_pool_backward(d_y, x_shape, *, z=3, s=2, out=None):
    """d_y (C, P, Q, N) → d_x (C, H, W, N): each window's gradient is shared evenly by its
    pixels inside the image."""
    if on_gpu(d_y):
        return _backward_gpu("average_pool_backward", (d_y,), x_shape, z, s, out)
    d_x = np.empty(x_shape, d_y.dtype) if out is None else out
    share = _share(x_shape, d_y.shape, z, s, d_y.dtype)

    def block(start, stop):
        each = np.multiply(d_y[start:stop], share, out=scratch("pool.rest", d_y[start:stop].shape, d_y.dtype))
        d_across = _across(d_x[start:stop], d_y.shape[COLS])
        _spread(each, d_across, ROWS, z, s)
        _spread(d_across, d_x[start:stop], COLS, z, s)

    parallel(block, _blocks(d_x))
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


def _blocks(x):
    return chunks(len(x), max(1, BLOCK_BYTES // max(1, x[0].nbytes)))


def _across(x, q):
    """Scratch (C, H, Q, N) for what is pooled along the columns only."""
    return scratch("pool.across", (*x.shape[:2], q, x.shape[3]), x.dtype)


def taps(x, count, axis, z, s):
    """For each place of a window along `axis`: x there for every window (a view),
    and the slice of windows that have it."""
    for place in range(min(z, x.shape[axis])):
        at = [slice(None)] * 4
        at[axis] = slice(place, min(place + (count - 1) * s + 1, x.shape[axis]), s)
        tap = x[tuple(at)]
        at[axis] = slice(tap.shape[axis])
        yield tap, tuple(at)


def _reduce(ufunc, x, out, axis, z, s):
    """out = ufunc over the window's places along `axis`."""
    (first, _), *others = taps(x, out.shape[axis], axis, z, s)
    if not others:
        np.copyto(out, first)
    for number, (tap, inside) in enumerate(others):
        if number == 0 and tap.shape == first.shape:
            ufunc(first, tap, out=out)
            continue
        if number == 0:
            np.copyto(out, first)
        ufunc(out[inside], tap, out=out[inside])


def _to_winner(d_y, y, x, d_x, axis, z, s):
    """d_x = d_y, each at the first place of its window along `axis` where x equals y;
    the last place takes what is left."""
    d_x[...] = 0
    rest = scratch("pool.rest", d_y.shape, d_y.dtype)
    np.copyto(rest, d_y)
    both = zip(taps(x, y.shape[axis], axis, z, s), taps(d_x, y.shape[axis], axis, z, s), strict=True)
    for place, ((tap, inside), (d_tap, _)) in enumerate(both):
        if place == z - 1:
            d_tap += rest[inside]
            return
        won = np.equal(tap, y[inside], out=scratch("pool.won", tap.shape, bool))
        share = np.multiply(rest[inside], won, out=scratch("pool.share", tap.shape, d_y.dtype))
        d_tap += share
        rest[inside] -= share


def _spread(d_y, d_x, axis, z, s):
    """d_x = d_y, each at every place of its window along `axis`."""
    d_x[...] = 0
    for d_tap, inside in taps(d_x, d_y.shape[axis], axis, z, s):
        d_tap += d_y[inside]


def _share(x_shape, y_shape, z, s, dtype):
    """(P, Q, 1): one over the number of pixels of each window that lie inside the image."""
    rows, cols = (np.minimum(np.arange(count) * s + z, size) - np.arange(count) * s
                  for count, size in zip(y_shape[1:3], x_shape[1:3], strict=True))
    return (1 / np.outer(rows, cols)).astype(dtype)[:, :, None]

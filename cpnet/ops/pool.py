"""Pooling (section 3.4): every z×z window, s pixels apart, becomes its largest value, or its mean.

Overlapping when s < z; the paper's nets use z = 3, s = 2. With `ceil`, as in the authors' code, the last window may hang over
the right and lower edge and sees only the pixels inside; without, it must lie inside. In the paper's own nets every window
fits exactly (55 → 27 → 13 → 6), so the two agree.
"""
import numpy as np

from cpnet.arrays import chunks, parallel, scratch

BLOCK_BYTES = 1 << 20  # of input a task works on, so that it is read once from memory and nine times from the cache


def pool_size(size, z, s, ceil):
    """Windows along an axis of `size` pixels. Raises ValueError where none fits."""
    if size < z and not ceil:
        raise ValueError(f"a pooling window of {z} pixels does not fit in {size}")
    count = (max(size - z, 0) + (s - 1 if ceil else 0)) // s + 1
    return count - (count > 1 and (count - 1) * s >= size)  # with s > z the last window could start outside


def max_pool_forward(x, *, z=3, s=2, ceil=True, out=None, winner=None):
    """x (C, H, W, N) → y (C, P, Q, N), winner uint8 (C, P, Q, N): z·i + j of the largest value's place (i, j).

    Of equal values the first in reading order wins. Kept for backward: winner. Raises ValueError for z > 16.
    """
    if z > 16:
        raise ValueError(f"a winner's place in a window of {z}×{z} does not fit into a byte")
    shape = _shape(x, z, s, ceil)
    y = np.empty(shape, x.dtype) if out is None else out
    winner = np.empty(shape, np.uint8) if winner is None else winner

    def block(start, stop):
        best, place = y[start:stop], winner[start:stop]
        np.copyto(best, x[start:stop, ::s, ::s][:, :shape[1], :shape[2]])
        place[...] = 0
        for code, value, inside in _taps(x[start:stop], shape, z, s, skip_first=True):
            greater = scratch("pool.greater", value.shape, np.uint8)
            np.greater(value, best[inside], out=greater.view(bool))
            greater *= np.uint8(code)
            np.maximum(place[inside], greater, out=place[inside])  # codes rise, so the last to win has the largest
            np.maximum(best[inside], value, out=best[inside])

    parallel(block, _blocks(x))
    return y, winner


def max_pool_backward(d_y, winner, x_shape, *, z=3, s=2, out=None):
    """d_y, winner (C, P, Q, N) → d_x (C, H, W, N): each window's gradient goes to its winner; windows that overlap add."""
    d_x = np.empty(x_shape, d_y.dtype) if out is None else out

    def block(start, stop):
        d_x[start:stop] = 0
        for code, gradient, inside in _taps(d_x[start:stop], d_y.shape, z, s):
            won = scratch("pool.won", gradient.shape, bool)
            share = scratch("pool.share", gradient.shape, d_y.dtype)
            np.equal(winner[start:stop][inside], code, out=won)
            gradient += np.multiply(d_y[start:stop][inside], won, out=share)

    parallel(block, _blocks(d_x))
    return d_x


def average_pool_forward(x, *, z=3, s=2, ceil=True, out=None):
    """x (C, H, W, N) → y (C, P, Q, N): the mean over the window's pixels inside the image. Kept for backward: nothing."""
    shape = _shape(x, z, s, ceil)
    y = np.empty(shape, x.dtype) if out is None else out
    share = _share(shape, x.shape, z, s, x.dtype)

    def block(start, stop):
        total = y[start:stop]
        total[...] = 0
        for _, value, inside in _taps(x[start:stop], shape, z, s):
            total[inside] += value
        total *= share

    parallel(block, _blocks(x))
    return y


def average_pool_backward(d_y, x_shape, *, z=3, s=2, out=None):
    """d_y (C, P, Q, N) → d_x (C, H, W, N): each window's gradient is shared evenly by its pixels inside the image."""
    d_x = np.empty(x_shape, d_y.dtype) if out is None else out
    share = _share(d_y.shape, x_shape, z, s, d_y.dtype)

    def block(start, stop):
        d_x[start:stop] = 0
        each = np.multiply(d_y[start:stop], share, out=scratch("pool.share", d_y[start:stop].shape, d_y.dtype))
        for _, gradient, inside in _taps(d_x[start:stop], d_y.shape, z, s):
            gradient += each[inside]

    parallel(block, _blocks(d_x))
    return d_x


def _shape(x, z, s, ceil):
    channels, height, width, images = x.shape
    return channels, pool_size(height, z, s, ceil), pool_size(width, z, s, ceil), images


def _blocks(x):
    return chunks(len(x), max(1, BLOCK_BYTES // max(1, x[0].nbytes)))


def _taps(x, y_shape, z, s, skip_first=False):
    """For each place (i, j) of a window: its code, x at that place of every window (a view), and the windows it is in."""
    _, height, width, _ = x.shape
    _, p, q, _ = y_shape
    for i in range(z):
        for j in range(z):
            if i < height and j < width and not (skip_first and i == j == 0):
                value = x[:, i::s, j::s][:, :p, :q]
                yield z * i + j, value, (slice(None), slice(value.shape[1]), slice(value.shape[2]))


def _share(y_shape, x_shape, z, s, dtype):
    """(P, Q, 1): one over the number of pixels of each window that lie inside the image."""
    rows, cols = (np.minimum(np.arange(count) * s + z, size) - np.arange(count) * s
                  for count, size in zip(y_shape[1:3], x_shape[1:3], strict=True))
    return (1 / np.outer(rows, cols)).astype(dtype)[:, :, None]

"""Local response normalization (section 3.3) and the max pooling right above it (3.4), as one operation.

    b = lrn(x),   y = max_pool(b)

b is as large as the activations, four times as large as y. Here it never exists: forward keeps the number
of each window's winner instead, a byte, and backward computes s again (`lrn_pool.cu`, `lrn_loops.py`).
"""
import numpy as np

from cpnet.gpu.kernels import blocks, expect, launch
from cpnet.gpu.memory import empty
from cpnet.gpu.platform import on_gpu
from cpnet.ops import lrn, pool
from cpnet.threads import chunks, parallel

IMAGES, TILE = 32, 2  # a GPU block's: images, and windows along both axes
TASKS = 8  # that the CPU's work is cut into, at least
PART = 32  # maps that a GPU thread walks through in forward, at least
LARGEST = 3, 2  # z and s: a GPU thread has so many pixels in registers


def fits(z, s):
    """Whether the kernels take windows of z×z pixels, s pixels apart."""
    return z <= LARGEST[0] and s <= LARGEST[1]


def lrn_pool_forward(x, *, z=3, s=2, ceil=True, out=None, winner=None, **constants):
    """x (C, H, W, N) → (y (C, P, Q, N), winner uint8 (C, P, Q, N)). Kept for backward: x and winner.

    winner: i·z + j for the pixel in row i and column j of the window; of equal values the first in reading
    order. `constants` and their errors: see lrn_forward.
    Raises ValueError where no window fits, and unless `fits(z, s)`.
    """
    _check(x, z, s)
    if on_gpu(x):
        return _forward_gpu(x, z, s, ceil, out, winner, **constants)
    y = np.empty(pool.pool_shape(x.shape, z, s, ceil), x.dtype) if out is None else out
    winner = np.empty(y.shape, np.uint8) if winner is None else winner
    numbers, groups = _numbers(x, **constants)
    x_g, y_g, winner_g = lrn.by_group(x, groups), _by_group(y, groups), _by_group(winner, groups)

    def block(g, start, stop):
        lrn.loops.lrn_pool_forward(x_g[g], *numbers, z, s, x.shape[2], start, stop, y_g[g], winner_g[g])

    parallel(block, _tasks(y.shape[1], groups))
    return y, winner


def lrn_pool_backward(d_y, x, winner, *, z=3, s=2, relu=False, out=None, **constants):
    """d_y, winner (C, P, Q, N), x (C, H, W, N) → d_x: each window's gradient goes to its winner;
    lrn_backward does the rest.

    With `relu`, x being a ReLU's output, d_x is 0 where x is not above 0: the ReLU's gradient as well.
    """
    _check(x, z, s)
    if on_gpu(x):
        return _backward_gpu(d_y, x, winner, z, s, relu, out, **constants)
    d_x = np.empty_like(x) if out is None else out
    numbers, groups = _numbers(x, **constants)
    x_g, d_x_g = lrn.by_group(x, groups), lrn.by_group(d_x, groups)
    d_y_g, winner_g = _by_group(d_y, groups), _by_group(winner, groups)

    def block(g, start, stop):
        lrn.loops.lrn_pool_backward(d_y_g[g], winner_g[g], x_g[g], *numbers, z, s, x.shape[2], relu,
                                    start, stop, d_x_g[g])

    parallel(block, _tasks(x.shape[1], groups))
    return d_x


def _numbers(x, *, k=2.0, n=5, alpha=1e-4, beta=0.75, groups=1):
    """(the loops' constants, groups)"""
    lrn.check(x, n, groups)
    return lrn.constants(x.dtype, k, n, alpha, beta), groups


def _by_group(maps, groups):
    """(C, P, Q, N) as (groups, C/groups, P, Q, N), the same memory."""
    return maps.reshape(groups, -1, *maps.shape[1:], copy=False)


def _tasks(rows, groups):
    """(group, first and last row) of each task."""
    return [(g, *run) for g in range(groups) for run in chunks(rows, -(-rows * groups // TASKS))]


def _check(x, z, s):
    if not fits(z, s):
        raise ValueError(f"lrn_pool takes windows of {LARGEST[0]} pixels at most, {LARGEST[1]} apart at "
                         f"most, not {z} and {s}")
    if x[0].size >= 2**31:
        raise ValueError(f"lrn_pool: a channel of {x.shape[1:]} has more numbers than the kernel counts, 2³¹")


def _forward_gpu(x, z, s, ceil, out, winner, *, k=2.0, n=5, alpha=1e-4, beta=0.75, groups=1):
    lrn.check(x, n, groups)
    shape = pool.pool_shape(x.shape, z, s, ceil)
    y = empty(shape, x.dtype, x) if out is None else out
    winner = empty(shape, np.uint8, x) if winner is None else winner
    expect("lrn_pool_forward", shape, out=y, winner=winner)
    maps = len(x) // groups
    parts = max(1, maps // PART)
    _launch("lrn_pool_forward", (x, y, winner, maps, parts), groups * parts, x, shape, z, s, n,
            (k, alpha, beta))
    return y, winner


def _backward_gpu(d_y, x, winner, z, s, relu, out, *, k=2.0, n=5, alpha=1e-4, beta=0.75, groups=1):
    lrn.check(x, n, groups)
    d_x = empty(x.shape, x.dtype, x) if out is None else out
    expect("lrn_pool_backward", x.shape, out=d_x)
    expect("lrn_pool_backward", d_y.shape, winner=winner)
    _launch("lrn_pool_backward", (d_y, winner, x, d_x, len(x) // groups), groups, x, d_y.shape, z, s, n,
            (k, alpha, beta), relu)
    return d_x


def _launch(kernel, first, depth, x, y_shape, z, s, n, constants, *flags):
    """A thread for each window of y in forward; in backward for each s×s pixels,
    some of which may begin no window."""
    _, height, width, images = x.shape
    down, across = y_shape[1:3] if kernel == "lrn_pool_forward" else (blocks(height, s), blocks(width, s))
    grid = blocks(images, IMAGES) * blocks(across, TILE), blocks(down, TILE), depth
    launch(__file__, kernel, grid, (IMAGES, TILE, TILE), *first, height, width, *y_shape[1:],
           *flags, *constants,
           defines={"IMAGES": IMAGES, "TILE": TILE, "Z": z, "STRIDE": s, **lrn.defines(n, constants[2])})

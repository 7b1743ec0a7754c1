"""Local response normalization (section 3.3).

    b[c] = a[c] / s[c]**β,      s[c] = k + α · Σ a[j]²,      j from max(0, c − n/2) to min(C − 1, c + n/2)

at every pixel (y, x) of every image: a map's activity is damped by its n neighbours', c counting the maps of
one column. The paper's constants: k = 2, n = 5, α = 1e-4, β = 0.75.
(PyTorch, Caffe and the authors' own code divide α by n; here α is the formula's.)
"""
import numpy as np

from cpnet.gpu.kernels import blocks, expect, launch
from cpnet.gpu.memory import empty
from cpnet.gpu.platform import on_gpu
from cpnet.loops import beside
from cpnet.threads import chunks, parallel

THREADS = 128  # a GPU block's, one pixel each
PIXELS = 1 << 13  # pixels (of all images) of a task

loops = beside(__name__)


def lrn_forward(x, *, k=2.0, n=5, alpha=1e-4, beta=0.75, groups=1, out=None):
    """x (C, H, W, N) → y (C, H, W, N). Kept for backward: x.

    `groups` columns of C/groups maps each are normalised by themselves. Raises ValueError for an even n
    (n/2 on both sides of a map and the map itself are n maps only when n is odd) and for C
    not divisible by groups.
    """
    check(x, n, groups)
    if on_gpu(x):
        return _lrn_forward_gpu(x, k, n, alpha, beta, groups, out)
    y = np.empty_like(x) if out is None else out
    x_g, y_g = by_group(x, groups), by_group(y, groups)
    numbers = constants(x.dtype, k, n, alpha, beta)
    parallel(lambda g, start, stop: loops.lrn_forward(x_g[g], *numbers, start, stop, y_g[g]), _tasks(x_g))
    return y


def lrn_backward(d_y, x, *, k=2.0, n=5, alpha=1e-4, beta=0.75, groups=1, out=None):
    """d_y, x (C, H, W, N) → d_x (C, H, W, N). `out` may be d_y itself.

    With b for y, a for x, and d_ for the loss's derivative by each:
    a[c] reaches the loss through every b[j] whose window contains it, so

        d_a[c] = Σ d_b[j] · ∂b[j]/∂a[c],      b[j] = a[j] · s[j]^−β

    The product rule gives ∂b[j]/∂a[c] two terms.
    In the first a[c] is the numerator, which is so for j = c alone:

        s[c]^−β

    In the second it is one of the squares in s[j], for every j within n/2 of c:  ∂s[j]/∂a[c] = 2α · a[c],  so

        a[j] · (−β) · s[j]^(−β−1) · 2α · a[c]

    Together, with what does not depend on j in front of the sum:

        d_a[c] = d_b[c] · s[c]^−β  −  2αβ · a[c] · Σ d_b[j] · a[j] · s[j]^(−β−1)

    over the same window as forward's: j's window contains c exactly when c's contains j.
    s is computed again: that is cheaper than a second array of the activations' size to write and read.
    """
    check(x, n, groups)
    if on_gpu(x):
        return _lrn_backward_gpu(d_y, x, k, n, alpha, beta, groups, out)
    d_x = np.empty_like(x) if out is None else out
    x_g, d_y_g, d_x_g = (by_group(array, groups) for array in (x, d_y, d_x))
    numbers = constants(x.dtype, k, n, alpha, beta)
    parallel(lambda g, start, stop: loops.lrn_backward(d_y_g[g], x_g[g], *numbers, start, stop, d_x_g[g]),
             _tasks(x_g))
    return d_x


def constants(dtype, k, n, alpha, beta):
    """As the loops take them: in the arrays' own dtype."""
    return dtype.type(k), n, dtype.type(alpha), dtype.type(beta)


def _lrn_forward_gpu(x, k, n, alpha, beta, groups, out):
    y = empty(x.shape, x.dtype, x) if out is None else out
    expect("lrn_forward", x.shape, out=y)
    maps, pixels = len(x) // groups, x[0].size
    launch(__file__, "lrn_forward", (blocks(pixels, THREADS), groups), THREADS, x, y, maps, pixels,
           k, alpha, beta, defines={"THREADS": THREADS, **defines(n, beta)})
    return y


def _lrn_backward_gpu(d_y, x, k, n, alpha, beta, groups, out):
    d_x = empty(x.shape, x.dtype, x) if out is None else out
    expect("lrn_backward", x.shape, d_y=d_y, out=d_x)
    maps, pixels = len(x) // groups, x[0].size
    launch(__file__, "lrn_backward", (blocks(pixels, THREADS), groups), THREADS, d_y, x, d_x, maps, pixels,
           k, alpha, beta, defines={"THREADS": THREADS, **defines(n, beta)})
    return d_x


def defines(n, beta):
    """The macros of lrn.cuh."""
    return {"WINDOW": n, "THREE_QUARTERS": int(beta == 0.75)}


def check(x, n, groups):
    """Raises ValueError for an even n and for maps that `groups` cannot share."""
    if n % 2 == 0:
        raise ValueError(f"local response normalization needs an odd n, not {n}")
    if len(x) % groups:
        raise ValueError(f"{len(x)} maps cannot be shared by {groups} columns")


def by_group(x, groups):
    """(C, H, W, N) as (groups, C/groups, H·W·N), the same memory.
    Raises ValueError where x is not contiguous."""
    return x.reshape(groups, len(x) // groups, -1, copy=False)


def _tasks(x_g):
    return [(g, *run) for g in range(len(x_g)) for run in chunks(x_g.shape[2], PIXELS)]

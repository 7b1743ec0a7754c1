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
from cpnet.threads import chunks, parallel, scratch

THREADS = 128  # a GPU block's, one pixel each
# pixels (of all images) of a block: with 48 to 128 maps its few arrays stay in a core's own cache
PIXELS = 2048


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
    x_g, y_g = _by_group(x, groups), _by_group(y, groups)

    def block(g, start, stop):
        a = x_g[g, :, start:stop]
        s = _scale(a, k, n, alpha)
        np.divide(a, _power(s, beta), out=y_g[g, :, start:stop])

    parallel(block, _blocks(x_g))
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
    x_g, d_y_g, d_x_g = (_by_group(array, groups) for array in (x, d_y, d_x))

    def block(g, start, stop):
        a, d_b = x_g[g, :, start:stop], d_y_g[g, :, start:stop]
        s = _scale(a, k, n, alpha)
        padded, inner = _padded(a, n)
        direct = scratch("lrn.direct", a.shape, a.dtype)
        power = _power(s, beta)
        np.divide(d_b, power, out=direct)
        np.multiply(direct, a, out=inner)
        np.divide(inner, s, out=inner)
        total = _window_sum(padded, n, out=power)
        total *= a
        total *= -2 * alpha * beta
        np.add(direct, total, out=d_x_g[g, :, start:stop])

    parallel(block, _blocks(x_g))
    return d_x


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


def _by_group(x, groups):
    """(C, H, W, N) as (groups, C/groups, H·W·N), the same memory.
    Raises ValueError where x is not contiguous."""
    return x.reshape(groups, len(x) // groups, -1, copy=False)


def _blocks(x_g):
    return [(g, *run) for g in range(len(x_g)) for run in chunks(x_g.shape[2], PIXELS)]


def _padded(a, n):
    """Scratch with n/2 rows of zeros above and below a's rows, and the rows between them."""
    half = n // 2
    padded = scratch("lrn.padded", (len(a) + 2 * half, a.shape[1]), a.dtype)
    padded[:half] = 0
    padded[half + len(a):] = 0
    return padded, padded[half:half + len(a)]


def _window_sum(padded, n, out):
    """out[c] = Σ padded[c … c + n − 1], by sums of pairs: for n = 5 three additions instead of four."""
    maps = len(out)
    if n == 1:
        np.copyto(out, padded)
        return out
    pairs = np.add(padded[:-1], padded[1:], out=scratch("lrn.pairs", padded[1:].shape, padded.dtype))
    np.add(pairs[:maps], padded[n - 1:], out=out)
    for shift in range(2, n - 1, 2):
        out += pairs[shift:shift + maps]
    return out


def _scale(a, k, n, alpha):
    """s of the formula, in scratch."""
    padded, inner = _padded(a, n)
    np.multiply(a, a, out=inner)
    s = _window_sum(padded, n, out=scratch("lrn.scale", a.shape, a.dtype))
    s *= alpha
    s += k
    return s


def _power(s, beta):
    """s^β in scratch; for the paper's β = 3/4 by two square roots, several times faster than a power."""
    power = scratch("lrn.power", s.shape, s.dtype)
    if beta != 0.75:
        return np.power(s, beta, out=power)
    np.sqrt(s, out=power)
    root = np.sqrt(power, out=scratch("lrn.root", s.shape, s.dtype))
    return np.multiply(power, root, out=power)

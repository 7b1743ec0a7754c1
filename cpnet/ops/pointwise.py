"""Nonlinearities, one neuron at a time (section 3.1): f(x) = max(0, x), and the tanh that it is compared
with; the sign of a binary code (section 6.1); and the sum of two devices' gradients.

ReLU and tanh are defined by their output, so forward may write over x and backward over d_y.
"""
import numpy as np

from cpnet.gpu.kernels import blocks, expect, launch
from cpnet.gpu.memory import empty
from cpnet.gpu.platform import on_gpu
from cpnet.loops import beside
from cpnet.threads import chunks, parallel

BLOCK = 1 << 16  # numbers a task works on
THREADS = 256  # a GPU block's, 16 bytes each

loops = beside(__name__)


def relu_forward(x, *, out=None):
    """x → y = max(0, x), any shape. Kept for backward: y."""
    if on_gpu(x):
        return _gpu("relu_forward", x, out=out)
    return in_place(loops.relu_forward, x, out=out)


def relu_backward(d_y, y, *, out=None):
    """d_y, y → d_x = d_y where y > 0, else 0."""
    if on_gpu(d_y):
        return _gpu("relu_backward", d_y, y, out=out)
    return in_place(loops.relu_backward, d_y, y, out=out)


def tanh_forward(x, *, out=None):
    """x → y = tanh(x), any shape. Kept for backward: y."""
    if on_gpu(x):
        return _gpu("tanh_forward", x, out=out)
    return in_place(lambda run: np.tanh(run, out=run), x, out=out)  # NumPy's is one pass, of vectors


def tanh_backward(d_y, y, *, out=None):
    """d_y, y → d_x = d_y · (1 − y²)."""
    if on_gpu(d_y):
        return _gpu("tanh_backward", d_y, y, out=out)
    return in_place(loops.tanh_backward, d_y, y, out=out)


def sign(x, *, out=None):
    """x → 1 where x > 0, else −1, any shape.
    Its slope is 0: backward takes that of tanh, which it is the limit of."""
    if on_gpu(x):
        return _gpu("sign", x, out=out)
    return in_place(loops.sign, x, out=out)


def add(a, b, *, out=None):
    """a, b of one shape → a + b. May be written over either."""
    if on_gpu(a):
        return _gpu("add", a, b, out=out)
    return np.add(a, b, out=out)


def in_place(loop, x, *others, out):
    """loop(x, *others) over runs of the flattened arrays, which are contiguous and of one shape.
    It works in place, on `out` (default: a new array), which x is copied to if it is another."""
    out = np.empty_like(x) if out is None else out
    arrays = [array.reshape(-1, copy=False) for array in (out, x, *others)]

    def run(start, stop):
        own, of_x, *of_others = (array[start:stop] for array in arrays)
        if out is not x:
            np.copyto(own, of_x)
        loop(own, *of_others)

    parallel(run, chunks(out.size, BLOCK))
    return out


def _gpu(kernel, *arrays, out):
    """Launch a kernel of pointwise.cu: (array, …, result, count)."""
    out = empty(arrays[0].shape, arrays[0].dtype, arrays[0]) if out is None else out
    expect(kernel, arrays[0].shape, argument=arrays[-1], out=out)
    grid = blocks(out.nbytes, 16 * THREADS)
    launch(__file__, kernel, grid, THREADS, *arrays, out, out.size, defines={"THREADS": THREADS})
    return out

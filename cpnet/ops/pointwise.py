"""Nonlinearities, one neuron at a time (section 3.1): f(x) = max(0, x), and the tanh that it is compared
with; the sign of a binary code (section 6.1); and the sum of two devices' gradients.

ReLU and tanh are defined by their output, so forward may write over x and backward over d_y.
"""
import numpy as np

from cpnet.gpu.kernels import blocks, expect, launch
from cpnet.gpu.memory import empty
from cpnet.gpu.platform import on_gpu
from cpnet.threads import chunks, parallel, scratch

BLOCK = 1 << 16  # numbers a task works on
THREADS = 256  # a GPU block's, 16 bytes each


def relu_forward(x, *, out=None):
    """x → y = max(0, x), any shape. Kept for backward: y."""
    if on_gpu(x):
        return _gpu("relu_forward", x, out=out)
    y = np.empty_like(x) if out is None else out
    _flat(lambda a, b: np.maximum(a, 0, out=b), x, y)
    return y


def relu_backward(d_y, y, *, out=None):
    """d_y, y → d_x = d_y where y > 0, else 0."""
    if on_gpu(d_y):
        return _gpu("relu_backward", d_y, y, out=out)
    d_x = np.empty_like(d_y) if out is None else out

    def body(gradient, value, result):
        positive = np.greater(value, 0, out=scratch("pointwise.positive", value.shape, bool))
        np.multiply(gradient, positive, out=result)

    _flat(body, d_y, y, d_x)
    return d_x


def tanh_forward(x, *, out=None):
    """x → y = tanh(x), any shape. Kept for backward: y."""
    if on_gpu(x):
        return _gpu("tanh_forward", x, out=out)
    y = np.empty_like(x) if out is None else out
    _flat(lambda a, b: np.tanh(a, out=b), x, y)
    return y


def tanh_backward(d_y, y, *, out=None):
    """d_y, y → d_x = d_y · (1 − y²)."""
    if on_gpu(d_y):
        return _gpu("tanh_backward", d_y, y, out=out)
    d_x = np.empty_like(d_y) if out is None else out

    def body(gradient, value, result):
        slope = np.multiply(value, value, out=scratch("pointwise.slope", value.shape, value.dtype))
        np.multiply(gradient, np.subtract(1, slope, out=slope), out=result)

    _flat(body, d_y, y, d_x)
    return d_x


def sign(x, *, out=None):
    """x → 1 where x > 0, else −1, any shape.
    Its slope is 0: backward takes that of tanh, which it is the limit of."""
    if on_gpu(x):
        return _gpu("sign", x, out=out)
    y = np.empty_like(x) if out is None else out

    def body(value, result):
        np.greater(value, 0, out=result)
        result *= 2
        result -= 1

    _flat(body, x, y)
    return y


def add(a, b, *, out=None):
    """a, b of one shape → a + b. May be written over either."""
    if on_gpu(a):
        return _gpu("add", a, b, out=out)
    return np.add(a, b, out=out)


def _flat(body, *arrays):
    """Apply `body` to runs of the flattened arrays, which are contiguous and of one shape."""
    flat = [array.reshape(-1, copy=False) for array in arrays]
    parallel(lambda start, stop: body(*(array[start:stop] for array in flat)), chunks(flat[0].size, BLOCK))


def _gpu(kernel, *arrays, out):
    """Launch a kernel of pointwise.cu: (array, …, result, count)."""
    out = empty(arrays[0].shape, arrays[0].dtype, arrays[0]) if out is None else out
    expect(kernel, arrays[0].shape, argument=arrays[-1], out=out)
    grid = blocks(out.nbytes, 16 * THREADS)
    launch(__file__, kernel, grid, THREADS, *arrays, out, out.size, defines={"THREADS": THREADS})
    return out

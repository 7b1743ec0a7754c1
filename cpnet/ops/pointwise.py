"""Nonlinearities, one neuron at a time (section 3.1): f(x) = max(0, x), and the tanh that it is compared with.

Both are defined by their output, so forward may write over x and backward over d_y.
"""
import numpy as np

from cpnet.arrays import chunks, parallel, scratch

BLOCK = 1 << 16  # numbers a task works on


def relu_forward(x, *, out=None):
    """x → y = max(0, x), any shape. Kept for backward: y."""
    y = np.empty_like(x) if out is None else out
    _flat(lambda a, b: np.maximum(a, 0, out=b), x, y)
    return y


def relu_backward(d_y, y, *, out=None):
    """d_y, y → d_x = d_y where y > 0, else 0."""
    d_x = np.empty_like(d_y) if out is None else out

    def body(gradient, value, result):
        positive = np.greater(value, 0, out=scratch("pointwise.positive", value.shape, bool))
        np.multiply(gradient, positive, out=result)

    _flat(body, d_y, y, d_x)
    return d_x


def tanh_forward(x, *, out=None):
    """x → y = tanh(x), any shape. Kept for backward: y."""
    y = np.empty_like(x) if out is None else out
    _flat(lambda a, b: np.tanh(a, out=b), x, y)
    return y


def tanh_backward(d_y, y, *, out=None):
    """d_y, y → d_x = d_y · (1 − y²)."""
    d_x = np.empty_like(d_y) if out is None else out

    def body(gradient, value, result):
        slope = np.multiply(value, value, out=scratch("pointwise.slope", value.shape, value.dtype))
        np.multiply(gradient, np.subtract(1, slope, out=slope), out=result)

    _flat(body, d_y, y, d_x)
    return d_x


def _flat(body, *arrays):
    """Apply `body` to runs of the flattened arrays, which are contiguous and of one shape."""
    flat = [array.reshape(-1, copy=False) for array in arrays]
    parallel(lambda start, stop: body(*(array[start:stop] for array in flat)), chunks(flat[0].size, BLOCK))

"""Fully-connected layers: y = W x + b for every image, images as columns."""
import numpy as np

from cpnet.arrays import chunks, parallel
from cpnet.launch import blocks, empty, expect, launch, matmul, on_gpu

ROWS = 8  # outputs of a GPU block, a warp each
PARTS = 8  # tasks that a matrix product is cut into, by rows of its result


def linear_forward(x, w, b, *, out=None):
    """x (inputs, N), w (outputs, inputs), b (outputs) → y (outputs, N). Kept for backward: x."""
    if w.shape[1] != len(x):
        raise ValueError(f"weights {w.shape} do not fit {len(x)} inputs")
    if on_gpu(x):
        return _linear_forward_gpu(x, w, b, out)
    y = np.empty((len(w), x.shape[1]), x.dtype) if out is None else out

    def block(start, stop):
        np.matmul(w[start:stop], x, out=y[start:stop])
        y[start:stop] += b[start:stop, None]

    parallel(block, _parts(len(w)))
    return y


def _linear_forward_gpu(x, w, b, out):
    y = empty((len(w), x.shape[1]), x.dtype, x) if out is None else out
    expect("add_bias", (len(w),), b=b)
    matmul(w, x, y)
    launch(__file__, "add_bias", blocks(len(w), ROWS), (32, ROWS), y, b, *y.shape, defines={"ROWS": ROWS})
    return y


def linear_backward(d_y, x, w, d_w, d_b, *, input_gradient=True, out=None):
    """d_y (outputs, N) → d_x = Wᵀ d_y (inputs, N), or None without `input_gradient`. Assigns d_w = d_y xᵀ and d_b = Σ d_y."""
    if on_gpu(x):
        return _linear_backward_gpu(d_y, x, w, d_w, d_b, input_gradient, out)

    def weights(start, stop):
        np.matmul(d_y[start:stop], x.T, out=d_w[start:stop])
        np.sum(d_y[start:stop], axis=1, out=d_b[start:stop])

    parallel(weights, _parts(len(w)))
    if not input_gradient:
        return None
    d_x = np.empty_like(x) if out is None else out
    parallel(lambda start, stop: np.matmul(w[:, start:stop].T, d_y, out=d_x[start:stop]), _parts(len(x)))
    return d_x


def _linear_backward_gpu(d_y, x, w, d_w, d_b, input_gradient, out):
    expect("bias_gradient", (len(w),), d_b=d_b)
    matmul(d_y, x.T, d_w)
    launch(__file__, "bias_gradient", blocks(len(w), ROWS), (32, ROWS), d_y, d_b, *d_y.shape, defines={"ROWS": ROWS})
    if not input_gradient:
        return None
    d_x = empty(x.shape, x.dtype, x) if out is None else out
    matmul(w.T, d_y, d_x)
    return d_x


def _parts(rows):
    return chunks(rows, max(1, -(-rows // PARTS)))

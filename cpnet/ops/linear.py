"""Fully-connected layers: y = W x + b for every image, images as columns.

On a GPU that is a convolution over one pixel, by the same kernels, so that no library is needed.
"""
import numpy as np

from cpnet.gpu.memory import empty
from cpnet.gpu.platform import on_gpu
from cpnet.ops.conv import launches
from cpnet.threads import chunks, parallel

PARTS = 8  # tasks that a matrix product is cut into, by rows of its result
PIXEL = 1, (0, 0), 1  # stride, pad, groups of that convolution


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


def linear_backward(d_y, x, w, d_w, d_b, *, input_gradient=True, out=None):
    """d_y (outputs, N) → d_x = Wᵀ d_y (inputs, N), or None without `input_gradient`.
    Assigns d_w = d_y xᵀ and d_b = Σ d_y."""
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


def _linear_forward_gpu(x, w, b, out):
    y = empty((len(w), x.shape[1]), x.dtype, x) if out is None else out
    launches.forward(_maps(x), _filters(w), b, _maps(y).shape, *PIXEL, relu=False, out=_maps(y))
    return y


def _linear_backward_gpu(d_y, x, w, d_w, d_b, input_gradient, out):
    d_x = out if out is not None or not input_gradient else empty(x.shape, x.dtype, x)
    launches.backward(_maps(d_y), _maps(x), _filters(w), _filters(d_w), d_b, _maps(d_y).shape,
                      *PIXEL, relu_y=None,
                      input_gradient=input_gradient, out=_maps(d_x) if input_gradient else None)
    return d_x if input_gradient else None


def _maps(features):
    """(features, N) as maps of one pixel (C, 1, 1, N)."""
    return features.reshape(len(features), 1, 1, -1)


def _filters(w):
    """(outputs, inputs) as filters (F, C, 1, 1)."""
    return w.reshape(*w.shape, 1, 1)


def _parts(rows):
    return chunks(rows, max(1, -(-rows // PARTS)))

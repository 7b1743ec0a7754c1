"""Convolution (sections 3.2 and 3.5), strictly a correlation, as everywhere in this field.

    y[f, p, q, n] = b[f] + Σ w[f, c, r, s] · x[c, p·stride + r − before, q·stride + s − before, n]
                           over c, r, s

with zeros outside the image. `pad` is (before, after): rows and columns of zeros added above and left,
below and right. The paper's first layer turns 224 pixels into 55 with pad (0, 3): (224 + 3 − 11) / 4 + 1.
With `groups` columns, the filters of group g read only the channels of group g.

On a CPU it is computed as matrix products in one of two ways: directly (lines.py), or with 2.8 to 4 times
fewer multiplications (winograd.py).
"""
import numpy as np

from cpnet import precision
from cpnet.gpu.platform import on_gpu
from cpnet.loops import beside
from cpnet.ops.conv import launches, lines, winograd
from cpnet.threads import chunks, parallel

TASKS = 8  # of the bias's gradient, at least

loops = beside("cpnet.ops.conv.passes")


def conv_shape(x_shape, w_shape, stride, pad):
    """The shape (F, P, Q, N) of the output. Raises ValueError where the filter does not fit."""
    (_, height, width, images), (filters, _, rows, cols) = x_shape, w_shape
    p, q = ((size + sum(pad) - window) // stride + 1 for size, window in ((height, rows), (width, cols)))
    if p < 1 or q < 1:
        raise ValueError(f"a filter of {rows}×{cols} does not fit in {height}×{width} pixels with padding "
                         f"{pad}")
    return filters, p, q, images


def conv_forward(x, w, b=None, *, stride=1, pad=(0, 0), groups=1, relu=False, out=None):
    """x (C, H, W, N), w (F, C/groups, R, S), b (F) → y (F, P, Q, N), or max(0, y) with `relu`.
    Kept for backward: x.

    Raises ValueError where channels, filters and groups do not fit together.
    """
    if len(x) != groups * w.shape[1] or len(w) % groups:
        raise ValueError(f"filters {w.shape} do not fit {len(x)} channels in {groups} groups")
    shape = conv_shape(x.shape, w.shape, stride, pad)
    if on_gpu(x):
        return launches.forward(x, w, b, shape, stride, pad, groups, relu, out)
    y = np.empty(shape, x.dtype) if out is None else out
    way = winograd if _quick(x, w, stride) else lines
    way.correlate(x, w, b, stride, pad[0], groups, relu, y)
    return y


def conv_backward(d_y, x, w, d_w, d_b=None, *, stride=1, pad=(0, 0), groups=1, relu_y=None,
                  input_gradient=True, out=None):
    """d_y (F, P, Q, N) → d_x (C, H, W, N), or None without `input_gradient`.
    Assigns d_w and d_b, shaped as w and b.

    With `relu_y`, forward's output with `relu`, d_y first becomes 0 wherever that is.

        d_w[f, c, r, s] = Σ d_y[f, p, q, n] · x[c, p·stride + r − before, q·stride + s − before, n]
                          over p, q, n
        d_b[f]          = Σ d_y[f, p, q, n]   over p, q, n
        d_x[c, h, w, n] = Σ w[f, c, r, s] · d_y[f, p, q, n]
                          over f and all r, s, p, q that read this pixel in forward
    """
    if on_gpu(d_y):
        shape = conv_shape(x.shape, w.shape, stride, pad)
        return launches.backward(d_y, x, w, d_w, d_b, shape, stride, pad, groups, relu_y, input_gradient, out)
    if d_b is not None or relu_y is not None:
        _bias_gradient(d_y, relu_y, np.empty(len(w), w.dtype) if d_b is None else d_b)
    way = winograd if _quick(x, w, stride) else lines
    way.weight_gradient(d_y, x, d_w, stride, pad[0], groups)
    if input_gradient:
        d_x = np.empty_like(x) if out is None else out
        way.input_gradient(d_y, w, stride, pad[0], groups, d_x)
        return d_x


def _quick(x, w, stride):
    """Whether Winograd's products are used: for float32, unless `--math exact` asks for the direct ones."""
    return x.dtype == np.float32 and precision.math() != "exact" and winograd.fits(x.shape, w.shape, stride)


def _bias_gradient(d_y, relu_y, d_b):
    """d_b = Σ d_y, which first becomes 0 wherever relu_y, if given, is not above 0."""
    d_maps = d_y.reshape(len(d_y), -1, copy=False)
    y_maps = d_maps if relu_y is None else relu_y.reshape(len(d_y), -1, copy=False)

    def block(start, stop):
        own = slice(start, stop)
        loops.bias_gradient(d_maps[own], y_maps[own], relu_y is not None, d_b[own])

    parallel(block, chunks(len(d_y), -(-len(d_y) // TASKS)))

"""Convolution (sections 3.2 and 3.5), strictly a correlation, as everywhere in this field.

    y[f, p, q, n] = b[f] + Σ w[f, c, r, s] · x[c, p·stride + r − before, q·stride + s − before, n]
                           over c, r, s

with zeros outside the image. `pad` is (before, after): rows and columns of zeros added above and left,
below and right. The paper's first layer turns 224 pixels into 55 with pad (0, 3): (224 + 3 − 11) / 4 + 1.
With `groups` columns, the filters of group g read only the channels of group g.

How it becomes a matrix product: for each input row h, its *lines* are the S shifted copies that
the filter's columns see,

    lines[h][c, s, q, n] = x[c, h − before, q·stride + s − before, n]

An output row p needs the lines of R successive input rows, which lie next to each other in memory,
so they already are the matrix (R·C·S, Q·N) that the filters, laid out as (F, R·C·S), multiply.
Nothing is copied R·S times as in plain im2col, only S times;
with images innermost each copy moves whole runs of Q·N numbers.

With stride 1 the S shifts can as well be made behind the product: the filters' columns apart, (F·S, R·C),
multiply the plain rows (R·C, W·N), and the S results are added, each shifted by its s. That is quicker unless
R·C is small, most of all where filters are few (the input gradient of conv2 has 48, and twice the speed):
BLAS then has S times as many of them.
"""
import numpy as np
from numpy.lib.stride_tricks import as_strided

from cpnet.gpu.platform import on_gpu
from cpnet.ops.conv import launches
from cpnet.ops.pointwise import relu_backward, relu_forward
from cpnet.threads import chunks, parallel, scratch

# a block's lines: large enough for good matrix products, small enough for the last-level cache
LINES_BYTES = 12 << 20
BLOCKS = 8  # at least as many blocks as this, so that a few threads have work
ENOUGH = 64  # from so many products R·C on, the shifts come behind: measured with OpenBLAS
# up to so many filters a group, (R·C·S, Q·N)·(Q·N, F) is faster than its transpose: measured with OpenBLAS
TALL = 128


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
    _correlate(x, w, b, stride, (pad[0], pad[0]), groups, y)
    return relu_forward(y, out=y) if relu else y


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
    if relu_y is not None:
        relu_backward(d_y, relu_y, out=d_y)
    _weight_gradient(d_y, x, d_w, stride, (pad[0], pad[0]), groups)
    if d_b is not None:
        parallel(lambda f, end: np.sum(d_y[f:end], axis=(1, 2, 3), out=d_b[f:end]), chunks(len(d_y), 16))
    if input_gradient:
        d_x = np.empty_like(x) if out is None else out
        return _input_gradient(d_y, w, stride, pad[0], groups, d_x)


def _correlate(x, w, b, stride, before, groups, y):
    """The formula at the top; `before` for rows and columns apart,
    and y's shape tells how far the windows go."""
    _, channels, rows, cols = w.shape
    if stride == 1 and rows * channels >= ENOUGH:
        return _correlate_shifting_results(x, w, b, before, groups, y)
    matrix = _filter_matrix(w)
    per_group = len(w) // groups

    def block(g, start, stop):
        own = slice(g * per_group, (g + 1) * per_group)
        y_rows = _rows(y[own, start:stop])
        np.matmul(matrix[own], _windows(x, w.shape, y.shape, g, start, stop, stride, before), out=y_rows)
        if b is not None:
            y_rows += b[own, None]

    parallel(block, _blocks(w.shape, y, groups, channels * cols))
    return y


def _correlate_shifting_results(x, w, b, before, groups, y):
    """The same for stride 1, the shifts behind the product."""
    filters, channels, rows, cols = w.shape
    _, height, width, images = x.shape
    per_group, q = filters // groups, y.shape[2]
    matrix = w.transpose(0, 3, 2, 1).reshape(groups, per_group * cols, rows * channels)

    def block(g, start, stop):
        first, count = start - before[0], stop - start + rows - 1
        taken = scratch("conv.lines", (count, channels, width, images), x.dtype)
        top, bottom = _inside(first, count, height)
        taken[:top] = 0
        taken[bottom:] = 0
        taken[top:bottom] = x[g * channels:(g + 1) * channels, first + top:first + bottom].swapaxes(0, 1)
        windows = as_strided(taken, (stop - start, rows * channels, width * images),
                             (taken.strides[0], width * images * x.itemsize, x.itemsize), writeable=False)
        products = scratch("conv.products", (stop - start, per_group * cols, width * images), x.dtype)
        products = np.matmul(matrix[g], windows, out=products)
        products = products.reshape(stop - start, per_group, cols, width, images)
        own = slice(g * per_group, (g + 1) * per_group)
        result = y[own, start:stop].swapaxes(0, 1)
        result[...] = 0 if b is None else b[own, None, None]
        for s in range(cols):
            shift = s - before[1]
            left, right = max(-shift, 0), min(width - shift, q)
            if right > left:
                result[:, :, left:right] += products[:, :, s, left + shift:right + shift]

    parallel(block, _blocks(w.shape, y, groups, channels + per_group * cols))
    return y


def _weight_gradient(d_y, x, d_w, stride, before, groups):
    """One matrix product an output row, (F, Q·N) by (Q·N, R·C·S).
    Blocks are summed in order, whoever computed them."""
    filters, channels, rows, cols = d_w.shape
    per_group = filters // groups
    blocks = _blocks(d_w.shape, d_y, groups, channels * cols)
    size = rows * channels * cols
    tall = per_group <= TALL  # which of the two operands BLAS should have first
    parts = np.empty((len(blocks), size, per_group) if tall else (len(blocks), per_group, size), x.dtype)

    def block(part, g, start, stop):
        windows = _windows(x, d_w.shape, d_y.shape, g, start, stop, stride, before)
        d_y_rows = _rows(d_y[g * per_group:(g + 1) * per_group, start:stop])
        left, right = (windows, d_y_rows) if tall else (d_y_rows, windows)
        np.matmul(left[0], right[0].T, out=part)
        product = scratch("conv.product", part.shape, part.dtype)
        for a, b in zip(left[1:], right[1:], strict=True):
            part += np.matmul(a, b.T, out=product)

    parallel(block, [(part, *task) for part, task in zip(parts, blocks, strict=True)])
    for g, of_group in enumerate(parts.reshape(groups, -1, *parts.shape[1:])):
        total = of_group.sum(axis=0)
        total = (total.T if tall else total).reshape(per_group, rows, channels, cols)
        d_w[g * per_group:(g + 1) * per_group] = total.transpose(0, 2, 1, 3)


def _input_gradient(d_y, w, stride, before, groups, d_x):
    """Itself a convolution of d_y, spread out by the stride,
    with the filters turned around and C and F exchanged."""
    filters, channels, rows, cols = w.shape
    turned = w[:, :, ::-1, ::-1].reshape(groups, filters // groups, channels, rows, cols)
    turned = turned.swapaxes(1, 2).reshape(groups * channels, filters // groups, rows, cols)
    if stride > 1:
        _, p, q, images = d_y.shape
        spread = np.zeros((filters, (p - 1) * stride + 1, (q - 1) * stride + 1, images), d_y.dtype)
        spread[:, ::stride, ::stride] = d_y
        d_y = spread
    return _correlate(d_y, turned, None, 1, (rows - 1 - before, cols - 1 - before), groups, d_x)


def _filter_matrix(w):
    """Filters (F, C, R, S) as the matrix (F, R·C·S)."""
    return w.transpose(0, 2, 1, 3).reshape(len(w), -1)


def _rows(y):
    """(F, P, Q, N) as (P, F, Q·N), the same memory: a matrix an output row."""
    return y.reshape(*y.shape[:2], -1, copy=False).swapaxes(0, 1)


def _blocks(w_shape, y, groups, lines):
    """The tasks (group, first, last output row), as many of each group;
    so many `lines` of scratch an output row."""
    _, p, q, images = y.shape
    line_bytes = lines * q * images * y.itemsize
    size = max(1, min(LINES_BYTES // line_bytes - w_shape[2], -(-p * groups // BLOCKS)))
    return [(g, *run) for g in range(groups) for run in chunks(p, size)]


def _windows(x, w_shape, y_shape, g, start, stop, stride, before):
    """The matrices (R·C·S, Q·N) of output rows start … stop − 1 for group g:
    overlapping views of the lines in scratch."""
    _, channels, rows, cols = w_shape
    _, _, q, images = y_shape
    _, height, width, _ = x.shape
    first = start * stride - before[0]
    count = (stop - 1 - start) * stride + rows
    lines = scratch("conv.lines", (count, channels, cols, q, images), x.dtype)
    top, bottom = _inside(first, count, height)
    lines[:top] = 0
    lines[bottom:] = 0
    x_g = x[g * channels:(g + 1) * channels, first + top:first + bottom].swapaxes(0, 1)
    for s in range(cols):
        shift = s - before[1]
        left = min(max(-(shift // stride), 0), q)  # output columns before this one see only padding
        right = max(min((width - 1 - shift) // stride + 1, q), left)
        line = lines[top:bottom, :, s]
        line[:, :, :left] = 0
        line[:, :, right:] = 0
        if right > left:
            x_first = left * stride + shift
            np.copyto(line[:, :, left:right],
                      x_g[:, :, x_first:x_first + (right - left - 1) * stride + 1:stride])
    row = lines.strides[0]
    return as_strided(lines, (stop - start, rows * channels * cols, q * images),
                      (stride * row, images * q * x.itemsize, x.itemsize), writeable=False)


def _inside(first, count, height):
    """Which of `count` input rows from `first` on lie in an image: (top, bottom), counted from `first`."""
    return min(max(-first, 0), count), max(min(height - first, count), 0)

"""Convolution on a CPU, directly: every product of the formula in definition.py is computed.

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

from cpnet.loops import beside
from cpnet.threads import chunks, parallel, scratch

# a block's lines: large enough for good matrix products, small enough for the last-level cache
LINES_BYTES = 12 << 20
BLOCKS = 8  # at least as many blocks as this, so that a few threads have work
ENOUGH = 64  # from so many products R·C on, the shifts come behind: measured with OpenBLAS
# up to so many filters a group, (R·C·S, Q·N)·(Q·N, F) is faster than its transpose: measured with OpenBLAS
TALL = 128

loops = beside("cpnet.ops.conv.passes")


def correlate(x, w, b, stride, before, groups, relu, y):
    """y = conv_forward(x, w, b), with `before` rows and columns of zeros above and left."""
    _correlate(x, w, b, stride, (before, before), groups, relu, y)


def _correlate(x, w, b, stride, before, groups, relu, y):
    """The same with `before` for rows and columns apart. y's shape tells how far the windows go."""
    _, channels, rows, cols = w.shape
    if stride == 1 and rows * channels >= ENOUGH:
        _correlate_shifting_results(x, w, b, before, groups, relu, y)
        return
    matrix = _filter_matrix(w)
    per_group = len(w) // groups

    def block(g, start, stop):
        own = slice(g * per_group, (g + 1) * per_group)
        y_rows = _rows(y[own, start:stop])
        np.matmul(matrix[own], _windows(x, w.shape, y.shape, g, start, stop, stride, before), out=y_rows)
        _add_bias(y[own], b, own, relu, start, stop)

    parallel(block, _blocks(w.shape, y, groups, channels * cols))


def _correlate_shifting_results(x, w, b, before, groups, relu, y):
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
        result[...] = 0
        for s in range(cols):
            shift = s - before[1]
            left, right = max(-shift, 0), min(width - shift, q)
            if right > left:
                result[:, :, left:right] += products[:, :, s, left + shift:right + shift]
        _add_bias(y[own], b, own, relu, start, stop)

    parallel(block, _blocks(w.shape, y, groups, channels + per_group * cols))


def _add_bias(maps, b, own, relu, start, stop):
    """maps (F, P, Q, N), rows start … stop − 1: + b[own], and with `relu` at least 0."""
    if b is not None or relu:
        bias = np.zeros(len(maps), maps.dtype) if b is None else b[own]
        loops.bias_relu(maps.reshape(*maps.shape[:2], -1, copy=False), bias, relu, start, stop)


def weight_gradient(d_y, x, d_w, stride, before, groups):
    """d_w of conv_backward: one matrix product an output row, (F, Q·N) by (Q·N, R·C·S).
    Blocks are summed in order, whoever computed them."""
    filters, channels, rows, cols = d_w.shape
    per_group = filters // groups
    blocks = _blocks(d_w.shape, d_y, groups, channels * cols)
    size = rows * channels * cols
    tall = per_group <= TALL  # which of the two operands BLAS should have first
    parts = np.empty((len(blocks), size, per_group) if tall else (len(blocks), per_group, size), x.dtype)

    def block(part, g, start, stop):
        windows = _windows(x, d_w.shape, d_y.shape, g, start, stop, stride, (before, before))
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


def input_gradient(d_y, w, stride, before, groups, d_x):
    """d_x of conv_backward: itself a convolution of d_y, spread out by the stride,
    with the filters turned around and C and F exchanged."""
    filters, channels, rows, cols = w.shape
    turned = w[:, :, ::-1, ::-1].reshape(groups, filters // groups, channels, rows, cols)
    turned = turned.swapaxes(1, 2).reshape(groups * channels, filters // groups, rows, cols)
    if stride > 1:
        _, p, q, images = d_y.shape
        spread = np.zeros((filters, (p - 1) * stride + 1, (q - 1) * stride + 1, images), d_y.dtype)
        spread[:, ::stride, ::stride] = d_y
        d_y = spread
    _correlate(d_y, turned, None, 1, (rows - 1 - before, cols - 1 - before), groups, False, d_x)


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

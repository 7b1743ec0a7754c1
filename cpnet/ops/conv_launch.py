"""Convolution on GPUs: which kernels compute it, and the launches. conv.py has the formulas, conv_tensor.py the launches of the
kernels for tensor cores; where those cannot be had, conv.cu and conv_weights.cu have the plain ones, in float32 or float64.
"""
from math import prod
from pathlib import Path

from cpnet.launch import blocks, empty, expect, launch, workspace
from cpnet.ops import conv_tensor
from cpnet.ops.conv_tensor import PASSES, THREADS, little_padding
from cpnet.ops.pointwise import relu_backward, relu_forward

HEIGHTS = 128, 96, 64, 48, 32, 16  # rows of a block's tile (BM)
WIDTHS = {128: (8, 8), 64: (8, 4), 32: (4, 4)}  # its columns (BN): a thread's rows and columns of it (TM, TN)
PART_BLOCKS = 512  # of the weight gradient: two rounds on the largest GPU; never chosen by the card, for the sake of the bits
PART_TERMS = 1024  # products that a part at least adds up
BIAS_BLOCKS, BIAS_TERMS = 1024, 16384  # of the bias's gradient, likewise
_PRODUCTS, _WEIGHTS = (Path(__file__).with_name(name) for name in ("conv.cu", "conv_weights.cu"))


def forward(x, w, b, shape, stride, pad, groups, relu, out):
    """See conv.conv_forward; `shape` is the output's."""
    y = empty(shape, x.dtype, x) if out is None else out
    expect("conv_forward", shape, out=y)
    if b is not None:
        expect("conv_forward", w.shape[:1], b=b)
    sizes = _sizes(x.shape, w.shape, shape, stride, pad, groups)
    if conv_tensor.forward(x, w, b, y, sizes, groups, relu):
        return y
    grid, tile = _pixel_grid(len(w) // groups, shape, groups, x.dtype)
    launch(_PRODUCTS, "conv_forward", grid, _threads(tile), x, w, w if b is None else b, y, b is not None, *sizes, defines=tile)
    return relu_forward(y, out=y) if relu else y


def backward(d_y, x, w, d_w, d_b, shape, stride, pad, groups, relu_y, input_gradient, out):
    """See conv.conv_backward; `shape` is d_y's."""
    expect("conv_backward", shape, d_y=d_y)
    expect("conv_backward", w.shape, d_w=d_w)
    sizes = _sizes(x.shape, w.shape, d_y.shape, stride, pad, groups)
    if d_b is not None:
        _bias_gradient(d_y, d_b, relu_y)
    elif relu_y is not None:
        relu_backward(d_y, relu_y, out=d_y)
    _weight_gradient(d_y, x, d_w, sizes, groups)
    if input_gradient:
        d_x = empty(x.shape, x.dtype, x) if out is None else out
        expect("conv_backward", x.shape, out=d_x)
        if not conv_tensor.input_gradient(d_y, w, d_x, sizes, groups):
            grid, tile = _pixel_grid(w.shape[1], x.shape, groups, x.dtype)
            launch(_PRODUCTS, "conv_input_gradient", grid, _threads(tile), d_y, w, d_x, *sizes, defines=tile)
        return d_x


def _bias_gradient(d_y, d_b, relu_y):
    """And d_y masked by ReLU's output, if there is one, in the same pass."""
    expect("conv_backward", d_y.shape[:1], d_b=d_b)
    if relu_y is not None:
        expect("conv_backward", d_y.shape, relu_y=relu_y)
    filters, count = len(d_y), d_y.size // len(d_y)
    parts = max(1, min(BIAS_BLOCKS // filters, count // BIAS_TERMS))
    sums = workspace("conv.bias", (parts, filters), d_y.dtype, d_y)
    launch(PASSES, "conv_bias_gradient", (filters, parts), THREADS, d_y,
           d_y if relu_y is None else relu_y, sums, relu_y is not None, count, defines={"THREADS": THREADS})
    _sum(sums, d_b, parts, filters, 1, 1)


def _weight_gradient(d_y, x, d_w, sizes, groups):
    """Parts of the pixels apart, then their sum in order."""
    filters, channels, rows, cols = d_w.shape
    file, kernel, height, width, threads, options = (conv_tensor.weights(x, d_y, d_w, groups) or
                                                     _plain_weights(d_w.shape, groups, x.dtype))
    tiles = blocks(filters // groups, height) * blocks(channels * rows * cols, width)
    parts = max(1, min(PART_BLOCKS // (tiles * groups), d_y[0].size // PART_TERMS))
    sums = workspace("conv.parts", (parts, *d_w.shape), x.dtype, x)
    launch(file, kernel, (tiles, parts, groups), threads, x, d_y, sums, *sizes, **options)
    _sum(sums, d_w, parts, filters, channels, rows * cols)


def _plain_weights(w_shape, groups, dtype):
    """As `conv_tensor.weights`, of the plain kernel."""
    filters, channels, rows, cols = w_shape
    tile = _tile(filters // groups, channels * rows * cols, dtype)
    return _WEIGHTS, "conv_weight_parts", tile["BM"], tile["BN"], _threads(tile), {"defines": tile}


def _sum(sums, total, parts, filters, channels, taps):
    launch(PASSES, "conv_sum_parts", blocks(total.size, THREADS), THREADS, sums, total,
           parts, filters, channels, taps, defines={"THREADS": THREADS})


def _sizes(x_shape, w_shape, y_shape, stride, pad, groups):
    """The kernels' C, H, W, N, F, R, S, P, Q, stride, before: channels and filters of one group."""
    for name, shape in ("x", x_shape[:3]), ("w", w_shape), ("y", y_shape[:3]):
        if prod(shape) >= 2**31:  # which no GPU could hold for long: the kernels count pixels in 31 bits, numbers in 64
            raise ValueError(f"convolution: {name} {shape} is too large, {prod(shape):,} of at most 2³¹ − 1")
    return (w_shape[1], *x_shape[1:], w_shape[0] // groups, *w_shape[2:], *y_shape[1:3], stride, pad[0])


def _pixel_grid(maps, shape, groups, dtype):
    """(grid, tile) for a result of this shape with so many maps a group: each block at one pixel."""
    _, rows, cols, images = shape
    tile = _tile(maps, images, dtype)
    return (rows * cols * blocks(images, tile["BN"]), blocks(maps, tile["BM"]), groups), tile


def _tile(rows, columns, dtype):
    """The macros of a block's tile of a product with so many rows and columns."""
    height = max(little_padding(rows, HEIGHTS))
    width = max(little_padding(columns, [width for width in WIDTHS if width * dtype.itemsize <= 512]))
    thread_rows, thread_columns = WIDTHS[width]
    return {"BM": height, "BN": width, "TM": thread_rows, "TN": thread_columns}


def _threads(tile):
    return tile["BM"] * tile["BN"] // (tile["TM"] * tile["TN"])

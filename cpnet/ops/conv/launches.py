"""Convolution on GPUs: which kernels compute it, and the launches. definition.py has the formulas,
tensor.py the launches of the kernels for tensor cores; where those cannot be had, plain.cu and
plain_weights.cu have the plain ones, in float32 or float64.
"""
from math import prod
from pathlib import Path

from cpnet.gpu.kernels import blocks, expect, launch
from cpnet.gpu.memory import empty, workspace
from cpnet.ops.conv import tensor
from cpnet.ops.conv.passes import bias_gradient, in_parts, sum_parts
from cpnet.ops.conv.sizes import sizes_of
from cpnet.ops.conv.tensor import WeightKernel, little_padding
from cpnet.ops.pointwise import relu_backward, relu_forward

HEIGHTS = 128, 96, 64, 48, 32, 16  # rows of a block's tile (BM)
WIDTHS = {128: (8, 8), 64: (8, 4), 32: (4, 4)}  # its columns (BN): a thread's rows and columns of it (TM, TN)
# of the weight gradient: two rounds on the largest GPU; never chosen by the card, for the sake of the bits
PART_BLOCKS = 512
PART_TERMS = 1024  # products that a part at least adds up
_PRODUCTS, _WEIGHTS = (Path(__file__).with_name(name) for name in ("plain.cu", "plain_weights.cu"))


def forward(x, w, b, shape, stride, pad, groups, relu, out):
    """See conv.conv_forward; `shape` is the output's."""
    y = empty(shape, x.dtype, x) if out is None else out
    expect("conv_forward", shape, out=y)
    if b is not None:
        expect("conv_forward", w.shape[:1], b=b)
    sizes = sizes_of(x.shape, w.shape, shape, stride, pad, groups)
    if tensor.forward(x, w, b, y, sizes, groups, relu):
        return y
    grid, tile = _pixel_grid(len(w) // groups, shape, groups, x.dtype)

    def product(grid, out, bias, relu):
        launch(_PRODUCTS, "conv_forward", grid, _threads(tile), x, w, w if bias is None else bias, out,
               bias is not None, *sizes, groups, defines=tile)
        if relu:
            relu_forward(out, out=out)

    in_parts(y, grid, prod(w.shape[1:]), product, b, relu)
    return y


def backward(d_y, x, w, d_w, d_b, shape, stride, pad, groups, relu_y, input_gradient, out):
    """See conv.conv_backward; `shape` is d_y's."""
    expect("conv_backward", shape, d_y=d_y)
    expect("conv_backward", w.shape, d_w=d_w)
    sizes = sizes_of(x.shape, w.shape, d_y.shape, stride, pad, groups)
    if d_b is not None:
        bias_gradient(d_y, d_b, relu_y)
    elif relu_y is not None:
        relu_backward(d_y, relu_y, out=d_y)
    weight_gradient(d_y, x, d_w, sizes, groups)
    if not input_gradient:
        return None
    d_x = empty(x.shape, x.dtype, x) if out is None else out
    expect("conv_backward", x.shape, out=d_x)
    if tensor.input_gradient(d_y, w, d_x, sizes, groups):
        return d_x
    grid, tile = _pixel_grid(w.shape[1], x.shape, groups, x.dtype)

    def product(grid, out, *_):
        launch(_PRODUCTS, "conv_input_gradient", grid, _threads(tile), d_y, w, out, *sizes,
               groups, defines=tile)

    in_parts(d_x, grid, len(w) // groups * prod(w.shape[2:]), product)
    return d_x


def product_of_rows(a, b, out):
    """out (A, B) = a (A, K) bᵀ, b (B, K): as the weight gradient of a filter of one pixel
    adds up over K images."""
    a, b, out = (array.reshape(len(array), 1, 1, -1) for array in (a, b, out))
    out = out.reshape(len(a), len(b), 1, 1)
    weight_gradient(a, b, out, sizes_of(b.shape, out.shape, a.shape, 1, (0, 0), 1), 1)


def weight_gradient(d_y, x, d_w, sizes, groups):
    """Parts of the pixels apart, then their sum in order;
    one part of a filter of one pixel lies as d_w does."""
    filters, channels, rows, cols = d_w.shape
    kernel = tensor.weights(x, d_y, d_w, groups) or _plain_weights(d_w.shape, groups, x.dtype)
    tiles = blocks(filters // groups, kernel.rows) * blocks(channels * rows * cols, kernel.columns)
    parts = max(1, min(PART_BLOCKS // (tiles * groups), d_y[0].size // PART_TERMS))
    alone = parts == 1 and rows * cols == 1
    sums = d_w if alone else workspace("conv.parts", (parts, *d_w.shape), x.dtype, x)
    launch(kernel.file, kernel.name, (tiles, parts, groups), kernel.threads, x, d_y, sums, *sizes,
           **kernel.options)
    if not alone:
        sum_parts(sums, d_w, filters, channels, rows * cols)


def _plain_weights(w_shape, groups, dtype):
    """The WeightKernel of multiply-adds."""
    filters, channels, rows, cols = w_shape
    tile = _tile(filters // groups, channels * rows * cols, dtype)
    return WeightKernel(_WEIGHTS, "conv_weight_parts", tile["BM"], tile["BN"], _threads(tile),
                        {"defines": tile})


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

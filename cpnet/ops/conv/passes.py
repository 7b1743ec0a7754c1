"""What surrounds a convolution's products on a GPU, one pass over memory each (passes.cu); and in how many
parts a product is added up, so that a GPU has blocks enough where results are few:
by the shapes alone, never by the card, for the sake of the bits.
"""
from cpnet.gpu.kernels import blocks, expect, launch
from cpnet.gpu.memory import workspace

THREADS = 256
PACK = 32  # rows and columns of conv_pack's tile
# a result of fewer blocks is added up in parts, of so many products at least
SPLIT_BLOCKS, SPLIT_TERMS = 128, 256
BIAS_BLOCKS, BIAS_TERMS = 1024, 16384  # of the bias's gradient, likewise


def pack(w, batch, rows, columns, padded):
    """w, read as (batch, rows, columns), as (batch, columns, padded) with zeros behind the rows,
    until the next call."""
    packed = workspace("conv.weights", (batch, columns, padded), w.dtype, w)
    launch(__file__, "conv_pack", (blocks(columns, PACK), blocks(padded, PACK), batch), (PACK, 8), w, packed,
           rows, columns, padded, defines={"THREADS": THREADS})
    return packed


def in_parts(result, grid, terms, product, bias=None, relu=False):
    """A product that is the sum of so many terms, by blocks of `grid` (the last: groups),
    as `result` (F, P, Q, N).

    product(grid, out, bias, relu) launches it: with more parts than one its grid is as many times as deep,
    and `out` is (parts, F, P, Q, N), the sums of each, which are then added up in order.
    """
    parts = max(1, min(SPLIT_BLOCKS // (grid[0] * grid[1] * grid[2]), terms // SPLIT_TERMS))
    if parts == 1:
        product(grid, result, bias, relu)
        return
    sums = workspace("conv.sums", (parts, *result.shape), result.dtype, result)
    product((*grid[:2], grid[2] * parts), sums, None, False)
    sum_parts(sums, result, len(result), result[0].size, 1, bias, relu)


def sum_parts(sums, total, filters, channels, taps, bias=None, relu=False):
    """total (F, C, taps) = Σ sums (parts, F, taps, C), + bias (F), or max(0, that) with `relu`."""
    launch(__file__, "conv_sum_parts", blocks(total.size, THREADS), THREADS, sums,
           sums if bias is None else bias, total,
           bias is not None, relu, len(sums), filters, channels, taps, defines={"THREADS": THREADS})


def bias_gradient(d_y, d_b, relu_y):
    """d_b (F) = Σ d_y (F, P, Q, N); d_y first becomes 0 where `relu_y`, if there is one, is."""
    expect("conv_backward", d_y.shape[:1], d_b=d_b)
    if relu_y is not None:
        expect("conv_backward", d_y.shape, relu_y=relu_y)
    filters, count = len(d_y), d_y.size // len(d_y)
    parts = max(1, min(BIAS_BLOCKS // filters, count // BIAS_TERMS))
    sums = d_b if parts == 1 else workspace("conv.bias", (parts, filters), d_y.dtype, d_y)
    launch(__file__, "conv_bias_gradient", (filters, parts), THREADS, d_y,
           d_y if relu_y is None else relu_y, sums, relu_y is not None, count, defines={"THREADS": THREADS})
    if parts > 1:
        sum_parts(sums, d_b, filters, 1, 1)

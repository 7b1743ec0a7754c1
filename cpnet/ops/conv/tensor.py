"""Convolution's three products on tensor cores, for float32 on GPUs of compute capability 8.0 and newer: which tile, how much
shared memory, and the launches of tensor.cu and tensor_weights.cu. docs/kernels.md leads through them.

`precision.math()` decides between 3×TF32, as exact as float32, and TF32. Float64 and older GPUs are left to the plain kernels.
"""
from pathlib import Path

import numpy as np

from cpnet.gpu import kernels, memory, precision
from cpnet.gpu.kernels import blocks
from cpnet.ops.conv.passes import in_parts, pack

# By math and rows of a block's tile: its columns, a warp's rows and columns of it. 3×TF32 keeps a second set of sums, so its
# warps own fewer results.
TILES = {
    "fp32": {128: (128, 64, 32), 96: (128, 48, 32), 64: (128, 32, 32), 48: (256, 48, 32), 32: (128, 32, 32)},
    "tf32": {192: (128, 48, 64), 128: (256, 64, 64), 96: (256, 48, 64), 64: (128, 32, 64), 48: (256, 48, 32),
             32: (128, 32, 32)},
}
WEIGHT_TILES = {
    "fp32": {128: (128, 64, 32), 96: (128, 48, 32), 64: (128, 32, 32), 48: (128, 48, 32), 32: (128, 32, 32)},
    "tf32": {192: (128, 48, 64), 128: (256, 64, 64), 96: (192, 48, 48), 64: (128, 32, 64), 48: (128, 48, 32),
             32: (128, 32, 32)},
}
FEWEST_IMAGES = 32  # of a block; with fewer in the batch it takes more pixels, but not the more so
DEPTH, WEIGHT_DEPTH = 16, 32  # k of a stage: BK of the two kernels
_WEIGHTS = Path(__file__).with_name("tensor_weights.cu")


def forward(x, w, b, y, sizes, groups, relu):
    """Assigns y and returns True; False where this is for the plain kernel. `sizes`: see launches.py."""
    C, H, W, _, F, R, S, P, Q, stride, before = sizes
    return _product(x, w, b, y, relu, groups, (C, H, W), (F, P, Q), (R, S), (stride, -before, 1, 1), (groups, F, C * R * S))


def input_gradient(d_y, w, d_x, sizes, groups):
    """Assigns d_x and returns True; False where this is for the plain kernel."""
    C, H, W, _, F, R, S, P, Q, stride, before = sizes
    return _product(d_y, w, None, d_x, False, groups, (F, P, Q), (C, H, W), (R, S), (1, before, -1, stride),
                    (groups * F, C, R * S))


def _product(source, w, bias, result, relu, groups, source_shape, result_shape, window, mapping, packing):
    """source_shape, result_shape: maps of a group, rows, columns. packing: w as (batch, rows, columns), to be transposed."""
    images, maps, taps = source.shape[-1], result_shape[0], window[0] * window[1]
    rows, columns, tile = _tile(TILES, maps)
    each = min(columns, max(FEWEST_IMAGES, 1 << (images - 1).bit_length()))
    pixels = columns // each
    slot = DEPTH * (rows + 8 + columns + 8 + 1 + pixels)
    stages, shared = _stages(source, 4 * slot, 4 * (1 + pixels) * taps, static=16)
    if not stages:
        return False
    if packing[2] == 1:  # the weights lie in order as they are
        packed, pitch = w, maps
    else:
        pitch = blocks(maps, rows) * rows
        packed = pack(w, *packing, pitch)
    defines = {**tile, "PIXELS": pixels, "IMAGES": each, "STAGES": stages, "VECTOR": _vector(source, result),
               "WEIGHTS": 4 if pitch % 4 == 0 and memory.address(packed) % 16 == 0 else 1}

    def product(grid, out, bias, relu):
        kernels.launch(__file__, "conv_product", grid, _threads(rows, columns, tile), source, packed,
                      w if bias is None else bias, out, bias is not None, relu, *source_shape, images, *result_shape, *window,
                      *mapping, groups, pitch, shared=shared, defines=defines)

    grid = blocks(result_shape[1] * result_shape[2], pixels) * blocks(images, each), blocks(maps, rows), groups
    in_parts(result, grid, source_shape[0] * taps, product, bias, relu)
    return True


def weights(x, d_y, d_w, groups):
    """How to launch conv_weight_parts_tensor: (file, kernel, rows and columns of a tile, threads, options of `launch`).

    None where this is for the plain kernel.
    """
    rows, columns, tile = _tile(WEIGHT_TILES, len(d_w) // groups)
    stages, shared = _stages(x, 4 * WEIGHT_DEPTH * (rows + columns), 0, static=12 * columns)
    if not stages:
        return None
    defines = {**tile, "COLUMNS": columns, "STAGES": stages, "VECTOR": _vector(x, d_y)}
    return (_WEIGHTS, "conv_weight_parts_tensor", rows, columns, _threads(rows, columns, tile),
            {"shared": shared, "defines": defines})


def _tile(tiles, maps):
    """(rows, columns, macros) of the tile for so many maps: the largest that wastes little."""
    math = precision.math()
    rows = max(little_padding(maps, tiles[math]), key=lambda rows: (rows * tiles[math][rows][0], rows))
    columns, warp_rows, warp_columns = tiles[math][rows]
    return rows, columns, {"ROWS": rows, "TM": warp_rows, "TN": warp_columns, "SPLIT": int(math == "fp32")}


def little_padding(count, sizes):
    """Those of these tile sizes that pad `count` to at most an eighth more than the best of them does."""
    padded = {size: blocks(count, size) * size for size in sizes}
    return [size for size in sizes if padded[size] * 8 <= min(padded.values()) * 9]


def _stages(array, slot, tables, static=0):
    """(stages of the pipeline, bytes of dynamic shared memory): three if they fit on the array's GPU, or two, or none."""
    room = precision.tensor_cores(array) if array.dtype == np.float32 else 0
    return next(((stages, stages * slot + tables) for stages in (3, 2) if stages * slot + tables + static <= room), (0, 0))


def _threads(rows, columns, tile):
    return 32 * (rows // tile["TM"]) * (columns // tile["TN"])


def _vector(*arrays):
    """Images that a thread copies at once: four where that is 16 bytes at a multiple of 16, or one."""
    return 4 if arrays[0].shape[-1] % 4 == 0 and all(memory.address(array) % 16 == 0 for array in arrays) else 1

"""Convolution's three products on tensor cores, for float32 on GPUs of compute capability 8.0 and newer:
which tile, how much shared memory, and the launches of tensor.cu and tensor_weights.cu.
docs/kernels.md leads through them.

`precision.math()` decides between 3×TF32, as exact as float32, and TF32.
Float64 and older GPUs are left to the plain kernels.
"""
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cpnet import precision
from cpnet.gpu import memory
from cpnet.gpu.kernels import blocks, launch
from cpnet.ops.conv.passes import in_parts, pack


class Tile(NamedTuple):
    """The results of a block, of which a TILES table has the rows, and of one of its warps."""
    columns: int
    warp_rows: int
    warp_columns: int


# By math and rows of a block's tile. 3×TF32 keeps a second set of sums, so its warps own fewer results.
TILES = {
    "fp32": {128: Tile(128, 64, 32), 96: Tile(128, 48, 32), 64: Tile(128, 32, 32), 48: Tile(256, 48, 32),
             32: Tile(128, 32, 32)},
    "tf32": {192: Tile(128, 48, 64), 128: Tile(256, 64, 64), 96: Tile(256, 48, 64), 64: Tile(128, 32, 64),
             48: Tile(256, 48, 32), 32: Tile(128, 32, 32)},
}
WEIGHT_TILES = {
    "fp32": {128: Tile(128, 64, 32), 96: Tile(128, 48, 32), 64: Tile(128, 32, 32), 48: Tile(128, 48, 32),
             32: Tile(128, 32, 32)},
    "tf32": {192: Tile(128, 48, 64), 128: Tile(256, 64, 64), 96: Tile(192, 48, 48), 64: Tile(128, 32, 64),
             48: Tile(128, 48, 32), 32: Tile(128, 32, 32)},
}
FEWEST_IMAGES = 32  # of a block; with fewer in the batch it takes more pixels, but not the more so
DEPTH, WEIGHT_DEPTH = 16, 32  # k of a stage: BK of the two kernels
_WEIGHTS = Path(__file__).with_name("tensor_weights.cu")


class Maps(NamedTuple):
    """The maps of one group and their size."""
    maps: int
    rows: int
    cols: int


class Mapping(NamedTuple):
    """Which row of the source tap r reads for row p of the result, and so for columns: (scale · p + offset +
    direction · r) / divisor, where that is a whole number."""
    scale: int
    offset: int
    direction: int
    divisor: int


class Product(NamedTuple):
    """One of the two products that conv_product computes (tensor.cu has the formula)."""
    source: Maps
    result: Maps
    window: tuple  # rows and columns
    mapping: Mapping
    weights: tuple  # how to read w: (batch, rows, columns); each batch is transposed
    groups: int

    @property
    def taps(self):
        """Pixels of the window."""
        return self.window[0] * self.window[1]


def forward(x, w, b, y, sizes, groups, relu):
    """Assigns y and returns True; False where this is for the plain kernel."""
    of = sizes
    product = Product(Maps(of.C, of.H, of.W), Maps(of.F, of.P, of.Q), (of.R, of.S),
                      Mapping(of.stride, -of.before, 1, 1), (groups, of.F, of.C * of.R * of.S), groups)
    return _launch(product, x, w, b, y, relu)


def input_gradient(d_y, w, d_x, sizes, groups):
    """Assigns d_x and returns True; False where this is for the plain kernel."""
    of = sizes
    product = Product(Maps(of.F, of.P, of.Q), Maps(of.C, of.H, of.W), (of.R, of.S),
                      Mapping(1, of.before, -1, of.stride), (groups * of.F, of.C, of.R * of.S), groups)
    return _launch(product, d_y, w, None, d_x)


def _launch(of, source, w, bias, result, relu=False):
    """Assigns `result` and returns True; False where this is for the plain kernel."""
    images, maps = source.shape[-1], of.result.maps
    rows, tile = _tile(TILES, maps)
    each = min(tile.columns, max(FEWEST_IMAGES, 1 << (images - 1).bit_length()))
    pixels = tile.columns // each
    slot = DEPTH * (rows + 8 + tile.columns + 8 + 1 + pixels)
    stages, shared = _stages(source, 4 * slot, 4 * (1 + pixels) * of.taps, static=16)
    if not stages:
        return False
    if of.weights[2] == 1:  # the weights lie in order as they are
        packed, pitch = w, maps
    else:
        pitch = blocks(maps, rows) * rows
        packed = pack(w, *of.weights, pitch)
    defines = {**_defines(rows, tile), "PIXELS": pixels, "IMAGES": each, "STAGES": stages,
               "VECTOR": _vector(source, result),
               "WEIGHTS": 4 if pitch % 4 == 0 and memory.address(packed) % 16 == 0 else 1}

    def product(grid, out, bias, relu):
        launch(__file__, "conv_product", grid, _threads(rows, tile),
               source, packed, w if bias is None else bias, out, bias is not None, relu,
               *of.source, images, *of.result, *of.window, *of.mapping, of.groups, pitch,
               shared=shared, defines=defines)

    runs = blocks(of.result.rows * of.result.cols, pixels) * blocks(images, each)
    in_parts(result, (runs, blocks(maps, rows), of.groups), of.source.maps * of.taps, product, bias, relu)
    return True


def weights(x, d_y, d_w, groups):
    """The WeightKernel for tensor cores; None where this is for the plain one."""
    rows, tile = _tile(WEIGHT_TILES, len(d_w) // groups)
    stages, shared = _stages(x, 4 * WEIGHT_DEPTH * (rows + tile.columns), 0, static=12 * tile.columns)
    if not stages:
        return None
    defines = {**_defines(rows, tile), "COLUMNS": tile.columns, "STAGES": stages, "VECTOR": _vector(x, d_y)}
    return WeightKernel(_WEIGHTS, "conv_weight_parts_tensor", rows, tile.columns, _threads(rows, tile),
                        {"shared": shared, "defines": defines})


class WeightKernel(NamedTuple):
    """How to launch a kernel of weight gradients."""
    file: Path
    name: str
    rows: int  # of a block's tile
    columns: int
    threads: int
    options: dict  # of `launch`


def _tile(tiles, maps):
    """(rows, Tile) for so many maps: the largest that wastes little."""
    tiles = tiles[precision.math()]
    rows = max(little_padding(maps, tiles), key=lambda rows: (rows * tiles[rows].columns, rows))
    return rows, tiles[rows]


def _defines(rows, tile):
    """The macros of mma.cuh."""
    split = int(precision.math() == "fp32")
    return {"ROWS": rows, "TM": tile.warp_rows, "TN": tile.warp_columns, "SPLIT": split}


def little_padding(count, sizes):
    """Those of these tile sizes that pad `count` to at most an eighth more than the best of them does."""
    padded = {size: blocks(count, size) * size for size in sizes}
    return [size for size in sizes if padded[size] * 8 <= min(padded.values()) * 9]


def _stages(array, slot, tables, static=0):
    """(stages of the pipeline, bytes of dynamic shared memory):
    three if they fit on the array's GPU, or two, or none."""
    room = precision.tensor_cores(array) if array.dtype == np.float32 else 0
    for stages in 3, 2:
        size = stages * slot + tables
        if size + static <= room:
            return stages, size
    return 0, 0


def _threads(rows, tile):
    return 32 * (rows // tile.warp_rows) * (tile.columns // tile.warp_columns)


def _vector(*arrays):
    """Images that a thread copies at once: four where that is 16 bytes at a multiple of 16, or one."""
    by_fours = arrays[0].shape[-1] % 4 == 0
    return 4 if by_fours and all(memory.address(array) % 16 == 0 for array in arrays) else 1

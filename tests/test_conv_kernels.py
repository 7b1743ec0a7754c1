"""The convolution's kernels against their NumPy definition in float64, on the CPU by cuemu: the paper's five layers cut
down, every kind of tile, ragged batches; and that these comparisons notice a kernel that lacks a barrier or a guard.

    python -m tests.test_conv_kernels      the table of errors and the list of mutants
"""
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from cpnet.gpu import memory
from cpnet.ops import conv
from cpnet.ops.conv import launches, passes
from cpnet.ops.conv.sizes import sizes_of
from tests import cuemu, mutants
from tests.conftest import CuemuBackend
from tests.test_conv import Case

if __name__ != "__main__":
    cuemu.require()

FOLDER = Path(conv.__file__).parent
ALLOWED = {"float32": 2e-6, "float64": 1e-13}
TINY = {"HEIGHTS": (48,), "WIDTHS": {32: (4, 4)}}  # for mutants: loads that do not come out even, all shapes in one variant

LAYERS = {  # filters, channels and pixels of the paper's net reduced; window, stride, padding and groups as they are
    "conv1": partial(Case, w=(8, 11, 11), stride=4, pad=(0, 3)),
    "conv2": partial(Case, w=(10, 5, 5), pad=(2, 2), groups=2),
    "conv3": partial(Case, w=(18, 3, 3), pad=(1, 1)),
    "conv4": partial(Case, w=(14, 3, 3), pad=(1, 1), groups=2),
    "conv5": partial(Case, w=(6, 3, 3), pad=(1, 1), groups=2),
}
PIXELS = {"conv1": (3, 19, 15), "conv2": (6, 5, 4), "conv3": (10, 4, 3), "conv4": (12, 3, 4), "conv5": (14, 3, 3)}
TILES = [  # rows and columns of the tiles that alexnet has at N = 128, and some that other nets and batches have
    (128, 128), (96, 128), (48, 128), (128, 64), (64, 64), (16, 64), (32, 32)]


def error(result, expected):
    """The largest error, relative to the largest value expected. NaN stays NaN."""
    assert result.shape == expected.shape
    return np.abs(memory.to_host(result).astype(np.float64) - expected).max() / np.abs(expected).max()


class Comparison:
    """One case on the device and, in float64, on the host. `errors` by kernel."""

    def __init__(self, case, dtype, *, odd_place=False, zero=False):
        self.case, self.dtype, self.backend, self.errors = case, dtype, CuemuBackend(), {}
        self.host = case.arrays(np.random.default_rng(7), dtype)
        self.device = [self.odd_place(array) if odd_place else self.backend.to_device(array) for array in self.host]
        self.host = [array.astype(np.float64) for array in self.host]

    def odd_place(self, array):
        """On the device, at an address that no vector load may use."""
        return self.backend.to_device(np.append(array.flat[:1], array))[1:].reshape(array.shape)

    def check(self, kernel, result, expected):
        assert result.dtype == self.dtype
        self.errors[kernel] = error(result, expected)
        assert self.errors[kernel] <= ALLOWED[self.dtype], f"{kernel}, {self.case}: an error of {self.errors[kernel]:.1e}"

    def plain(self):
        (x, w, b, d_y), (host_x, host_w, host_b, host_d_y), options = self.device, self.host, self.case.options()
        self.check("conv_forward", conv.conv_forward(x, w, b, **options), conv.conv_forward(host_x, host_w, host_b, **options))
        d_w, ignored = np.empty_like(host_w), self.backend.empty(w.shape, self.dtype)
        d_x = conv.conv_backward(host_d_y, host_x, host_w, d_w, **options)
        self.check("conv_input_gradient", conv.conv_backward(d_y, x, w, ignored, **options), d_x)

    def plain_weights(self):
        (x, w, b, d_y), (host_x, host_w, host_b, host_d_y), options = self.device, self.host, self.case.options()
        results = [self.backend.empty(array.shape, self.dtype) for array in (w, b)]
        expected = [np.empty_like(array) for array in (host_w, host_b)]
        conv.conv_backward(d_y, x, w, *results, **options, input_gradient=False)
        conv.conv_backward(host_d_y, host_x, host_w, *expected, **options, input_gradient=False)
        for kernel, result, want in zip(("conv_weight_parts", "conv_bias_gradient"), results, expected, strict=True):
            self.check(kernel, result, want)


def compare(case, dtype, **options):
    comparison = Comparison(case, dtype, **options)
    comparison.plain()
    comparison.plain_weights()
    return comparison.errors


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("images", [1, 3, 32, 130])
@pytest.mark.parametrize("layer", LAYERS)
def test_the_paper_s_layers(layer, images, dtype):
    compare(LAYERS[layer]((*PIXELS[layer], images)), dtype)


@pytest.mark.parametrize("rows, columns", TILES)
def test_tiles(monkeypatch, rows, columns):
    """Each just overfull in both directions, so that there are four, the last of them nearly empty."""
    monkeypatch.setattr(launches, "HEIGHTS", (rows,))
    monkeypatch.setattr(launches, "WIDTHS", {columns: launches.WIDTHS[columns]})
    compare(Case((columns // 9 + 1, 3, 3, columns + 4), (rows + 3, 3, 3)), "float32")
    compare(Case((rows + 1, 1, 1, columns + 3), (2, 1, 1)), "float32")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", [
    Case((4, 4, 5, 8), (3, 3, 3), pad=(1, 1)),  # N a multiple of 4 …
    Case((2, 9, 7, 5), (3, 2, 4), stride=3, pad=(2, 1)),
    Case((6, 6, 5, 36), (4, 2, 3), stride=2, pad=(7, 4), groups=2),  # padding beyond the filter
    Case((2, 4, 5, 3), (2, 1, 1), stride=5, pad=(3, 2)),
    Case((3, 4, 5, 2), (1, 9, 9), pad=(4, 4)),  # a filter larger than the image
], ids=str)
def test_ragged_and_odd(case, dtype):
    compare(case, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_arrays_at_odd_places(dtype):
    compare(Case((2, 4, 5, 8), (3, 3, 3), pad=(1, 1)), dtype, odd_place=True)  # … but no vector may be loaded


FULLY_CONNECTED = [(1, 1, 1), (5, 10, 3), (40, 96, 32), (257, 130, 130), (600, 10, 1), (600, 130, 128), (1100, 33, 5)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("inputs, outputs, images", FULLY_CONNECTED)
def test_fully_connected(inputs, outputs, images, dtype):
    compare(Case((inputs, 1, 1, images), (outputs, 1, 1)), dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", [Case((6, 4, 3, 5), (4, 3, 2), pad=(1, 1), groups=2), Case((40, 1, 1, 3), (9, 1, 1)),
                                  Case((4, 5, 5, 4), (10, 3, 3), stride=2)], ids=str)
def test_parts_of_forward_and_of_the_input_gradient(monkeypatch, case, dtype):
    monkeypatch.setattr(passes, "SPLIT_TERMS", 5)  # uneven ones, and more of them than some blocks have steps
    compare(case, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_parts_of_the_weight_gradient(monkeypatch, dtype):
    monkeypatch.setattr(launches, "PART_TERMS", 24)  # more parts than some taps have pixels
    compare(Case((3, 5, 4, 9), (4, 3, 3), pad=(1, 1)), dtype)
    compare(Case((2, 3, 3, 30), (4, 3, 3), pad=(4, 4), stride=3), dtype)


def test_the_number_of_parts_is_the_shape_s(monkeypatch):
    shapes = []
    monkeypatch.setattr(launches, "launch", lambda file, name, grid, *_, **__: shapes.append((name, grid)))
    monkeypatch.setattr(launches, "workspace", lambda *_: None)
    monkeypatch.setattr(launches, "sum_parts", lambda *_: None)
    monkeypatch.setattr(launches.tensor, "weights", lambda *_: None)
    for case, grid in [(Case((3, 224, 224, 128), (96, 11, 11), 4, (0, 3)), (3, 170, 1)),
                       (Case((96, 27, 27, 128), (256, 5, 5), pad=(2, 2), groups=2), (10, 25, 2)),
                       (Case((256, 13, 13, 128), (384, 3, 3), pad=(1, 1)), (54, 9, 1))]:
        w_shape = (case.w[0], case.x[0] // case.groups, *case.w[1:])
        shape = conv.conv_shape(case.x, w_shape, case.stride, case.pad)
        x, d_w, d_y = (np.broadcast_to(np.float32(0), shape) for shape in (case.x, w_shape, shape))
        launches.weight_gradient(d_y, x, d_w, (), case.groups)
        assert shapes[-1] == ("conv_weight_parts", grid)


@pytest.mark.parametrize("grid, terms, parts", [
    ((32, 1, 1), 9216, 4), ((1, 8, 1), 4096, 16), ((1, 8, 1), 1023, 3), ((1, 1, 1), 9216, 36), ((65, 1, 1), 9216, 1),
    ((170, 1, 1), 1728, 1), ((4, 2, 2), 255, 1)])
def test_few_blocks_share_out_their_sums(monkeypatch, grid, terms, parts):
    """fc6 and fc8 at a batch of 128 among them; no convolution of the paper's net then."""
    found = []
    monkeypatch.setattr(passes, "workspace", lambda name, shape, dtype, like: np.zeros(shape, dtype))
    monkeypatch.setattr(passes, "sum_parts", lambda sums, *_: found.append(len(sums)))
    result = np.zeros((2, 1, 1, 3))

    def product(grid, out, bias, relu):
        found.append((grid, out is result, bias, relu))

    passes.in_parts(result, grid, terms, product, 5, True)
    assert found == ([(grid, True, 5, True)] if parts == 1 else [((*grid[:2], grid[2] * parts), False, None, False), parts])


def test_sizes_beyond_31_bits():
    with pytest.raises(ValueError, match=r"x \(3, 30000, 30000\) is too large"):
        sizes_of((3, 30000, 30000, 1), (1, 3, 3, 3), (1, 9, 9, 1), 1, (0, 0), 1)


# Mutants

CASES = {
    "plain": [Case((3, 5, 4, 3), (49, 2, 3), pad=(1, 0)),
             Case((98, 3, 4, 36), (2, 2, 2), stride=2, pad=(0, 1), groups=2),
             Case((1, 2, 2, 1), (1, 2, 2), pad=(3, 3))],
    "plain_weights": [Case((6, 4, 5, 3), (49, 3, 3), pad=(1, 1)), Case((2, 3, 3, 8), (3, 2, 2)),
                     Case((4, 5, 4, 36), (4, 2, 2), stride=2, pad=(0, 1), groups=2)],
}

# Edits by hand of what mutate.py leaves alone: what to replace, and by what.
EDITS = {
    "plain": [
        ("const int top = p * stride - before, first = max(0, -top)", "const int top = p * stride - before, first = 0"),
        ("end = min(window, size - top)", "end = window"),
        ("p * stride - before", "p * stride - before + 1"),
        ("max(reach % stride, reach - (size - 1) * stride)", "reach % stride"),
        ("last = min(reach, window - 1)", "last = window - 1"),
        ("if (!of.down.count || !of.across.count)", "if (!of.down.count)"),
        ("const int buffer = step % 2", "const int buffer = 0"),
        ("fetch(1 - buffer);", "fetch(buffer);"),
        ("columns + BK - 1) / BK", "columns) / BK"),
        ("of.steps.first * BK + thread", "thread"),
        ("blockIdx.z * F, C, F", "blockIdx.z % groups * F, C, F"),
        ("blockIdx.z * C, F, C", "blockIdx.z % groups * C, F, C"),
        ("(part < steps % parts ? 1 : 0)", "0"),
        ("+ min(part, steps % parts)", ""),
        ("i += of.next_i + next_row;", "i += of.next_i;"),
        ("N % 4 == 0 && (size_t)array % 16 == 0", "N % 4 == 0"),
        ("N % 4 == 0 && (size_t)array % 16 == 0", "(size_t)array % 16 == 0"),
    ],
    "plain_weights": [
        ("const int buffer = step % 2", "const int buffer = 0"),
        ("max(0, before - r_max + stride - 1) / stride, q", "max(0, before - r_max + stride - 1) / stride + 1, q"),
        ("min(P, max(0,", "max(0, max(0,"),
        ("min(Q, max(0,", "max(0, max(0,"),
        ("s_min = r_min == r_max ? first_tap % S : 0", "s_min = first_tap % S"),
        ("(part < steps % parts ? 1 : 0)", "0"),
        ("unsigned h = p * stride + place.down", "int h = p * stride + place.down"),
        ("(N + BK - 1) / BK", "N / BK"),
    ],
}

# Mutants that do nothing wrong: this one stores into the last, unused numbers of a tile's row.
SAME = {"plain": [], "plain_weights": ["weakened row + i * ROWS < BN to row + i * ROWS <= BN"]}


def noticed(name):
    """[(mutant, what notices it)] of a file; tile.cuh's with the first."""
    def compare(patch):
        patch.setattr(launches, "PART_TERMS", 24)
        for macro, value in TINY.items():
            patch.setattr(launches, macro, value)
        for terms in 256, 20:  # without parts of forward and input gradient, and with
            patch.setattr(passes, "SPLIT_TERMS", terms)
            for case in CASES[name][:None if terms == 256 else 2]:
                getattr(Comparison(case, "float32"), name)()
        getattr(Comparison(Case((2, 3, 3, 4), (2, 2, 2)), "float32", odd_place=True), name)()

    path, included = FOLDER / f"{name}.cu", ["tile.cuh", "share.cuh"] if name == "plain" else []
    return mutants.survey(path, mutants.mutants(path, included, EDITS[name]), compare)


@pytest.mark.parametrize("name", CASES)
def test_every_barrier_and_guard_is_missed(name):
    found = noticed(name)
    for mutant, by in found:
        print(f"{mutant}\n    {by}")
    assert [mutant.description for mutant, by in found if not by] == SAME[name]


if __name__ == "__main__":
    for layer in LAYERS:
        for dtype in ALLOWED:
            worst = {}
            for images in 1, 3, 32, 130:
                for kernel, largest in compare(LAYERS[layer]((*PIXELS[layer], images)), dtype).items():
                    worst[kernel] = max(largest, worst.get(kernel, 0))
            print(layer, dtype, *(f"{kernel} {largest:.1e}" for kernel, largest in worst.items()))
    for name in CASES:
        test_every_barrier_and_guard_is_missed(name)

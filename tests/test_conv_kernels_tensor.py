"""Convolution on tensor cores against the NumPy definition in float64, on the CPU by cuemu: the paper's five layers cut down,
every tile that they take, ragged batches, both kinds of math; and that these comparisons notice a kernel that lacks a
barrier, a wait or a guard.

    python -m tests.test_conv_kernels_tensor      the table of errors and the list of mutants
"""
from pathlib import Path

import numpy as np
import pytest

from cpnet import nets, precision
from cpnet.gpu import kernels, memory, source
from cpnet.gpu.devices import Device
from cpnet.layers import Pass
from cpnet.network import Network
from cpnet.ops import conv
from cpnet.ops.conv import launches, passes, tensor
from tests import cuemu, device, mutants
from tests.conftest import CuemuBackend
from tests.test_conv import Case
from tests.test_conv_kernels import FULLY_CONNECTED, LAYERS, PIXELS

if __name__ != "__main__":
    cuemu.require()

FOLDER = Path(conv.__file__).parent
H200 = 227 << 10  # bytes of shared memory that a block may have
ALLOWED = {"fp32": 5e-7, "tf32": 1e-3}
PAPER = [("conv1", 3), ("conv1", 32), ("conv2", 1), ("conv3", 130), ("conv4", 128), ("conv5", 36)]
KERNELS = "conv_product", "conv_weight_parts_tensor", "conv_weight_parts", "conv_forward", "conv_input_gradient"


@pytest.fixture(autouse=True)
def launched(monkeypatch):
    """With tensor cores; a list of the kernels of matrix products that are launched, and with which macros."""
    monkeypatch.setattr(device.Runner, "shared_memory", H200)
    monkeypatch.setattr(precision, "_math", "fp32")
    monkeypatch.setattr(device, "SEEDS", (1,))  # one order of the threads, but where a test says otherwise
    names, original = [], kernels.launch

    def noted(file, name, *arguments, **options):
        if name in KERNELS:
            names.append((name, options["defines"]))
        return original(file, name, *arguments, **options)

    for module in tensor, launches, passes:
        monkeypatch.setattr(module, "launch", noted)
    return names


def error(result, expected):
    """‖result − expected‖ / ‖expected‖. NaN stays NaN."""
    result = np.asarray(result, np.float64)
    assert result.shape == expected.shape
    return np.linalg.norm(result - expected) / np.linalg.norm(expected)


def run(arrays, options, put=np.copy, relu=False):
    """y, d_x, d_w, d_b of x, w, b, d_y."""
    x, w, b, d_y = (put(array) for array in arrays)
    d_w, d_b = (put(np.full_like(array, np.nan)) for array in (arrays[1], arrays[2]))
    y = conv.conv_forward(x, w, b, **options, relu=relu)
    d_x = conv.conv_backward(d_y, x, w, d_w, d_b, **options, relu_y=y if relu else None)
    return y, d_x, d_w, d_b, d_y


def odd_place(array):
    """On the device, at an address that no copy of 16 bytes may use."""
    return CuemuBackend().to_device(np.append(array.flat[:1], array))[1:].reshape(array.shape)


def errors(case, *, put=None, relu=False):
    """The errors of forward, input gradient, weight gradient, bias gradient, and of d_y as it is left."""
    arrays = case.arrays(np.random.default_rng(7), np.float32)
    expected = run([array.astype(np.float64) for array in arrays], case.options(), relu=relu)
    results = run(arrays, case.options(), put or CuemuBackend().to_device, relu)
    return [error(memory.to_host(result), each) for result, each in zip(results, expected, strict=True)]


def compare(case, math="fp32", **options):
    """The errors, each checked."""
    precision.set_math(math)
    found = errors(case, **options)
    for name, each in zip(("y", "d_x", "d_w", "d_b", "d_y"), found, strict=True):
        assert each <= ALLOWED[math], f"{name}, {case}, {math}: an error of {each:.1e}"
    return found


@pytest.mark.parametrize("math", precision.TENSOR)
@pytest.mark.parametrize("layer, images", PAPER)
def test_the_paper_s_layers(launched, layer, images, math):
    compare(LAYERS[layer]((*PIXELS[layer], images)), math)
    assert [name for name, _ in launched] == ["conv_product", "conv_weight_parts_tensor", "conv_product"]
    assert all((defines["VECTOR"], defines["SPLIT"]) == (1 if images % 4 else 4, math == "fp32") for _, defines in launched)


@pytest.mark.parametrize("layer, images", PAPER[::2])
def test_three_tf32_are_as_exact_as_float32(monkeypatch, layer, images):
    case = LAYERS[layer]((*PIXELS[layer], images))
    tensor = compare(case)
    monkeypatch.setattr(device.Runner, "shared_memory", 0)
    for name, own, plain in zip(("y", "d_x", "d_w"), tensor, errors(case), strict=False):
        assert own <= 2 * plain, f"{name}, {case}: an error of {own:.1e}, the plain float32 kernel's is {plain:.1e}"


def test_many_terms():
    """3×TF32 does not lose by adding up more: a stage's sum is added in float32."""
    y, d_x, d_w, *_ = compare(Case((160, 3, 3, 4), (24, 3, 3), pad=(1, 1)))
    assert max(y, d_x, d_w) < 3e-7


@pytest.mark.parametrize("math, rows", [("fp32", 128), ("fp32", 96), ("fp32", 48),
                                        ("tf32", 192), ("tf32", 128), ("tf32", 96), ("tf32", 48)])
def test_tiles(monkeypatch, launched, math, rows):
    """Those of alexnet, each just overfull, so that there are several, the last of them nearly empty."""
    for table in "TILES", "WEIGHT_TILES":
        monkeypatch.setitem(getattr(tensor, table), math, {rows: getattr(tensor, table)[math][rows]})
    columns = tensor.WEIGHT_TILES[math][rows].columns
    compare(Case((columns // 4 + 1, 2, 5, 4), (rows + 3, 2, 2)), math)
    assert {defines["ROWS"] for _, defines in launched} == {rows}


@pytest.mark.parametrize("case", [
    Case((4, 4, 5, 8), (3, 3, 3), pad=(1, 1)),
    Case((2, 9, 7, 5), (3, 2, 4), stride=3, pad=(2, 1)),
    Case((6, 6, 5, 36), (4, 2, 3), stride=2, pad=(7, 4), groups=2),  # padding beyond the filter
    Case((2, 4, 5, 3), (2, 1, 1), stride=5, pad=(3, 2)),
    Case((3, 4, 5, 2), (1, 9, 9), pad=(4, 4)),  # a filter larger than the image
    Case((2, 3, 3, 2), (2, 2, 2), stride=3, pad=(4, 4)),  # windows that see nothing but padding
    Case((2, 9, 8, 2), (3, 2, 2), stride=4),  # pixels that no window sees
], ids=str)
def test_ragged_and_odd(monkeypatch, launched, case):
    monkeypatch.setattr(launches, "PART_TERMS", 24)  # more parts than some taps have pixels
    compare(case)
    assert "conv_weight_parts" not in dict(launched)


@pytest.mark.parametrize("math", precision.TENSOR)
@pytest.mark.parametrize("inputs, outputs, images", FULLY_CONNECTED)
def test_fully_connected(launched, inputs, outputs, images, math):
    compare(Case((inputs, 1, 1, images), (outputs, 1, 1)), math)
    assert [name for name, _ in launched] == ["conv_product", "conv_weight_parts_tensor", "conv_product"]
    assert launched[2][1]["WEIGHTS"] == (1 if inputs % 4 else 4)  # the weights as they lie


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("math", precision.TENSOR)
@pytest.mark.parametrize("case", [Case((6, 4, 3, 5), (4, 3, 2), pad=(1, 1), groups=2), Case((40, 1, 1, 3), (9, 1, 1)),
                                  Case((16, 5, 5, 4), (10, 3, 3), stride=2)], ids=str)
def test_parts_of_forward_and_of_the_input_gradient(monkeypatch, case, math, relu):
    monkeypatch.setattr(passes, "SPLIT_TERMS", 5)  # uneven ones, and more of them than some blocks have stages
    compare(case, math, relu=relu)


def test_the_same_bits_in_any_order_of_threads(monkeypatch):
    monkeypatch.setattr(device, "SEEDS", (0, 1, 2))  # which device.py compares
    monkeypatch.setattr(launches, "PART_TERMS", 24)
    monkeypatch.setattr(passes, "SPLIT_TERMS", 20)
    compare(Case((6, 5, 4, 10), (10, 3, 3), pad=(1, 1), groups=2))
    compare(Case((3, 9, 7, 8), (4, 3, 3), stride=2, pad=(0, 1)), "tf32")


def test_arrays_at_odd_places(launched):
    compare(Case((2, 4, 5, 8), (3, 3, 3), pad=(1, 1)), put=odd_place)
    assert {defines["VECTOR"] for _, defines in launched} == {1}


@pytest.mark.parametrize("memory, kernels", [(H200, KERNELS[:2]), (0, KERNELS[2:])], ids=["tensor", "plain"])
def test_relu_within_forward_and_backward(monkeypatch, launched, memory, kernels):
    monkeypatch.setattr(device.Runner, "shared_memory", memory)
    compare(Case((3, 4, 4, 6), (5, 3, 3), pad=(1, 1)), relu=True)
    assert set(dict(launched)) == set(kernels)


def test_relu_keeps_nan():
    x, w, b, _ = (CuemuBackend().to_device(a) for a in Case((1, 1, 1, 4), (2, 1, 1)).arrays(np.random.default_rng(0), "f4"))
    cuemu.initialised(device.host(x))[0, 0, 0, 1] = np.nan
    y = memory.to_host(conv.conv_forward(x, w, b, relu=True))
    assert np.isnan(y[:, 0, 0, 1]).all() and np.isfinite(y[:, 0, 0, ::2]).all()


def test_less_shared_memory(monkeypatch, launched):
    """Two stages instead of three on smaller cards, with the same bits; the plain kernels where not even they fit."""
    case, results = Case((5, 4, 4, 8), (6, 3, 3), pad=(1, 1)), []
    arrays = case.arrays(np.random.default_rng(1), np.float32)
    for room in H200, 50_000, 30_000, 20_000:
        monkeypatch.setattr(device.Runner, "shared_memory", room)
        results.append([memory.to_host(array).tobytes() for array in run(arrays, case.options(), CuemuBackend().to_device)])
    assert [(name, defines.get("STAGES")) for name, defines in launched] == [
        ("conv_product", 3), ("conv_weight_parts_tensor", 3), ("conv_product", 3),
        ("conv_product", 3), ("conv_weight_parts_tensor", 2), ("conv_product", 3),
        ("conv_product", 2), ("conv_weight_parts", None), ("conv_product", 2),
        ("conv_forward", None), ("conv_weight_parts", None), ("conv_input_gradient", None)]
    assert results[0] == results[1] and results[0][:2] == results[2][:2]


def test_float64_takes_the_plain_kernels(launched):
    arrays = Case((2, 3, 3, 2), (2, 2, 2)).arrays(np.random.default_rng(1), np.float64)
    run(arrays, {}, CuemuBackend().to_device)
    assert [name for name, _ in launched] == ["conv_forward", "conv_weight_parts", "conv_input_gradient"]


def test_a_step_allocates_nothing_the_second_time(monkeypatch):
    case, asked = Case((6, 5, 4, 12), (10, 3, 3), pad=(1, 1), groups=2), []
    empty = device.Runner.empty
    monkeypatch.setattr(memory, "_workspaces", {})
    monkeypatch.setattr(device.Runner, "empty", lambda *arguments: asked.append(arguments) or empty(*arguments))
    x, w, b, d_y = (CuemuBackend().to_device(array) for array in case.arrays(np.random.default_rng(1), np.float32))
    y, d_x, d_w, d_b = (CuemuBackend().empty(array.shape, np.float32) for array in (d_y, x, w, b))
    for _ in range(2):
        before = len(asked)
        conv.conv_forward(x, w, b, **case.options(), out=y)
        conv.conv_backward(d_y, x, w, d_w, d_b, **case.options(), out=d_x)
    assert before == len(asked) > 0


def test_a_step_of_a_net(launched):
    """Five convolutions with ReLU in their kernels, two columns: the gradients of the definition in float64."""
    table, rng = nets.build("mini", (1, 8, 8), 10), np.random.default_rng(0)
    images, labels = rng.standard_normal((1, 8, 8, 4)), np.array([1, 2, 9, 0], np.int32)
    exact, tensor = (Network(table, [where], seed=3, dtype=dtype)
                     for where, dtype in ((Device(), np.float64), (device.Emulated("cpu"), np.float32)))
    step = Pass(training=True, seed=3)
    assert error(memory.to_host(tensor.forward(images.astype(np.float32), step)), exact.forward(images, step)) < 1e-6
    for network in exact, tensor:
        network.backward(labels)
    for name in exact.parameters:
        assert error(tensor.get("gradients", name), exact.get("gradients", name)) < 2e-6, name
    names = [name for name, _ in launched]
    assert names.count("conv_product") == 15 and names.count("conv_weight_parts_tensor") == 8 and len(names) == 23


def test_no_bank_is_met_twice():
    """Every load of a warp from the tiles takes as few turns at shared memory's 32 banks as its bytes need."""
    lanes = np.arange(32)
    g, t = lanes // 4, lanes % 4
    for math in precision.TENSOR:
        for rows, tile in tensor.TILES[math].items():
            assert turns((t * (rows + 8) + 2 * g), 2) == 2 and turns(t * (tile.columns + 8) + g, 1) == 1
    text = source.text(FOLDER / "tensor_weights.cu")
    probe = 'extern "C" __global__ void probe(int* to, int k) { int l = threadIdx.x; to[l] = at(l % 16, k + l / 16 * 4); }'
    macros = {"ROWS": 32, "COLUMNS": 32, "TM": 32, "TN": 32, "STAGES": 2, "VECTOR": 4, "SPLIT": 1}
    kernel = cuemu.RawModule(code=text + probe, options=[f"-D{name}={value}" for name, value in macros.items()])
    for k in range(0, tensor.WEIGHT_DEPTH, 8):
        words = np.zeros(32, np.int32)
        kernel.get_function("probe")((1,), (32,), (words, np.int32(k)))
        assert turns(words, 4) == 4


def turns(words, width):
    """Cycles that 32 lanes' loads of `width` words each take; 32 words in each where no two lanes meet in a bank."""
    together = np.split(words, width)  # of 16 bytes a quarter of the lanes at a time, of 8 half
    return sum(np.bincount(np.unique(part[:, None] + np.arange(width)) % 32).max() for part in together)


# Mutants

CASES = {  # for a kernel file: cases by arrays of the device; small tiles, so that there are several blocks
    "tensor": [Case((5, 4, 3, 3), (17, 2, 3), pad=(1, 0)), Case((4, 5, 4, 36), (2, 3, 3), stride=2, pad=(0, 1), groups=2),
                    Case((1, 2, 2, 1), (1, 2, 2), pad=(3, 3)), Case((5, 1, 1, 3), (7, 1, 1))],
    "tensor_weights": [Case((15, 4, 3, 3), (17, 3, 3), pad=(1, 1)),
                            Case((4, 5, 4, 36), (4, 2, 2), stride=2, pad=(0, 1), groups=2),
                            Case((33, 5, 3, 32), (2, 1, 1), pad=(1, 1))],
    "passes": [Case((2, 3, 3, 7), (17, 2, 2)), Case((2, 9, 9, 60), (2, 1, 1))],
}
TINY = {"TILES": {16: tensor.Tile(64, 16, 16)}, "WEIGHT_TILES": {16: tensor.Tile(32, 16, 16)}}

# Edits by hand of what mutate.py leaves alone: what to replace, and by what.
EDITS = {
    "tensor": [
        ("times % divisor == 0 ? at", "true ? at"),
        ("(k + 4 * h + t) * LEFT_ROW", "(k + 4 * h + t + 1) * LEFT_ROW"),
        ("ring + next % STAGES * SLOT", "ring + stage % STAGES * SLOT"),
        ("(C * tap_count + BK - 1) / BK", "C * tap_count / BK"),
        ("(share.first * BK + thread % BK) / most", "thread % BK / most"),
        ("(share.first * BK + thread % BK) % most", "thread % BK % most"),
        ("c += BK / most + next;", "c += BK / most;"),
        ("tap += BK % most;", "tap += BK % most + 1;"),
        ("if (stage >= STAGES - 1) plan(stage + 1);", "plan(stage + 1);"),
        ("if (stage >= STAGES - 1) plan(stage + 1);", ""),
        ("(blockIdx.z * M + m)", "(group * M + m)"),
        ("kind = SPLIT ? 0 : 2", "kind = SPLIT ? 1 : 2"),
        ("kind == 1 ? right_small[j] : right_big[j]", "right_big[j]"),
        ("channel * R * S + taps[tap]", "c * R * S + taps[tap]"),
    ],
    "tensor_weights": [
        ("(i / 4 ^ row % 8)", "(i / 4 ^ row % 16)"),
        ("(N + BK - 1) / BK", "N / BK"),
        ("(part < steps % parts ? 1 : 0)", "0"),
        ("q = share.q_first;", "q = 0;"),
    ],
    "passes": [
        ("part < count", "part < count - 1"),
        ("gridDim.y * THREADS * WIDTH", "gridDim.y * THREADS * WIDTH + 1"),
        ("store(d, d_y, i, count);", ""),
    ],
}


def noticed(name):
    """[(mutant, what notices it)] of a file; mma.cuh's with the first."""
    def compare_all(patch):
        patch.setattr(launches, "PART_TERMS", 100)
        patch.setattr(passes, "BIAS_TERMS", 24)
        patch.setattr(passes, "BIAS_BLOCKS", 4)
        for table, tile in TINY.items():
            patch.setitem(getattr(tensor, table), "fp32", tile)
        for terms in 256, 20:  # without parts of forward and input gradient, and with
            patch.setattr(passes, "SPLIT_TERMS", terms)
            for case in CASES[name]:
                compare(case, relu=name == "passes")

    path, included = FOLDER / f"{name}.cu", ["mma.cuh"] if name == "tensor" else []
    return mutants.survey(path, mutants.mutants(path, included, EDITS[name]), compare_all)


@pytest.mark.parametrize("name", CASES)
def test_every_barrier_wait_and_guard_is_missed(name):
    found = noticed(name)
    for mutant, by in found:
        print(f"{mutant}\n    {by}")
    assert len(found) > 10 and not [mutant.description for mutant, by in found if not by]


if __name__ == "__main__":
    device.Runner.shared_memory = H200
    for layer in LAYERS:
        for math in precision.TENSOR:
            worst = np.max([compare(LAYERS[layer]((*PIXELS[layer], images)), math) for images in (1, 3, 32, 128, 130)], axis=0)
            print(layer, math, *(f"{name} {each:.1e}" for name, each in zip(("y", "d_x", "d_w"), worst, strict=False)))
    precision.set_math("fp32")
    for name in CASES:
        test_every_barrier_wait_and_guard_is_missed(name)

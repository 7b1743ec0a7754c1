"""Every kernel through NVIDIA's own compiler, for each generation of GPUs: no warnings, no spills but those that are named, and
no more registers and shared memory than its block can have. In the very variants that the paper's net asks for there at a
batch of 128, and at 130 and 30, no multiples of 4, the latter so few that a block takes several pixels.

    python -m tests.test_nvrtc      the table
"""
import functools
import os
import re
from collections import defaultdict
from copy import copy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import cpnet
from cpnet import nets, precision
from cpnet.gpu import platform
from cpnet.layers import Pass
from cpnet.ops import crops, dropout, lrn_pool, pointwise, pool, sgd, softmax
from cpnet.studies.ops import nearest, squared_error
from tests import device, nvrtc

ARCHITECTURES = 75, 80, 90, 120
REGISTERS = 64  # at most: four blocks of 256 threads on a multiprocessor; but of these files more
REGISTERS_OF = {"plain": 255, "tensor": 255, "lrn_pool": 184}  # a thread's most; 184 in float64, which no speed depends on
SHARED = 48 << 10
MATHS = {90: precision.TENSOR}  # "fp32" for the others: TF32 takes half a minute to compile
# What precision.tensor_cores says of each: bytes of shared memory that a block may have, or 0 without tensor cores for TF32.
ROOM = {75: 0, 80: 163 << 10, 86: 99 << 10, 89: 99 << 10, 90: 227 << 10, 100: 227 << 10, 120: 99 << 10}
BATCHES = 128, 130, 30


def may_spill(file, macros, dtype, architecture):
    """Bytes of registers that a variant may keep in memory for want of room (docs/kernels.md)."""
    return 4 if (file, dtype, architecture) == ("lrn_pool.cu", np.float64, 75) else 0


class Shadow(np.ndarray):
    """An array of a device on which nothing is computed. Its memory is never touched, hence never there."""


class Function:
    """A kernel that does nothing."""
    max_dynamic_shared_size_bytes = 48 << 10

    def __init__(self, recorder, code, name):
        self.recorder, self.code, self.name = recorder, code, name

    def __call__(self, grid, block, args, shared_mem=0):
        launched = self.recorder.variants[self.code]
        launched[self.name] = max(shared_mem, launched.get(self.name, 0))
        self.recorder.launches.append((self.code, self.name, shared_mem))


class Recorder:
    """The platform of Shadow: notes which variants of which text are asked for, by a GPU of this architecture."""

    def __init__(self, architecture):
        self.variants = {}  # text: {kernel: the most dynamic shared memory that it was launched with}
        self.launches = []  # (text, kernel, dynamic shared memory)
        self.architecture = architecture

    def device(self, array):
        return 0

    def use(self, device):
        pass

    def module(self, code):
        self.variants.setdefault(code, {})
        return SimpleNamespace(get_function=lambda name: Function(self, code, name))

    def tensor_cores(self, device):
        return ROOM[self.architecture]

    def address(self, array):
        return 0

    def empty(self, shape, dtype):
        return np.empty(shape, dtype).view(Shadow)

    def to_host(self, array):
        return np.zeros(array.shape, array.dtype)

    def assign(self, array, values):
        pass


def step(recorder, images, dtype):
    """A training step of the paper's net but for loss and update. Returns the logits."""
    run = Pass(training=True)
    for index, (layer, shape, _) in enumerate(nets.build("alexnet").shapes()):
        layer, columns = copy(layer), 2
        layer.device, layer.index, layer.columns, layer.first_unit = recorder, index, columns, 0
        layer.input_gradient = index > 0
        for kind in "values", "gradients":
            setattr(layer, kind, {key: recorder.empty(parameter.shape, dtype)
                                  for key, parameter in layer.parameters(shape, columns).items()})
        y = layer.forward(recorder.empty((*shape, images), dtype), run)
        layer.backward(recorder.empty(y.shape, dtype))
    return y


def variants(dtype, architecture):
    """{text: {kernel: dynamic shared memory}} of training steps, and of the operations that the paper's net does without."""
    recorder, images = Recorder(architecture), BATCHES[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(platform._platforms, Shadow, recorder)
        device.forget(patch)
        for math in MATHS.get(architecture, ["fp32"]):
            patch.setattr(precision, "_math", math)
            for count in BATCHES[::-1]:
                y = step(recorder, count, dtype)
        labels = recorder.empty((images,), np.int32)
        losses = softmax.cross_entropy_forward(y, labels)
        softmax.cross_entropy_backward(y, labels)
        softmax.tally(losses, softmax.label_rank(y, labels), recorder.empty((3,), np.float64))
        softmax.softmax(y)
        dropout.dropout_test(y)
        count = recorder.empty((1,), np.float64)
        dropout.dropout_mask(y.shape, seed=0, step=count, layer=0, out=recorder.empty(y.shape, bool))
        pointwise.tanh_forward(y)
        pointwise.tanh_backward(y, y)
        pointwise.sign(y)
        pointwise.add(y, y)
        squared_error.squared_error_forward(y, y)
        squared_error.squared_error_backward(y, y)
        vectors, codes = recorder.empty((1000, 4096), np.float32), recorder.empty((2, 1000), np.uint64)
        squares = nearest.square_sums(vectors)
        keys = nearest.euclidean_keys(vectors, vectors, squares, squares, 0)
        nearest.smallest(keys, nearest.hamming_keys(recorder.empty((1000, 2), np.uint64), codes, 0), 100)
        x = recorder.empty((3, 55, 55, images), dtype)
        pool.average_pool_backward(pool.average_pool_forward(x), x.shape)
        for shape in (96, 55, 55, images), (256, 27, 27, images):  # what a Network makes of the step's LRN and max pooling
            x = recorder.empty(shape, dtype)
            pooled, winner = lrn_pool.lrn_pool_forward(x, groups=2)
            lrn_pool.lrn_pool_backward(pooled, x, winner, relu=True, groups=2)
        sgd.sgd_update(y, y, y, rate=0.1)
        segments = sgd.Segments([0], [y.size])
        segments.set([0.1], [0], y)
        sgd.sgd_update_segments(y, y, y, segments)
        pixels, corner = recorder.empty((images, 3, 224, 224), np.uint8), recorder.empty((images,), np.int32)
        mirror, shift = recorder.empty((images,), bool), recorder.empty((images, 3), dtype)
        crops.center_crops(pixels, recorder.empty((3, 256, 256), dtype), corner, corner, mirror, shift)
    return recorder.variants


@functools.cache
def compiled(dtype, architecture):
    """[(file, macros, Kernel, dynamic shared memory, or None where it was not launched)] and {file: PTX}."""
    rows, ptx = [], defaultdict(str)
    for code, launched in variants(dtype, architecture).items():
        macros, _, text = code.partition("#line 1 ")
        file, macros = text.split('"')[1], dict(line.split()[1:] for line in macros.splitlines())
        # -ftz as CuPy has it; warnings become errors in nvrtc.compile, as older versions have no option for that
        kernels, text = nvrtc.compile(code, [f"-arch=sm_{architecture}", "-ftz=true"])
        rows += [(file, macros, kernel, launched.get(kernel.name)) for kernel in kernels]
        ptx[file] += text
    return rows, ptx


def all_cases():
    return [(np.float32, architecture) for architecture in ARCHITECTURES] + [(np.float64, 75), (np.float64, 80)]


@pytest.fixture(scope="module", autouse=True)
def _compiler():
    if nvrtc.library() is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("NVRTC is not installed: pip install nvidia-cuda-nvrtc")


@pytest.mark.parametrize("dtype, architecture", all_cases())
def test_kernels_compile_and_fit(dtype, architecture):
    rows, ptx = compiled(dtype, architecture)
    for file, macros, kernel, dynamic in rows:
        if dynamic is None:
            continue
        where = f"{file} {kernel.name} {macros}"
        assert kernel.spilled <= may_spill(file, macros, dtype, architecture), where
        most = [each for name, each in REGISTERS_OF.items() if file.startswith(name)] or [REGISTERS]
        assert kernel.registers <= most[0], where
        assert kernel.shared <= SHARED, where
        assert kernel.shared <= static_shared(kernel.name, macros) or not dynamic, where
        assert kernel.shared + dynamic <= (ROOM[architecture] or SHARED), where
    vector = ".v4." if dtype is np.float32 else ".v2."
    for file in "pointwise.cu", "sgd.cu":  # 16 bytes a load and a store
        assert f"ld.global{vector}" in ptx[file] and f"st.global{vector}" in ptx[file]


def test_every_file_and_kernel_is_compiled():
    rows = [row for architecture in (75, 80) for row in compiled(np.float32, architecture)[0]]  # without tensor cores, and with
    assert {file for file, *_ in rows} == {path.name for path in Path(cpnet.__file__).parent.rglob("*.cu")}
    launched = {(file, kernel.name) for file, _, kernel, dynamic in rows if dynamic is not None}
    assert launched == {(file, kernel.name) for file, _, kernel, _ in rows}


def static_shared(kernel, macros):
    """Bytes of static shared memory, at most, of the kernels that ask for more at their launch."""
    return {"conv_product": 16, "conv_weight_parts_tensor": 12 * int(macros.get("COLUMNS", 0))}.get(kernel, SHARED)


@pytest.mark.parametrize("math", precision.TENSOR)
@pytest.mark.parametrize("architecture", [architecture for architecture in ROOM if ROOM[architecture]])
@pytest.mark.parametrize("images", [1, 2, 3, 8, 16, 30, 32, 64, 128, 256, 512, 1024])
def test_every_product_of_the_paper_s_net_is_by_tensor_cores(monkeypatch, architecture, images, math):
    """On every card that has them, whatever the batch: the tiles fit into its shared memory, with a pipeline of two stages or
    three. 5 convolutions and 3 fully-connected layers: forward, gradients of weights, and of all inputs but the image."""
    recorder = Recorder(architecture)
    monkeypatch.setitem(platform._platforms, Shadow, recorder)
    monkeypatch.setattr(precision, "_math", math)
    device.forget(monkeypatch)
    step(recorder, images, np.float32)
    products = [(code, name, dynamic) for code, name, dynamic in recorder.launches
                if name.startswith("conv_") and code.partition("#line 1 ")[2].split('"')[1] != "passes.cu"]
    names = [name for _, name, _ in products]
    assert names.count("conv_product") == 8 + 7 and names.count("conv_weight_parts_tensor") == 8 and len(names) == 23
    for code, name, dynamic in products:
        macros = dict(line.split()[1:] for line in code.partition("#line 1 ")[0].splitlines())
        assert dynamic + static_shared(name, macros) <= ROOM[architecture] and int(macros["STAGES"]) in (2, 3)
        assert (macros["SPLIT"] == "1") == (math == "fp32") and (macros["VECTOR"] == "4") == (images % 4 == 0)


@pytest.mark.parametrize("architecture", [80, 90, 120])
def test_tensor_cores_are_fed_while_they_work(architecture):
    _, ptx = compiled(np.float32, architecture)
    for file in "tensor.cu", "tensor_weights.cu":
        for instruction in "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32", "cp.async.cg.shared.global", "wait_group 1":
            assert instruction in ptx[file]
    assert "ldmatrix.sync.aligned.m8n8.x4" in ptx["tensor_weights.cu"]
    assert not re.search(r"\s(atom|red)\.\S*\.f\d", "".join(ptx.values()))  # sums of floats have a fixed order


def test_warnings_and_errors_are_refused():
    kernel = 'extern "C" __global__ void f(float* x) { %s }'
    with pytest.raises(nvrtc.CompileError, match="declared but never referenced"):
        nvrtc.compile(kernel % "int unused;", ["-arch=sm_80"])
    with pytest.raises(nvrtc.CompileError, match="undefined"):
        nvrtc.compile(kernel % "x[0] = y;", ["-arch=sm_80"])
    (found,), _ = nvrtc.compile(kernel % "__shared__ float s[64]; s[threadIdx.x] = x[0]; __syncthreads(); x[1] = s[5];",
                                ["-arch=sm_80"])
    assert found.name == "f" and found.shared == 256 and found.spilled == 0 < found.registers


if __name__ == "__main__":
    table = defaultdict(dict)
    for dtype, architecture in all_cases():
        for file, macros, kernel, dynamic in compiled(dtype, architecture)[0]:
            if kernel.spilled:
                print("spills", dtype, architecture, file, kernel, macros)
            if dynamic is not None:
                cell = table[file, kernel.name].setdefault((np.dtype(dtype).name, architecture), [])
                cell.append(f"{kernel.registers}" + f" +{kernel.spilled} spilled" * (kernel.spilled > 0)
                            + f"/{kernel.shared}" * (kernel.shared > 0))
    cases = [(np.dtype(dtype).name, architecture) for dtype, architecture in all_cases()]
    print("Registers a thread / bytes of static shared memory a block\n")
    print("| kernel | " + " | ".join(f"{dtype} sm_{architecture}" for dtype, architecture in cases) + " |")
    print("|---" * (len(cases) + 1) + "|")
    for (file, name), cells in table.items():
        print(f"| {file} {name} | " + " | ".join(", ".join(cells.get(case, [])) for case in cases) + " |")

import subprocess
import sys

import numpy as np
import pytest

from cpnet.errors import CpnetError
from cpnet.gpu import kernels, platform
from cpnet.gpu.kernels import blocks, expect, launch
from cpnet.gpu.memory import empty, to_host
from cpnet.gpu.platform import on_gpu
from tests import cuemu
from tests.device import DeviceArray

cuemu.require()

KERNELS = """
#include "part.cuh"
// extern "C" __global__ void in_a_comment(int n)
extern "C" __global__ void __launch_bounds__(THREADS)
scale(const real* __restrict__ x, real* y, long long n, real by) {
  const long long i = (long long)blockIdx.x * THREADS + threadIdx.x;
  if (i < n) y[i] = scaled(x[i], by);
}
extern "C" __global__ void kinds(int a, unsigned b, unsigned long long c, float d, double e, bool f, double* out) {
  out[0] = a; out[1] = b; out[2] = c; out[3] = d; out[4] = e; out[5] = f;
}
extern "C" __global__ void chosen(const label* labels, unsigned char* out) { out[0] = labels[0] + sizeof(label); }
extern "C" __global__ void large(float* out, int n) {
  extern __shared__ float s[];
  s[threadIdx.x + n - 32] = threadIdx.x;
  out[threadIdx.x] = s[threadIdx.x + n - 32];
}
extern "C" __global__ void strange(half* x) {}
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    """The path of a .py beside whose .cu the kernels above lie."""
    monkeypatch.setattr(kernels, "_modules", {})
    monkeypatch.setattr(kernels, "_functions", {})
    (tmp_path / "some.cu").write_text(KERNELS)
    (tmp_path / "part.cuh").write_text('#include "inner.cuh"\n')
    (tmp_path / "inner.cuh").write_text("__device__ real scaled(real x, real by) { return x * by; }\n")
    return str(tmp_path / "some.py")


def put(array):
    copy = cuemu.empty(array.shape, array.dtype)
    cuemu.initialised(copy)[...] = array
    return copy.view(DeviceArray)


def options(**others):
    return {"defines": {"THREADS": 32, "label": "int", "half": "unsigned short", **others}}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_real_is_the_arrays_dtype(file, dtype):
    x = put(np.arange(70, dtype=dtype))
    y = empty((70,), dtype, x)
    launch(file, "scale", blocks(70, 32), 32, x, y, 70, 3, **options())
    np.testing.assert_array_equal(to_host(y), 3 * np.arange(70))
    assert to_host(y).dtype == dtype and on_gpu(y) and not on_gpu(to_host(y))


def test_a_text_is_compiled_once_for_each_set_of_macros(file, monkeypatch):
    compiled = []
    make = cuemu.RawModule
    monkeypatch.setattr(cuemu, "RawModule", lambda **arguments: compiled.append(arguments["code"]) or make(**arguments))
    x = put(np.ones(5, np.float32))
    for threads in 32, 64, 32:
        launch(file, "scale", 1, threads, x, x, 5, 2, **options(THREADS=threads))
    launch(file, "large", 1, 32, put(np.zeros(32, np.float32)), 32, shared=128, **options())
    assert all("#define real float\n" in each for each in compiled)
    assert ["#define THREADS 32\n" in each for each in compiled] == [True, False]
    assert to_host(x).tolist() == [8.0] * 5


def test_numbers_become_the_parameters_types(file):
    out = put(np.zeros(6))
    launch(file, "kinds", 1, 1, -5, 2**32 - 1, 2**63, 0.1, 0.1, True, out, **options())
    assert to_host(out).tolist() == [-5, 2**32 - 1, 2**63, np.float32(0.1), 0.1, 1]
    launch(file, "kinds", 1, 1, np.int64(7), np.uint8(8), 9, np.float64(1.5), 2, np.False_, out, **options())
    assert to_host(out).tolist() == [7, 8, 9, 1.5, 2, 0]


@pytest.mark.parametrize("dtype, label, size", [(np.int32, "int", 4), (np.int64, "long long", 8)])
def test_a_type_may_be_a_macro(file, dtype, label, size):
    out = put(np.zeros(1, np.uint8))
    launch(file, "chosen", 1, 1, put(np.array([3], dtype)), out, **options(label=label))
    assert to_host(out)[0] == 3 + size
    with pytest.raises(TypeError, match=rf"chosen, labels: int16, not {np.dtype(dtype)}"):
        launch(file, "chosen", 1, 1, put(np.array([3], np.int16)), out, **options(label=label))


def test_more_shared_memory_than_usual(file):
    out = put(np.zeros(32, np.float32))
    launch(file, "large", 1, 32, out, 25_000, shared=100_000, **options())
    assert to_host(out).tolist() == list(range(32))


def test_an_empty_grid_does_nothing(file):
    x = put(np.ones(3, np.float32))
    launch(file, "scale", 0, 32, x, x, 0, 2, **options())
    assert to_host(x).tolist() == [1, 1, 1]


X = np.ones((6, 4), np.float32)


@pytest.mark.parametrize("arguments, message", [
    (lambda x: (x, x, 24), r"scale takes 4 arguments \(x, y, n, by\), not 3"),
    (lambda x: (x, None, 24, 1), "scale, y: an array on a GPU is needed, not NoneType"),
    (lambda x: (X, x, 24, 1), "scale, x: an array on a GPU is needed, not ndarray"),
    (lambda x: (x, put(np.ones(24)), 24, 1), "scale, y: float64, not float32"),
    (lambda x: (put(np.ones(24, int)), x, 24, 1), "scale, x: int64, not float32 or float64"),
    (lambda x: (x, x.T, 24, 1), r"scale, y: not contiguous \(shape \(4, 6\)"),
    (lambda x: (x, x[:, :3], 24, 1), "scale, y: not contiguous"),
    (lambda x: (x, x, 24.0, 1), "scale, n: 24.0 does not fit long long"),
    (lambda x: (x, x, 2**63, 1), "scale, n: 9223372036854775808 does not fit long long"),
    (lambda x: (x, x, x, 1), "scale, n: a number is needed, not DeviceArray"),
    (lambda x: (x, x, 24, "two"), "scale, by: a number is needed, not str"),
])
def test_an_argument_that_does_not_fit_is_named(file, arguments, message):
    x = put(X)
    with pytest.raises(TypeError, match=message):
        launch(file, "scale", 1, 32, *arguments(x), **options())
    np.testing.assert_array_equal(to_host(x), X)


def test_other_things_that_do_not_fit(file):
    x = put(X)
    with pytest.raises(ValueError, match="some.cu has no kernel scall; it has scale, kinds, chosen, large, strange"):
        launch(file, "scall", 1, 32, **options())
    with pytest.raises(TypeError, match="strange, x: cpnet/gpu/kernels.py does not know the type 'unsigned short'"):
        launch(file, "strange", 1, 32, x, **options())
    with pytest.raises(ValueError, match=r"scale: a grid of \(1, 65536\) blocks is over the limits"):
        launch(file, "scale", (1, 65536), 32, x, x, 24, 1, **options())
    with pytest.raises(ValueError, match=r"scale: y has the shape \(6, 4\), not \(4, 6\)"):
        expect("scale", (4, 6), y=x)
    with pytest.raises(cuemu.CuemuError, match="out of bounds.*some.cu:7"):  # the line of the file as it is
        launch(file, "scale", 1, 32, x, x, 30, 1, **options())


class Elsewhere(np.ndarray):
    """An array of another device."""


def test_arrays_of_different_devices(file, monkeypatch):
    class Other(type(platform._platforms[DeviceArray])):
        def device(self, array):
            return "gpu 1"

    monkeypatch.setitem(platform._platforms, Elsewhere, Other())
    x, other = put(X), put(X).view(Elsewhere)
    with pytest.raises(TypeError, match="scale, y: on device gpu 1, an argument before it on cpu"):
        launch(file, "scale", 1, 32, x, other, 24, 1, **options())


def test_memory_that_runs_out_is_one_line(monkeypatch):
    class Small(type(platform._platforms[DeviceArray])):
        def use(self, device):
            pass

        def empty(self, shape, dtype):
            raise MemoryError

    monkeypatch.setitem(platform._platforms, Elsewhere, Small())
    like = X.view(Elsewhere)
    with pytest.raises(CpnetError, match="^out of GPU memory: asked for 4,096 MiB, 1,024 MiB are free; "
                                         "a batch of 64 instead of 256 may fit$"):
        empty((4096, 1024, 256), np.float32, like)
    with pytest.raises(CpnetError, match="this net needs more of it$"):
        empty((1 << 20, 1024, 1), np.float32, like)


def test_without_a_gpu_cupy_is_not_imported():
    program = """
import sys
import numpy as np
from cpnet.ops import lrn, sgd, softmax
lrn.lrn_forward(np.ones((5, 2, 2, 3), np.float32))
assert "cupy" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)

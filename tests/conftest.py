"""What the tests share: where arrays live (`backend`), how exact results must be, and PyTorch, where it is installed."""
import faulthandler
import importlib
import itertools
import os
import pkgutil
import signal

import numpy as np
import pytest

from cpnet import ops, threads
from cpnet.gpu import devices, memory
from cpnet.studies import ops as study_ops
from data.store.dataset import Dataset
from tests import cuemu, gpus, softcuda
from tests.device import DeviceArray
from tests.helpers import small_set

# A shell that starts the tests in the background has them ignore Ctrl-C, which some of them press.
signal.signal(signal.SIGINT, signal.default_int_handler)


class NumpyBackend:
    """Where an operation's arrays live. Another one has the same methods, and every test that takes `backend` runs on it."""

    # The largest error allowed, by dtype, as a share of the largest value expected. A dtype not named here is not tested.
    tolerance = {"float32": 3e-6, "float64": 1e-13}

    def to_device(self, array):
        """A copy of a NumPy array, as the operations take it."""
        return np.array(array)

    def to_host(self, array):
        """The NumPy array of a result."""
        assert type(array) is np.ndarray
        return array

    def empty(self, shape, dtype):
        """A buffer to write results into; NaN, or else the largest value, wherever nothing is written."""
        return self.to_device(np.full(shape, np.nan if np.dtype(dtype).kind == "f" else np.iinfo(dtype).max, dtype))

    def assert_close(self, result, expected, dtype):
        """The result has this dtype and is within its tolerance. NaN is not close to anything."""
        result = self.to_host(result)
        assert result.dtype == dtype
        assert result.shape == expected.shape
        error = np.abs(result.astype(np.float64) - expected)
        allowed = self.tolerance[dtype] * max(np.abs(expected).max(initial=0), 1e-30)
        wrong = ~(error <= allowed)
        if wrong.any():
            at = tuple(int(i) for i in np.argwhere(wrong)[0])
            raise AssertionError(f"{wrong.sum()} of {wrong.size} values differ by more than {allowed:.1e}, first at {at}: "
                                 f"{result[at]}, not {expected[at]}")


class CuemuBackend(NumpyBackend):
    """The kernels, run on the CPU by cuemu: each launch in three orders of the threads, which must give the same bits."""

    def __init__(self):
        ok, reason = cuemu.available()
        if not ok:
            (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)

    def to_device(self, array):
        array = np.ascontiguousarray(array)
        copy = cuemu.empty(array.shape, array.dtype)
        cuemu.initialised(copy)[...] = array
        return copy.view(DeviceArray)

    def to_host(self, array):
        assert type(array) is DeviceArray
        return memory.to_host(array)

    def empty(self, shape, dtype):
        """A buffer that no kernel may read before it has written to it."""
        return cuemu.empty(shape, dtype).view(DeviceArray)


class CupyBackend(NumpyBackend):
    """The kernels on a real GPU."""

    def __init__(self):
        self.cupy = importlib.import_module("cupy")

    def to_device(self, array):
        return self.cupy.asarray(np.ascontiguousarray(array))

    def to_host(self, array):
        assert type(array) is self.cupy.ndarray
        return self.cupy.asnumpy(array)


BACKENDS = {"numpy": NumpyBackend, "cuemu": CuemuBackend, **({"cupy": CupyBackend} if gpus.CARD else {})}


@pytest.fixture(params=BACKENDS)
def backend(request):
    return BACKENDS[request.param]()


@pytest.fixture(params=["float32", "float64"])
def dtype(request, backend):
    if request.param not in backend.tolerance:
        pytest.skip(f"this backend has no {request.param}")
    return request.param


@pytest.fixture
def rng():
    return np.random.default_rng(2012)


@pytest.fixture
def no_test_hangs():
    """A loader that waits for ever must not do so to the tests: after a minute, say where everybody is and end."""
    faulthandler.dump_traceback_later(60, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(scope="session")
def torch():
    """PyTorch, to compare with: optional on a laptop, required where CI is set."""
    try:
        import torch
    except ImportError:
        if os.environ.get("CI"):
            pytest.fail("PyTorch is not installed: pip install torch")
        pytest.skip("PyTorch is not installed: pip install torch")
    torch.set_num_threads(1)
    return torch


@pytest.fixture
def same_bits():
    """A function that runs `run()`, which returns arrays, with 1, 2 and 3 threads, and wants the same bits from each."""
    before = threads.threads()

    def check(run):
        results = []
        for count in 1, 2, 3:
            threads.set_threads(count)
            results.append([np.asarray(array).tobytes() for array in run()])
        assert results[0] == results[1] == results[2]

    yield check
    threads.set_threads(before)


@pytest.fixture(autouse=True)
def spoiled_scratch(monkeypatch):
    """Scratch memory is uninitialised. Here it is full of NaN whenever an operation asks for it."""

    def spoiled(*arguments):
        array = threads.scratch(*arguments)
        array.reshape(-1).view(np.uint8)[...] = 255
        return array

    packages = [pkgutil.walk_packages(package.__path__, f"{package.__name__}.") for package in (ops, study_ops)]
    for _, name, _ in itertools.chain(*packages):
        module = importlib.import_module(name)
        if hasattr(module, "scratch"):
            monkeypatch.setattr(module, "scratch", spoiled)


@pytest.fixture(params=gpus.ORDERS, ids=lambda order: f"{order[0]} {order[1]}".removesuffix(" 0"))
def order(request):
    """The test runs with GPUs that work in each of gpus.ORDERS."""
    with gpus.in_order(*request.param):
        yield request.param


@pytest.fixture(autouse=True)
def on_softcuda(monkeypatch):
    """Only where --devices says so: by themselves, commands choose the CPU. What a device had to complain of fails the test."""
    if not gpus.SOFT:
        yield
        return
    monkeypatch.setattr(devices, "driver_installed", lambda: False)
    yield
    faults = softcuda.forgive()
    assert not faults, "\n".join(faults)


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    """A small open data set, for reading only."""
    with Dataset(small_set(tmp_path_factory.mktemp("data") / "squares.h5")) as dataset:
        yield dataset

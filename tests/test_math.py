"""--math, which decides how float32 products are computed, and the memory that operations share from step to step."""
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from cpnet import columns, cupy_gpus, launch
from cpnet.commands import train
from cpnet.launch import set_math, workspace
from tests.device import RUNNER, DeviceArray


@pytest.fixture(autouse=True)
def _fp32(monkeypatch):
    monkeypatch.setattr(launch, "_math", "fp32")


def test_what_there_is():
    set_math("tf32")
    assert launch.math() == "tf32"
    with pytest.raises(ValueError, match="math is fp32 or tf32, not 'fp16'"):
        set_math("fp16")
    with pytest.raises(SystemExit):
        train.parser().parse(["--math", "fp16"])


def test_where_it_changes_nothing(monkeypatch):
    monkeypatch.setattr(launch, "gpus", lambda: SimpleNamespace(tensor_cores={0: 0, 1: 200_000}.get))
    placed = columns.Device("cpu"), columns.Gpu("GPU 0, old", 0), columns.Gpu("GPU 0, old", 0)
    assert columns.remarks(placed) == []
    set_math("tf32")
    assert columns.remarks(placed) == [f"--math tf32 changes nothing on {name}: it has no tensor cores for that"
                                       for name in ("cpu", "GPU 0, old")]
    assert columns.remarks([columns.Gpu("GPU 1, new", 1)]) == []


@pytest.fixture
def cupy(monkeypatch):
    """A cupy whose products note how cuBLAS has been told to compute; device 0 is old, device 1 new."""
    told = []
    linalg = SimpleNamespace(COMPUTE_TYPE_DEFAULT=1, COMPUTE_TYPE_TF32=7,
                             set_compute_type=lambda dtype, kind: told.append(kind))
    properties = {0: {"major": 7, "sharedMemPerBlockOptin": 98_304}, 1: {"major": 9, "sharedMemPerBlockOptin": 232_448}}
    runtime = SimpleNamespace(getDeviceProperties=properties.get)
    module = SimpleNamespace(cuda=SimpleNamespace(runtime=runtime), dot=lambda a, b, out: told.append("dot"))
    monkeypatch.setitem(sys.modules, "cupy", module)
    monkeypatch.setitem(sys.modules, "cupy._core", SimpleNamespace(_routines_linalg=linalg))
    return told


def test_cublas_is_told(cupy):
    platform = cupy_gpus.Cupy()
    old, new = (SimpleNamespace(device=SimpleNamespace(id=device)) for device in (0, 1))
    for _ in range(2):
        platform.matmul(None, None, new, "fp32")
    platform.matmul(None, None, old, "tf32")  # which has no TF32
    platform.matmul(None, None, new, "tf32")
    platform.matmul(None, None, new, "fp32")
    assert cupy == [1, "dot", "dot", "dot", 7, "dot", 1, "dot"]
    assert [platform.tensor_cores(device) for device in (0, 1)] == [0, 232_448]


def test_a_workspace_is_the_same_memory(monkeypatch):
    monkeypatch.setattr(launch, "_workspaces", {})
    like = np.zeros(3, np.float32).view(DeviceArray)

    def address(*arguments):
        array = workspace(*arguments, like)
        assert (array.shape, array.dtype) == arguments[1:] and array.flags.c_contiguous
        return RUNNER.address(array)

    first = address("some", (4, 5), np.float32)
    assert first == address("some", (2, 3, 3), np.float32) == address("some", (20,), np.float32)
    others = [address(*arguments) for arguments in (("other", (4, 5), np.float32), ("some", (4, 5), np.float64),
                                                    ("some", (21,), np.float32))]
    assert first not in others and address("some", (4, 5), np.float32) == others[-1]
    elsewhere = like.view(DeviceArray)
    elsewhere.place = "elsewhere"
    assert RUNNER.address(workspace("some", (4, 5), np.float32, elsewhere)) not in (first, *others)
    assert sum(len(held) for held in launch._workspaces.values()) == 5

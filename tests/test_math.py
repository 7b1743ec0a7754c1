"""--math, which decides how float32 products are computed, and the memory that operations share from step to step."""
from types import SimpleNamespace

import numpy as np
import pytest

from cpnet import precision
from cpnet.commands import train
from cpnet.gpu import devices, memory, platform
from cpnet.gpu.memory import workspace
from cpnet.precision import set_math
from tests.device import RUNNER, DeviceArray
from tests.gpus import SOFT, gpus

ROOMS = 99 << 10, 163 << 10, 227 << 10  # bytes of shared memory that a block may have, on cards with tensor cores for TF32


@pytest.fixture(autouse=True)
def _fp32(monkeypatch):
    monkeypatch.setattr(precision, "_math", "fp32")


def test_what_there_is():
    set_math("tf32")
    assert precision.math() == "tf32"
    with pytest.raises(ValueError, match="math is fp32, tf32 or exact, not 'fp16'"):
        set_math("fp16")
    with pytest.raises(SystemExit):
        train.parser().parse(["--math", "fp16"])


def test_where_it_changes_nothing(monkeypatch):
    monkeypatch.setattr(devices, "gpus", lambda: SimpleNamespace(tensor_cores={0: 0, 1: 200_000}.get))
    placed = devices.Device("cpu"), devices.Gpu("GPU 0, old", 0), devices.Gpu("GPU 0, old", 0)
    assert devices.remarks(placed) == []
    set_math("tf32")
    assert devices.remarks(placed) == [f"--math tf32 changes nothing on {name}: it has no tensor cores for that"
                                       for name in ("cpu", "GPU 0, old")]
    assert devices.remarks([devices.Gpu("GPU 1, new", 1)]) == []


def test_which_cards_have_tensor_cores():
    """By the number that softcuda, or the machine, gives them."""
    for device in gpus("0"):
        room = platform.gpus().tensor_cores(device.number)
        assert room == 0 if SOFT else room in (0, *ROOMS)
    if SOFT:
        assert platform.gpus().tensor_cores(gpus("2")[0].number) == 163 << 10


def test_a_workspace_is_the_same_memory(monkeypatch):
    monkeypatch.setattr(memory, "_workspaces", {})
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
    assert sum(len(held) for held in memory._workspaces.values()) == 5

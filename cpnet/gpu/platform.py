"""What a GPU must offer: `Platform` lists every method once. cpnet.gpu.nvidia.Cupy is the one for NVIDIA's
GPUs, by CuPy; the tests and benches have others, for kernels alone.

An array's type decides which platform it belongs to; NumPy's arrays belong to none.
"""
import functools
from typing import Any, Protocol

import numpy as np

from cpnet.errors import CpnetError
from cpnet.gpu.nvidia import Cupy, driver_installed

_platforms = {}  # type of array: its platform


class KernelPlatform(Protocol):
    """What kernels need. `device` is a GPU's number; where a method has none, the current device is meant."""

    def device(self, array) -> Any:
        """The device that an array lies on."""

    def address(self, array) -> int:
        """Where an array begins, in bytes."""

    def use(self, device) -> None:
        """Make a device this thread's current one, which it stays until the next call."""

    def tensor_cores(self, device) -> int:
        """Bytes of shared memory that a block may have, if there are tensor cores for TF32;
        0 if there are none."""

    def module(self, code: str):
        """The compiled text: module.get_function(name)(grid, block, arguments,
        shared_mem=bytes) launches a kernel."""

    def empty(self, shape, dtype):
        """An uninitialised array. Raises MemoryError where there is no room."""

    def free(self) -> int:
        """Bytes that the device could still give."""

    def to_host(self, array) -> np.ndarray:
        """A NumPy copy of the device's array, having waited for all work on it."""

    def assign(self, array, values: np.ndarray) -> None:
        """Copy a NumPy array into the device's array;
        `values` may be written over as soon as this returns."""

    def copy(self, pairs) -> None:
        """Copy, for each (to, source), wherever each lies, in order with the work of the devices of both."""


class Platform(KernelPlatform, Protocol):
    """All that training needs besides."""

    def count(self) -> int:
        """How many GPUs there are. Raises CpnetError where they cannot be used."""

    def name(self, device) -> str:
        """What a GPU is called."""

    def unfit(self, device) -> str:
        """Why a GPU cannot run what is compiled here; "" if it can."""

    def processors(self, device) -> int:
        """How many multiprocessors it has."""

    def reaches(self, device, peer) -> bool:
        """Whether the hardware lets a device access the memory of another."""

    def versions(self, device) -> dict:
        """Versions of what computes there, and its memory in MiB: "cuda", "cupy", "memory_mib"."""

    def capture(self, work):
        """What `work()` launches, not run but recorded:
        an object whose launch() runs all of it, in its device's order."""

    def pinned(self, size: int) -> np.ndarray:
        """Bytes of host memory, uint8, that the device can read while the CPU does other work."""

    def upload(self, array, values: np.ndarray, after):
        """Copy pinned `values` into the device's array after an event, on a stream of its own;
        returns the copy's event."""

    def mark(self):
        """An event that passes when the device has done what it has been given so far."""

    def follow(self, event) -> None:
        """Have the device do what it is given from now on after an event."""

    def wait(self, event) -> None:
        """Return when an event has passed."""


@functools.cache
def gpus() -> Platform:
    """The platform of this machine's GPUs.
    Raises CpnetError where there is no driver, or CuPy cannot be used."""
    if not driver_installed():
        raise CpnetError("there is no GPU here, or NVIDIA's driver is not installed")
    return Cupy()


def register(kind, platform: KernelPlatform):
    """Arrays of exactly this type are on `platform` from now on."""
    _platforms[kind] = platform


def platform_of(array):
    """The platform of an array, ready for it: the array's device is the current one.
    None for a NumPy array."""
    platform = of_type(type(array))
    if platform is not None:
        platform.use(platform.device(array))
    return platform


def of_type(kind):
    """The platform of arrays of this type, or None."""
    if kind is not np.ndarray and kind not in _platforms and kind.__module__.partition(".")[0] == "cupy":
        register(kind, gpus())
    return _platforms.get(kind)


def on_gpu(array) -> bool:
    """Whether kernels run on this array: True for CuPy's and for those of registered types,
    False for NumPy's."""
    return of_type(type(array)) is not None

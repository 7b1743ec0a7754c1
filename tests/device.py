"""The CPU as a device for kernels alone: arrays that only kernels may touch, each launch run at once by cuemu.

Here kernels are tested: in several orders of threads, with mutants in their place, and with or without tensor cores. What the
host asks of a GPU is tested with the real CuPy (tests/gpus.py).
"""
from dataclasses import dataclass

import numpy as np

from cpnet.gpu import kernels, memory, platform
from cpnet.gpu.devices import Gpu
from tests import cuemu

SEEDS = 0, 1, 2  # orders of threads that every launch is run in; the results must have the same bits


class DeviceArray(np.ndarray):
    """An array on the device `place`. NumPy's functions refuse it: on a GPU they could not reach it."""
    place = "cpu"

    def __array_finalize__(self, base):
        self.place = getattr(base, "place", "cpu")

    def __array_ufunc__(self, *_, **__):
        raise TypeError("arithmetic on a device's array outside a kernel")

    def __array_function__(self, *_, **__):
        raise TypeError("a NumPy function on a device's array")


class Runner:
    """The platform of DeviceArray: as much of cpnet.nvidia.Cupy as kernels need. It does at once what it is given."""

    mutated = {}  # text of a file: what to run instead
    current = "cpu"
    shared_memory = 0  # what `tensor_cores` says: none, so that convolution takes its plain kernels

    def device(self, array):
        return getattr(array, "place", "cpu")

    def tensor_cores(self, device):
        return self.shared_memory

    def address(self, array):
        return array.ctypes.data

    def use(self, device):
        self.current = device

    def module(self, code):
        for text, mutant in self.mutated.items():
            code = code.replace(text, mutant)  # behind its macros
        return Module(cuemu.RawModule(code=code))

    def empty(self, shape, dtype):
        array = cuemu.empty(shape, dtype).view(DeviceArray)
        array.place = self.current
        return array

    def free(self):
        return 1 << 30

    def to_host(self, array):
        return host(array).copy()

    def assign(self, array, values):
        assert values.dtype == array.dtype and values.shape == array.shape
        cuemu.initialised(host(array))[...] = values

    def copy(self, pairs):
        for to, source in pairs:
            self.assign(to, host(source))


class Module:
    """A compiled text whose kernels run once for each of SEEDS, from the same arrays."""

    def __init__(self, module):
        self.module = module

    def get_function(self, name):
        return Function(self.module.get_function(name))


class Function:
    """A kernel of such a module."""

    def __init__(self, kernel):
        self.kernel = kernel

    @property
    def max_dynamic_shared_size_bytes(self):
        return self.kernel.max_dynamic_shared_size_bytes

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, value):
        self.kernel.max_dynamic_shared_size_bytes = value

    def __call__(self, grid, block, args, shared_mem=0):
        args = [host(arg) if isinstance(arg, np.ndarray) else arg for arg in args]
        arrays = [arg for arg in args if isinstance(arg, np.ndarray)]
        before = [array.copy() for array in arrays]
        first = None
        for seed in SEEDS:
            for array, saved in zip(arrays, before, strict=True):
                if array.flags.writeable:
                    array[...] = saved
            self.kernel(grid, block, args, shared_mem=shared_mem, seed=seed)
            bits = [array.tobytes() for array in arrays]
            first = first or bits
            assert bits == first, f"{self.kernel.name}: other bits in thread order {seed}"


def host(array):
    """The same memory as NumPy's own type."""
    return array.view(np.ndarray)


@dataclass(frozen=True)
class Emulated(Gpu):
    """Where a net's arrays are DeviceArrays of the place `name`: kernels refuse those of another."""

    def empty(self, shape, dtype):
        return memory.empty_on(RUNNER, self.name, shape, dtype, shape[-1])

    def holds(self, array):
        return array.place == self.name


def forget(patch):
    """Compile anew from now on, and set memory aside anew."""
    for module, name in (kernels, "_modules"), (kernels, "_functions"), (memory, "_workspaces"):
        patch.setattr(module, name, {})


RUNNER = Runner()
platform.register(DeviceArray, RUNNER)

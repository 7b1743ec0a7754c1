"""Kernels: the text that NVRTC is given is what tests/cuemu runs. What takes a cubin's place is that text with its options."""
import ctypes
import functools
import json

import numpy as np

from tests import cuemu
from tests.softcuda.errors import CudaError

MAGIC = b"softcuda "
OPTIONS = ("--std=", "-D", "-U", "-I", "-arch=", "-ftz=", "--device-as-default-execution-space")  # NVRTC's that CuPy gives


class Program:
    """A text for NVRTC to compile: `image` is what comes out, `log` what it says."""

    def __init__(self, source):
        self.source, self.image, self.log = source, b"", b""

    def compile(self, options):
        """Whether NVRTC would accept options and text."""
        unknown = [option for option in options if not option.startswith(OPTIONS)]
        try:
            if unknown:
                raise ValueError(f"nvrtc: error: invalid value for an option: {unknown[0]}")
            if self.source.strip():
                _module(self.source, options)
        except (cuemu.CuemuError, ValueError) as error:
            self.log = str(error).encode()
            return False
        self.image = MAGIC + json.dumps([self.source, options]).encode()
        return True


def load(image):
    """The cuemu module of an image."""
    if not image.startswith(MAGIC):
        raise CudaError("InvalidKernelImage", "it is none of softcuda's")
    return _module(*json.loads(image.removeprefix(MAGIC)))


def _module(source, options):
    return _compiled(source, tuple(option for option in options if option[:2] in ("-D", "-U")), cuemu.settings.mode)


@functools.cache
def _compiled(source, options, mode):
    return cuemu.RawModule(code=source, options=options, mode=mode)


class Function:
    """A kernel of a module that a device has loaded."""

    def __init__(self, machine, module, name, device):
        try:
            self.kernel = module.get_function(name)
        except cuemu.CuemuError as error:
            raise CudaError("SymbolNotFound", str(error)) from None
        self.machine, self.name, self.device = machine, name, device
        self.dynamic = 48 << 10  # bytes of shared memory that may be asked for at a launch

    def arguments(self, pointers):
        """The bytes of each argument: those at the launch count."""
        sizes = [8 if _is_pointer(kind) else int(kind[1:]) for kind in self.kernel.signature]
        places = (ctypes.c_void_p * len(sizes)).from_address(pointers) if sizes else ()
        return [ctypes.string_at(place, size) for place, size in zip(places, sizes, strict=True)]

    def run(self, grid, block, shared, arguments):
        names = [*self.kernel.parameters, *map(str, range(len(arguments)))]
        values = [self._array(int.from_bytes(value, "little"), kind, name) if _is_pointer(kind) else
                  np.frombuffer(value, "?" if kind == "b1" else kind)[0]
                  for kind, value, name in zip(self.kernel.signature, arguments, names, strict=False)]
        self.kernel.max_dynamic_shared_size_bytes = self.dynamic
        self.kernel(grid, block, values, shared_mem=shared)
        if self.kernel.module.mode != "check":  # which notes each byte that is written
            for kind, value in zip(self.kernel.signature, values, strict=True):
                if kind[0] == "p" and value is not None:
                    self.machine.memory.find(value.ctypes.data).note_written(value.ctypes.data, value.nbytes)

    def _array(self, address, kind, name):
        """What a pointer points to, to the end of its allocation; None for a null pointer."""
        if not address:
            return None
        block, what = self.machine.memory.find(address), f"{self.name}, {name}"
        if block is None:
            raise CudaError("IllegalAddress", f"{what}: this is no memory of a device's")
        if block.freed:
            raise CudaError("IllegalAddress", f"{what}: memory that was freed at\n{block.freed}")
        if block.device not in (None, self.device.number, *self.device.reached):
            raise CudaError("IllegalAddress", f"{what}: memory of device {block.device} in a kernel of {self.device.number}")
        dtype = np.dtype("?" if kind[1:] == "b1" else kind[1:] if kind[1] in "fiu" else "u1")
        begin = address - block.address
        return np.ndarray(((block.size - begin) // dtype.itemsize,), dtype, block.bytes, begin)


def _is_pointer(kind):
    """Of a parameter, in cuemu's words: p for one that the kernel may write to, P for a const one."""
    return kind[0] in "pP"

"""CuPy's RawModule and RawKernel over NumPy arrays."""

import ctypes
import os
import threading
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np

from . import build, source
from .arrays import Arrays
from .errors import CuemuError

# mode: "check" or "fast"; seed: of the order of threads and blocks, 0 for the order of their numbers;
# timeout: seconds after which check mode gives a kernel up
settings = SimpleNamespace(
    mode=os.environ.get("CUEMU_MODE", "check"), seed=int(os.environ.get("CUEMU_SEED", "1")), timeout=60.0
)
_lock = threading.Lock()  # there is one machine, and it runs one kernel at a time


@contextmanager
def using(**changes):
    """with using(seed=2, mode="fast"): ...  changes the settings for a while."""
    before = dict(vars(settings))
    vars(settings).update(changes)
    try:
        yield
    finally:
        vars(settings).update(before)


class _Launch(ctypes.Structure):  # as in machine.h
    _fields_ = [
        ("kernel", ctypes.c_void_p),
        ("arguments", ctypes.c_void_p),
        ("image", ctypes.c_void_p),
        ("image_end", ctypes.c_void_p),
        ("arrays", ctypes.c_void_p),
        ("pointers", ctypes.c_void_p),
        ("array_count", ctypes.c_uint32),
        ("pointer_count", ctypes.c_uint32),
        ("grid", ctypes.c_uint32 * 3),
        ("block", ctypes.c_uint32 * 3),
        ("dynamic_bytes", ctypes.c_uint32),
        ("dynamic_limit", ctypes.c_uint32),
        ("seed", ctypes.c_uint64),
        ("timeout", ctypes.c_double),
        ("check", ctypes.c_uint32),
    ]


class _Fault(ctypes.Structure):
    _fields_ = [
        ("kind", ctypes.c_char_p),
        ("file", ctypes.c_char_p),
        ("line", ctypes.c_int64),
        ("code", ctypes.c_uint64),
        ("other_code", ctypes.c_uint64),
        ("array", ctypes.c_int64),
        ("offset", ctypes.c_int64),
        ("block", ctypes.c_uint32 * 3),
        ("thread", ctypes.c_uint32 * 3),
        ("message", ctypes.c_char * 1024),
    ]


class RawModule:
    """The kernels of one text, compiled for the host.  Options: -D, -U and -I count, others are for the GPU only."""

    def __init__(self, *, code, options=(), name_expressions=None, mode=None):
        self.mode = mode or settings.mode
        parameters, names = source.kernels(code)
        self.names = list(dict.fromkeys([*names, *(name_expressions or [])]))
        self._parameters = parameters
        self._functions = {}
        self._library_path = build.kernel_library(self._text(code, options), self.mode, self._search_paths(options))
        build.runtime()
        self.library = ctypes.CDLL(str(self._library_path))

    def _text(self, code, options):
        # The options become lines after cuda.h, whose own names they might otherwise replace.
        defines = ["#define __CUDA_ARCH__ 800"]
        for option in options:
            if option.startswith("-D__CUDA_ARCH__"):
                defines[0] = "#undef __CUDA_ARCH__"
            if option.startswith("-D"):
                name, _, value = option[2:].partition("=")
                defines.append(f"#define {name} {value or 1}")
            elif option.startswith("-U"):
                defines.append(f"#undef {option[2:]}")
        unroll = 32 if self.mode == "fast" else 0
        entries = [f"CUEMU_KERNEL({i}, {name})" for i, name in enumerate(self.names)]
        parts = ['#include "cuda.h"', *defines, '#line 1 "kernel.cu"', source.for_host(code, unroll), "", "CUEMU_IMAGE"]
        return "\n".join([*parts, *entries, ""])

    @staticmethod
    def _search_paths(options):
        return [option for option in options if option.startswith("-I")]

    def get_function(self, name):
        if name not in self.names:
            raise CuemuError("launch", f"no kernel {name!r} among {', '.join(self.names)}")
        if name not in self._functions:
            parameters = self._parameters.get(name.split("<")[0].split("::")[-1].strip(), [])
            self._functions[name] = RawKernel._of(self, name, self.names.index(name), parameters)
        return self._functions[name]


class RawKernel:
    """kernel(grid, block, args, shared_mem=bytes) returns when all is done.

    Raises CuemuError for a fault in the kernel, TypeError for an argument that is not exactly of its parameter's type.
    """

    def __init__(self, code, name, options=(), mode=None):
        names = [name] if "<" in name else None
        function = RawModule(code=code, options=options, name_expressions=names, mode=mode).get_function(name)
        self.__dict__.update(function.__dict__)

    @classmethod
    def _of(cls, module, name, number, parameters):
        self = cls.__new__(cls)
        self.module, self.name, self.parameters = module, name, parameters
        library = module.library
        signature = getattr(library, f"cuemu_signature_{number}")
        signature.restype = ctypes.c_char_p
        self.signature = signature().decode().split()
        self._call = ctypes.cast(getattr(library, f"cuemu_call_{number}"), ctypes.c_void_p).value
        library.cuemu_image.restype = library.cuemu_image_end.restype = ctypes.c_void_p
        self._image = library.cuemu_image(), library.cuemu_image_end()
        self.max_dynamic_shared_size_bytes = 48 << 10
        return self

    def __call__(self, grid, block, args, *, shared_mem=0, seed=None):
        arrays = Arrays(self.name, self.signature, self.parameters, args)
        request, fault = _Launch(), _Fault(array=-1)
        request.kernel, request.arguments = self._call, ctypes.addressof(arrays.arguments)
        request.image, request.image_end = self._image
        request.arrays, request.array_count = ctypes.addressof(arrays.arrays), arrays.array_count
        request.pointers, request.pointer_count = ctypes.addressof(arrays.pointers), arrays.pointer_count
        request.grid[:], request.block[:] = self._sizes(grid, block, shared_mem)
        request.dynamic_bytes = shared_mem
        request.seed = settings.seed if seed is None else seed
        request.timeout, request.check = settings.timeout, self.module.mode == "check"
        with _lock:
            build.runtime().cuemu_launch(ctypes.byref(request), ctypes.byref(fault))
        if fault.kind:
            raise self._error(fault, arrays)

    def _sizes(self, grid, block, shared_mem):
        grid, block = (tuple(map(int, sizes)) + (1, 1) for sizes in (grid, block))
        grid, block = grid[:3], block[:3]
        for name, sizes, limits in (
            ("grid", grid, (2**31 - 1, 65535, 65535)),
            ("block", block, (1024, 1024, 64)),
        ):
            if any(not 1 <= size <= limit for size, limit in zip(sizes, limits, strict=True)):
                raise CuemuError("launch", f"{name} {sizes} is empty or over the limits {limits}", kernel=self.name)
        if np.prod(block) > 1024:
            raise CuemuError("launch", f"block {block} has more than 1024 threads", kernel=self.name)
        limit = self.max_dynamic_shared_size_bytes
        if limit > 227 << 10:
            raise CuemuError("launch", f"max_dynamic_shared_size_bytes is {limit}, over 227 KiB", kernel=self.name)
        if not 0 <= shared_mem <= limit:
            message = f"{shared_mem} bytes of dynamic shared memory, over max_dynamic_shared_size_bytes, {limit}"
            raise CuemuError("launch", message, kernel=self.name)
        return grid, block

    def _error(self, fault, arrays):
        message = fault.message.decode()
        file, line = (fault.file or b"").decode(), fault.line
        library = self.module._library_path
        if fault.code:
            (file, line), *callers = build.source_lines(library, fault.code)
            if callers and callers[-1] != (file, line):
                message += " (called from {}:{})".format(*callers[-1])
        argument = None
        if fault.array >= 0:
            argument = arrays.name(fault.array)
            message = message.replace("{array}", arrays.describe(fault.array, fault.offset))
        if fault.other_code:
            message = message.replace("{other}", "{}:{}".format(*build.source_lines(library, fault.other_code)[0]))
        known = dict(kernel=self.name, file=os.path.basename(file) or None, line=line, argument=argument)
        if fault.kind != b"launch":
            known.update(block=tuple(fault.block), thread=tuple(fault.thread))
        return CuemuError(fault.kind.decode(), message, **known)

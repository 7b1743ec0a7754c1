"""NVIDIA's compiler for CUDA text at run time, NVRTC, which needs no GPU: pip install nvidia-cuda-nvrtc."""
import ctypes
import ctypes.util
import functools
import importlib.util
import re
from collections import namedtuple
from pathlib import Path

Kernel = namedtuple("Kernel", "name registers spilled stack shared")
Kernel.__doc__ = "What ptxas says of a kernel: registers a thread; bytes spilled, of stack, of static shared memory."


class CompileError(Exception):
    """The compiler's log, of a text that it refuses or warns about."""


@functools.cache
def library():
    """NVRTC, of the pip package or the system's, or None."""
    spec = importlib.util.find_spec("nvidia")
    folders = [Path(folder) for folder in spec.submodule_search_locations] if spec else []
    found = [str(path) for folder in folders for path in folder.glob("*/lib/libnvrtc.so.*")]
    for name in [*found, ctypes.util.find_library("nvrtc"), "/usr/local/cuda/lib64/libnvrtc.so"]:
        if not name:
            continue
        try:
            for builtins in Path(name).parent.glob("libnvrtc-builtins.so.*"):  # which not every version finds by itself
                ctypes.CDLL(str(builtins))
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


def compile(code, options):
    """(kernels, PTX) of a text; each option a string. Raises CompileError for errors and for warnings."""
    nvrtc, program = library(), ctypes.c_void_p()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), code.encode(), b"kernel.cu", 0, None, None)
    try:
        encoded = [option.encode() for option in (*options, "--std=c++17", "--ptxas-options=-v")]
        status = nvrtc.nvrtcCompileProgram(program, len(encoded), (ctypes.c_char_p * len(encoded))(*encoded))
        log = _text(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program)
        if status or "warning" in log:
            raise CompileError(log)
        return _kernels(log), _text(nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX, program)
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _text(size_of, get, program):
    size = ctypes.c_size_t()
    size_of(program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    get(program, buffer)
    return buffer.value.decode()


def _kernels(log):
    kernels = []
    for part in log.split("Compiling entry function '")[1:]:
        def number(pattern, part=part):
            found = re.search(pattern, part)
            return int(found[1]) if found else 0

        kernels.append(Kernel(part.split("'")[0], number(r"Used (\d+) registers"), number(r"(\d+) bytes spill stores"),
                              number(r"(\d+) bytes stack"), number(r"(\d+) bytes smem")))
    return kernels

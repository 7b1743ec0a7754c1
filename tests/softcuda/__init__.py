"""A CUDA device made of software, on which the CuPy that is installed runs as it is: README.md.

    softcuda.install()              # before CuPy is imported
    with softcuda.order("random", seed=2): ...
    softcuda.forgive()              # what the devices had to complain of
"""
import atexit
import ctypes
import functools
import importlib.metadata
import importlib.util
import json
import os
import sys
from contextlib import contextmanager
from pathlib import Path

from tests import cuemu
from tests.softcuda import driver, libraries, runtime
from tests.softcuda.machine import Device, Machine

CACHE = Path(__file__).parent / "cache"
RELEASE = "14."  # of CuPy for CUDA 13: what is known of its insides holds for these
machine = None  # once installed


@functools.cache
def real_card():
    """Whether there is a GPU with its driver here, or was before softcuda was installed."""
    try:
        library, count = ctypes.CDLL("libcuda.so.1"), ctypes.c_int()
    except OSError:
        return False
    return library.cuInit(0) == 0 and library.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0


@functools.cache
def possible():
    """(True, "") where softcuda can take the place of GPUs, else (False, the reason)."""
    if real_card():
        return False, "there is a real GPU"
    ok, reason = cuemu.available()
    if not ok:
        return False, reason
    try:
        release = importlib.metadata.version("cupy-cuda13x")
    except importlib.metadata.PackageNotFoundError:
        return False, "cupy-cuda13x is not installed"
    if not release.startswith(RELEASE):
        return False, f"softcuda knows CuPy {RELEASE}*, not {release}"
    return True, ""


def install():
    """Have CuPy, when it is imported, find softcuda's devices; the environment's SOFTCUDA_… say which (README.md)."""
    global machine
    if machine is not None:
        return
    if "cupy" in sys.modules:
        raise RuntimeError("CuPy was imported before softcuda was installed")
    real_card()  # while it can still be known
    machine = Machine(devices(), int(setting("DRIVER", "13000")), setting("MODE", "late"), int(setting("SEED", "0")))
    atexit.register(libraries.silence)  # what is registered first is called last
    if setting("REPORT"):
        atexit.register(report, setting("REPORT"))
    os.environ["CUPY_CACHE_DIR"] = str(CACHE / "kernels")  # what lies there is no cubin
    header = CACHE / "toolkit" / "include" / "cuda_runtime.h"  # CuPy refuses to compile where it finds none
    header.parent.mkdir(parents=True, exist_ok=True)
    header.touch()
    os.environ["CUDA_PATH"] = str(header.parent.parent)
    if machine.driver:
        libraries.load("libcuda.so.1", driver.driver(machine), CACHE)
    if setting("WITHOUT") == "nvrtc":
        pathfinder = importlib.import_module("cuda.pathfinder")
        pathfinder.load_nvidia_dynamic_lib = functools.partial(_not_installed, pathfinder.DynamicLibNotFoundError)
    else:
        libraries.load("libnvrtc.so.13", driver.nvrtc(machine), CACHE)
    sys.meta_path.insert(0, _Importing())


def _not_installed(error, name):
    raise error(f"no library {name} is installed")


class _Importing:
    """Before CuPy is imported, its copy of the CUDA runtime is replaced."""

    def find_spec(self, name, path=None, target=None):
        if name == "cupy":
            sys.meta_path.remove(self)
            functions = runtime.functions(machine)
            libraries.divert(importlib.import_module("cupy_backends.cuda.api.runtime").__file__, functions, functions.lacking)


def setting(name, default=""):
    """SOFTCUDA_<name> of the environment."""
    return os.environ.get(f"SOFTCUDA_{name}", default)


def devices():
    """GPUs 0 and 1 have no tensor cores for TF32 and reach each other's memory; 2 and 3 have them, and reach nobody's."""
    busy = setting("BUSY").split(",")
    turing = dict(name="Soft Turing", capability=(7, 5), shared=64 << 10)
    ampere = dict(name="Soft Ampere", capability=(8, 0), shared=163 << 10)
    kinds = [dict(turing, peers=frozenset({1})), dict(turing, peers=frozenset({0})), ampere, ampere]
    kinds = kinds[:int(setting("DEVICES", "4"))]
    return [Device(number, busy=str(number) in busy, **kind) for number, kind in enumerate(kinds)]


# For the tests


def order(mode, seed=0):
    """A context in which work is done "late", "eager", "skewed", or at "random" moments; at its ends all of it is."""
    return machine.order(mode, seed)


def forgive():
    """The faults since the last time, each with the lines of Python that gave the work; contexts that died of them live."""
    return machine.forgive()


def calls():
    """A Counter of the calls of CUDA's functions so far, by name."""
    return machine.calls.copy()


def pinned_bytes():
    """Bytes of pinned memory that are allocated."""
    return machine.memory.bytes_of(None)


def device_bytes(number):
    """Bytes of a device's memory that are allocated."""
    return machine.memory.bytes_of(number)


@contextmanager
def without_pool(*, device=True):
    """A context in which CuPy allocates pinned memory, and a device's, piece by piece, so that every overrun and use after
    free is seen."""
    import cupy
    if device:
        cupy.cuda.set_allocator(None)
    cupy.cuda.set_pinned_memory_allocator(None)
    try:
        yield
    finally:
        cupy.cuda.set_allocator(cupy.get_default_memory_pool().malloc)
        cupy.cuda.set_pinned_memory_allocator(cupy.get_default_pinned_memory_pool().malloc)


def report(path):
    """Append a JSON line to a file: faults, where contexts were made, calls."""
    contexts = {device.number: device.context for device in machine.devices if device.context}
    with open(path, "a") as file:
        file.write(json.dumps({"faults": machine.faults, "contexts": contexts, "calls": machine.calls}) + "\n")

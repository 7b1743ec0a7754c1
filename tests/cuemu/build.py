"""Compiles the runtime and the kernels with g++, and keeps what it has compiled."""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from .errors import CuemuError

HERE = Path(__file__).parent
CPP = HERE / "cpp"
CXX = os.environ.get("CUEMU_CXX", "g++")
OLDEST = 11
DAYS_KEPT = 14

COMMON = "-std=gnu++17 -fPIC -march=x86-64-v3 -fno-exceptions -fno-rtti -gdwarf-4 -g1 -w".split()
KERNEL = COMMON + "-fvisibility=hidden -fno-gnu-unique -fno-strict-aliasing -fno-math-errno -fno-trapping-math".split()
RUNTIME = [*COMMON, "-O3", "-fvisibility=hidden", "-fcf-protection=none"]  # fibers return to where nobody called
MODES = {
    # No tail calls (-O1 makes none): the runtime takes the address it returns to for the place it was called from.
    "fast": ["-O3", "-fno-threadsafe-statics", "-fno-optimize-sibling-calls"],
    # Nothing that merges accesses or turns them into calls of memset and memcpy: each must be seen as it was written.
    "check": [
        *"-O1 -fno-threadsafe-statics -fno-store-merging -fno-tree-loop-distribute-patterns -DCUEMU_CHECK".split(),
        "-fsanitize=thread,bounds,alignment,shift,signed-integer-overflow,integer-divide-by-zero",
        "--param=tsan-instrument-func-entry-exit=0",
    ],
}
RUNTIME_SOURCES = ["machine.cpp", "launch.cpp", "barriers.cpp", "tensor.cpp", "checker.cpp", "hooks.cpp"]


@functools.cache
def available():
    """(True, "") if kernels can be run here, else (False, the reason)."""
    if platform.system() != "Linux" or platform.machine() not in ("x86_64", "AMD64"):
        return False, "cuemu needs x86-64 Linux"
    for tool in (CXX, "addr2line"):
        if not shutil.which(tool):
            return False, f"cuemu needs {tool}"
    version = _compiler()
    if not version.isdigit() and not version.split(".")[0].isdigit():
        return False, f"cuemu needs g++, and {CXX} says {version!r}"
    if int(version.split(".")[0]) < OLDEST:
        return False, f"cuemu needs g++ {OLDEST} or newer, not {version}"
    flags = Path("/proc/cpuinfo").read_text().split("flags", 1)[-1].split("\n", 1)[0].split()
    missing = {"avx2", "fma", "bmi2"} - set(flags)
    if missing:
        return False, f"cuemu needs a processor with {', '.join(sorted(missing))}"
    return True, ""


@functools.cache
def _compiler():
    result = subprocess.run([CXX, "-dumpfullversion", "-dumpversion"], capture_output=True, text=True)
    return result.stdout.strip() or result.stderr.strip()


@functools.cache
def _headers(suffix):
    return "".join(path.read_text() for path in sorted(CPP.glob("*" + suffix)))


def cache_folder():
    folder = Path(os.environ.get("CUEMU_CACHE") or HERE / "cache")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _cached(name, key, make):
    """The file kept under this key; make(folder) produces it in a folder of its own, and a rename puts it in place.

    Several processes may find it missing and make it at once: they rename equal files over each other.
    """
    digest = hashlib.sha256("\0".join([_compiler(), CXX, platform.machine(), *key]).encode()).hexdigest()[:24]
    path = cache_folder() / f"{name}-{digest}.so"
    if path.exists():
        if time.time() - path.stat().st_mtime > 3600:
            path.touch()  # used lately
        return path
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        os.replace(make(Path(folder)), path)
    return path


def _run(*command):
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if result.returncode:
        raise CuemuError("compile", "the host compiler refuses the text:\n" + result.stderr[:4000])


@functools.cache
def runtime():
    """The runtime's library, loaded so that kernels find its functions."""
    ok, reason = available()
    if not ok:
        raise CuemuError("compile", reason)

    def make(folder):
        everything, out = folder / "runtime.cpp", folder / "runtime.so"  # as one text: a third of the time
        everything.write_text("".join(f'#include "{source}"\n' for source in RUNTIME_SOURCES))
        _run(CXX, *RUNTIME, "-shared", "-Wl,-Bsymbolic", "-I", CPP, everything, "-o", out)
        return out

    for old in cache_folder().glob("*.so"):
        try:
            if time.time() - old.stat().st_mtime > DAYS_KEPT * 86400:
                old.unlink()
        except FileNotFoundError:
            pass
    return ctypes.CDLL(_cached("runtime", [_headers(".h"), _headers(".cpp"), *RUNTIME], make), mode=ctypes.RTLD_GLOBAL)


def kernel_library(text, mode, options):
    """The path of the library compiled from this text, which is complete: it begins with #include "cuda.h"."""
    flags = [*KERNEL, *MODES[mode], *options]

    def make(folder):
        source, object_file, out = folder / "kernel.cpp", folder / "kernel.o", folder / "kernel.so"
        source.write_text(text)
        _run(CXX, *flags, "-I", CPP, "-c", source, "-o", object_file)
        # Linked apart, without -fsanitize: that would bring the sanitizers' libraries in place of hooks.cpp.
        _run(CXX, "-shared", "-Wl,--build-id=none", object_file, "-o", out)
        return out

    return _cached("kernel", [text, mode, _headers(".h"), *flags], make)


def source_lines(library, offset):
    """[(file, line), ...] of the instruction before an offset, from the innermost inlined function outwards."""
    result = subprocess.run(
        ["addr2line", "-i", "-e", str(library), f"{offset - 1:x}"], capture_output=True, text=True, check=False
    )
    places = []
    for line in result.stdout.splitlines():
        path, _, number = line.split(" (")[0].rpartition(":")
        name = os.path.basename(path)
        if number.isdigit() and not (CPP / name).exists():
            places.append((name, int(number)))
    return places or [("?", 0)]

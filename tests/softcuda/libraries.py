"""How CuPy's calls of CUDA come to end in Python functions, with not a byte of its files changed.

    libcuda.so.1, libnvrtc.so.13   CuPy loads them by name when it first needs them, and gets a library of that SONAME that
                                   is loaded already: one that is generated here, with a jump for each function.
    the CUDA runtime (cudaMalloc…) is linked into CuPy's module `runtime`, where nothing from outside can take its place. Its
                                   functions are in that file's symbol table, so once it is loaded their first bytes are
                                   overwritten, in memory, by a jump.

The Python functions are ctypes callbacks (api.py).
"""
import ctypes
import hashlib
import os
import struct
import subprocess
from pathlib import Path

JUMP = b"\x49\xbb%b\x41\xff\xe3"  # mov r11, address; jmp r11
JUMP_BYTES = 13
SYMTAB, FUNCTION = 2, 2  # of ELF: the section of all symbols; the type of a symbol
_loaded = []  # libraries, each with its functions
_diverted = {}  # address of an overwritten function: the one that it jumps to


def load(soname, functions, folder):
    """Load a library of this SONAME whose functions, {name: callback}, are ours; it is built in `folder` if need be."""
    lines = [".text", ".globl softcuda_nothing", "softcuda_nothing: xor %eax, %eax", "ret"]
    for name in sorted(functions):
        lines += [f".globl {name}", f".type {name}, @function", f"{name}: jmp *.L{name}(%rip)"]
    lines += [".data", ".balign 8"]
    for name in sorted(functions):
        lines += [f".globl softcuda_{name}", f"softcuda_{name}: .L{name}: .quad 0"]
    text = "\n".join([*lines, '.section .note.GNU-stack,"",@progbits', ""])
    path = Path(folder) / hashlib.sha256(f"{soname}\n{text}".encode()).hexdigest()[:16] / soname
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        source, made = (path.with_suffix(f".{os.getpid()}.{kind}") for kind in ("s", "made"))  # other processes make it too
        source.write_text(text)
        subprocess.run(["g++", "-shared", "-nostdlib", f"-Wl,-soname,{soname}", "-o", made, source], check=True)
        source.unlink()
        os.replace(made, path)
    library = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    for name, function in functions.items():
        ctypes.c_void_p.in_dll(library, f"softcuda_{name}").value = _address(function)
    _loaded.append((library, functions))


def divert(path, functions, otherwise):
    """Make each function `cuda…` of the loaded library at `path` jump to ours, or to `otherwise(name)` where we have none."""
    found = dict(_cuda_functions(Path(path).read_bytes()))
    missing = functions.keys() - found.keys()
    if missing:
        raise RuntimeError(f"{path} has no {', '.join(sorted(missing))}: is the CUDA runtime still linked into it?")
    base = _base_of(path)
    for name, value in found.items():
        _diverted[base + value] = functions.get(name) or otherwise(name)
        _overwrite(base + value, _address(_diverted[base + value]))


def silence():
    """At the interpreter's end, when Python's functions can no longer be called, CuPy's destructors still call: of nothing."""
    nothing = _address(_loaded[0][0].softcuda_nothing)
    for library, functions in _loaded:
        for name in functions:
            ctypes.c_void_p.in_dll(library, f"softcuda_{name}").value = nothing
    for address in _diverted:
        _overwrite(address, nothing)


def _address(function):
    return ctypes.cast(function, ctypes.c_void_p).value


def _cuda_functions(elf):
    """(name, value) of the functions `cuda…` in the symbol table of a 64-bit ELF file that are long enough for a jump."""
    offset, = struct.unpack_from("<Q", elf, 0x28)
    size, count = struct.unpack_from("<HH", elf, 0x3A)
    sections = [struct.unpack_from("<IIQQQQIIQQ", elf, offset + k * size) for k in range(count)]
    for _, kind, _, _, start, length, link, *_ in sections:
        if kind != SYMTAB:
            continue
        names = sections[link][4]
        for at in range(start, start + length, 24):
            name, info, _, section, value, size = struct.unpack_from("<IBBHQQ", elf, at)
            text = elf[names + name:elf.index(b"\0", names + name)].decode()
            if info & 15 == FUNCTION and section and text[:4] == "cuda" and text[4:5].isupper() and size >= JUMP_BYTES:
                yield text, value


def _base_of(path):
    """Where a loaded library begins in memory."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        fields = line.split(None, 5)
        if len(fields) == 6 and fields[5] == os.path.realpath(path) and int(fields[2], 16) == 0:
            return int(fields[0].partition("-")[0], 16)
    raise RuntimeError(f"{path} is not loaded")


def _overwrite(address, target):
    """A jump to `target` in the place of the code at an address."""
    page = address & -4096
    place = ctypes.c_void_p(page), ctypes.c_size_t(address + JUMP_BYTES - page)
    process = ctypes.CDLL(None, use_errno=True)
    read, write, execute = 1, 2, 4
    if process.mprotect(*place, read | write | execute):
        raise OSError(ctypes.get_errno(), "mprotect")
    ctypes.memmove(address, JUMP % struct.pack("<Q", target), JUMP_BYTES)
    process.mprotect(*place, read | execute)

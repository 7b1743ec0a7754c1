"""A .cu file's text, whole, and its kernels' signatures."""
import functools
import re
from pathlib import Path


def path_of(file):
    """The .cu beside `file`."""
    return Path(file).with_suffix(".cu")


@functools.cache
def text(path):
    """A .cu with every #include "..." in its place:
    CuPy's cache would not notice that an included file has changed."""
    return _flat(path, set())


def _flat(path, included):
    lines = [f'#line 1 "{path.name}"']
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        include = re.match(r'\s*#\s*include\s+"([^"]+)"', line)
        if include and include[1] not in included:
            included.add(include[1])
            line = _flat(path.parent / include[1], included) + f'\n#line {number + 1} "{path.name}"'
        lines.append(line if not include or "\n" in line else "")
    return "\n".join(lines)


@functools.cache
def signatures(file):
    """{kernel: [(type, whether a pointer, name), ...]} of the .cu beside `file`."""
    code = re.sub(r"//[^\n]*|/\*.*?\*/", " ", text(path_of(file)), flags=re.S)
    bounds = r"(?:__launch_bounds__\s*\([^()]*\)\s*)?"
    kernels = re.findall(rf'extern\s+"C"\s+__global__\s+void\s+{bounds}(\w+)\s*\(([^()]*)\)', code)
    return {name: [_parameter(each) for each in parameters.split(",")] for name, parameters in kernels}


def _parameter(declaration):
    words = re.sub(r"\b(const|__restrict__)\b", " ", declaration)
    kind, star, name = re.fullmatch(r"\s*(.*?)\s*(\*?)\s*(\w+)\s*", words).groups()
    return " ".join(kind.split()), star == "*", name

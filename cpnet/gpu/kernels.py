"""The one gate to kernels: compiles a .cu once a device, checks every argument, launches.

CuPy passes on whatever it is given: a Python float as 8 bytes where the kernel reads 4, a transposed view as
if it were contiguous, an array of another device.
Here each argument is held against the kernel's own signature first.

An operation writes `if on_gpu(x):` and then

    launch(__file__, "relu_forward", blocks(count, THREADS), THREADS, x, y, count,
           defines={"THREADS": THREADS})

for the kernel `relu_forward` of the .cu beside it. In that file `real` is the dtype of its `real*` arguments.
Kernels are declared `extern "C" __global__ void name(...)`.
CuPy is imported when a GPU is asked for, and not without.
"""
import operator

import numpy as np

from cpnet.gpu.platform import of_type
from cpnet.gpu.source import path_of, signatures, text

GRID = 2**31 - 1, 65535, 65535  # blocks at most, by axis
# bytes of dynamic shared memory that a kernel has without asking: 48 KiB less its own arrays
DEFAULT_SHARED = 32 << 10
_DTYPES = {name: np.dtype(code) for name, code in {
    "float": "f4", "double": "f8", "int": "i4", "unsigned": "u4", "unsigned int": "u4", "long long": "i8",
    "unsigned long long": "u8", "unsigned char": "u1", "bool": "?"}.items()}
_modules = {}  # (platform, device, file, defines): compiled module
_functions = {}  # the same and the kernel's name: function
_shared = {}  # function: bytes of dynamic shared memory asked for


def blocks(count, each):
    """How many blocks cover `count` things, `each` a block. The kernel guards the last block's end itself."""
    return -(-count // each)


def expect(kernel, shape, **arrays):
    """Raises ValueError, naming the kernel and the array, where one of `arrays` is not of `shape`."""
    for name, array in arrays.items():
        if array.shape != tuple(shape):
            raise ValueError(f"{kernel}: {name} has the shape {array.shape}, not {tuple(shape)}")


def launch(file, name, grid, block, *args, shared=0, defines=None):
    """Run kernel `name` of the .cu beside `file` on the device of its arrays, in the current stream.

    grid, block: an int or up to three. shared: bytes of dynamic shared memory. defines: macros for the text,
    in Python's hands: tile sizes, and types such as {"label": "int"}. Python numbers become the parameters'
    own types. Raises TypeError for an argument that does not fit its parameter. An empty grid does nothing.
    """
    defines = dict(defines or {})
    kernels = signatures(file)
    if name not in kernels:
        raise ValueError(f"{path_of(file).name} has no kernel {name}; it has {', '.join(kernels)}")
    platform, device, values = _arguments(name, kernels[name], args, defines)
    grid, block = (tuple(sizes) if isinstance(sizes, tuple) else (sizes,) for sizes in (grid, block))
    if any(size > most for size, most in zip(grid, GRID, strict=False)):
        raise ValueError(f"{name}: a grid of {grid} blocks is over the limits {GRID}")
    if 0 in grid:
        return
    key = (platform, device, file, *sorted(defines.items()))
    platform.use(device)
    function = _functions.get((name, *key))
    if function is None:
        if key not in _modules:
            # In the text and not as options: CuPy compiles an empty text for each set of options,
            # in every process.
            head = "".join(f"#define {macro} {value}\n" for macro, value in sorted(defines.items()))
            _modules[key] = platform.module(head + text(path_of(file)))
        function = _functions[name, *key] = _modules[key].get_function(name)
    if shared > _shared.get(function, DEFAULT_SHARED):
        function.max_dynamic_shared_size_bytes = _shared[function] = shared
    function(grid, block, values, shared_mem=shared)


def _arguments(name, parameters, args, defines):
    """(platform, device, values): arrays as they are, numbers as NumPy scalars.
    Defines `real`, float by default."""
    if len(args) != len(parameters):
        raise TypeError(f"{name} takes {len(parameters)} arguments "
                        f"({', '.join(p for _, _, p in parameters)}), not {len(args)}")
    platform = device = None
    values = []
    for (kind, pointer, parameter), arg in zip(parameters, args, strict=True):
        where = f"{name}, {parameter}"
        if not pointer:
            values.append((kind, where, arg))
            continue
        own = of_type(type(arg))
        if own is None:
            raise TypeError(f"{where}: an array on a GPU is needed, not {type(arg).__name__}")
        if platform is None:
            platform, device = own, own.device(arg)
        if own is not platform or own.device(arg) != device:
            raise TypeError(f"{where}: on device {own.device(arg)}, an argument before it on {device}")
        if kind == "real" and "real" not in defines:
            if arg.dtype not in (np.float32, np.float64):
                raise TypeError(f"{where}: {arg.dtype}, not float32 or float64")
            defines["real"] = "float" if arg.dtype == np.float32 else "double"
        dtype = _dtype(kind, defines, where)
        if arg.dtype != dtype:
            raise TypeError(f"{where}: {arg.dtype}, not {dtype}")
        if not arg.flags.c_contiguous:
            raise TypeError(f"{where}: not contiguous (shape {arg.shape}, strides {arg.strides})")
        values.append(arg)
    if platform is None:
        raise TypeError(f"{name} has no array among its arguments")
    defines.setdefault("real", "float")
    return platform, device, tuple(_scalar(*value, defines) if isinstance(value, tuple) else value
                                   for value in values)


def _scalar(kind, where, value, defines):
    dtype = _dtype(kind, defines, where)
    value = value.item() if isinstance(value, np.generic) else value
    if not isinstance(value, int | float):
        raise TypeError(f"{where}: a number is needed, not {type(value).__name__}")
    try:
        return dtype.type(float(value) if dtype.kind == "f" else operator.index(value))
    except (TypeError, OverflowError) as error:
        raise TypeError(f"{where}: {value!r} does not fit {kind}: {error}") from None


def _dtype(kind, defines, where):
    kind = defines.get(kind, kind)
    if kind not in _DTYPES:
        raise TypeError(f"{where}: cpnet/gpu/kernels.py does not know the type {kind!r}; one of "
                        f"{', '.join(_DTYPES)}")
    return _DTYPES[kind]

"""The one gate to the GPU: compiles a .cu once a device, checks every argument, launches.

CuPy passes on whatever it is given: a Python float as 8 bytes where the kernel reads 4, a transposed view as if it were
contiguous, an array of another device. Here each argument is held against the kernel's own signature first.

An operation writes `if on_gpu(x):` and then

    launch(__file__, "lrn_forward", blocks(pixels, THREADS), THREADS, x, y, pixels, k, defines={"THREADS": THREADS})

for the kernel `lrn_forward` of the .cu beside it. In that file `real` is the dtype of its `real*` arguments. Kernels are
declared `extern "C" __global__ void name(...)`. CuPy is imported when a GPU is asked for, and not without.
"""
import functools
import operator
from math import prod

import numpy as np

from cpnet.cuda_text import path_of, signatures, text
from cpnet.cupy_gpus import Cupy, driver_installed
from cpnet.errors import CpnetError

GRID = 2**31 - 1, 65535, 65535  # blocks at most, by axis
DEFAULT_SHARED = 32 << 10  # bytes of dynamic shared memory that a kernel has without asking: 48 KiB less its own arrays
_DTYPES = {name: np.dtype(code) for name, code in {
    "float": "f4", "double": "f8", "int": "i4", "unsigned": "u4", "unsigned int": "u4", "long long": "i8",
    "unsigned long long": "u8", "unsigned char": "u1", "bool": "?"}.items()}
MATH = "fp32", "tf32"  # how float32 products are computed on GPUs with tensor cores
_math = MATH[0]
_platforms = {}  # type of array: its platform
_modules = {}  # (platform, device, file, defines): compiled module
_functions = {}  # the same and the kernel's name: function
_shared = {}  # function: bytes of dynamic shared memory asked for
_workspaces = {}  # (platform, device, name, dtype): arrays, the last and largest of which is in use


@functools.cache
def gpus():
    """The platform of the GPUs; whatever else runs kernels offers the same methods. Raises CpnetError where there is no
    driver, or CuPy cannot be used."""
    if not driver_installed():
        raise CpnetError("there is no GPU here, or NVIDIA's driver is not installed")
    return Cupy()


def register(kind, platform):
    """Arrays of exactly this type are on `platform` from now on."""
    _platforms[kind] = platform


def on_gpu(array):
    """Whether kernels run on this array: True for CuPy's and for those of registered types, False for NumPy's."""
    return _platform(type(array)) is not None


def _platform(kind):
    if kind is not np.ndarray and kind not in _platforms and kind.__module__.partition(".")[0] == "cupy":
        register(kind, gpus())
    return _platforms.get(kind)


def set_math(name):
    """Compute float32 products so from now on, on GPUs that have tensor cores for TF32 (compute capability 8.0 and newer).

    "fp32": as exact as float32, convolutions by three products of TF32. "tf32": by one, errors of about 3e-4.
    """
    global _math
    if name not in MATH:
        raise ValueError(f"math is {' or '.join(MATH)}, not {name!r}")
    _math = name


def math():
    """"fp32" or "tf32": see `set_math`."""
    return _math


def tensor_cores(array):
    """Bytes of shared memory that a block may have on the array's GPU if it has tensor cores for TF32; 0 if it has none."""
    platform = _platform(type(array))
    return platform.tensor_cores(platform.device(array))


def address(array):
    """Where a GPU's array begins, in bytes."""
    return _platform(type(array)).address(array)


# Memory


def workspace(name, shape, dtype, like):
    """The array called `name` where `like` is, uninitialised: the same memory at every call, as long as `shape` fits.

    So a step allocates nothing, and its kernels find what they share at the same place. Whoever asks for the name next, on
    the same device, may write over it. Outgrown memory is kept: a captured graph may still use it.
    """
    platform = _platform(type(like))
    device, dtype, size = platform.device(like), np.dtype(dtype), prod(shape)
    held = _workspaces.setdefault((platform, device, name, dtype), [])
    if not held or held[-1].size < size:
        held.append(empty_on(platform, device, (size,), dtype, 0))
    return held[-1][:size].reshape(shape)


def empty(shape, dtype, like):
    """An uninitialised array where `like` is. Raises CpnetError where there is no room."""
    platform = _platform(type(like))
    return empty_on(platform, platform.device(like), shape, dtype, shape[-1])


def empty_on(platform, device, shape, dtype, images):
    """An uninitialised array on a device. Raises CpnetError where there is no room for a batch of so many images."""
    with platform.on(device):
        try:
            return platform.empty(shape, dtype)
        except MemoryError:
            asked = int(np.prod(shape, dtype=object)) * np.dtype(dtype).itemsize
            raise no_room(asked, platform.free(), images) from None


def no_room(asked, free, images):
    """The error for memory that ran out: `asked` for and `free`, in bytes, by a batch of so many images."""
    fits = min(images // 2, images * free // max(asked, 1))
    fits = 1 << fits.bit_length() - 1 if fits else 0
    advice = f"; a batch of {fits} instead of {images} may fit" if fits else "; this net needs a larger GPU"
    return CpnetError(f"out of GPU memory: asked for {asked / 2**20:,.0f} MiB, {free / 2**20:,.0f} MiB are free{advice}")


def to_host(array):
    """A NumPy copy of a GPU's array, having waited for all work on it; a NumPy array itself."""
    platform = _platform(type(array))
    if platform is None:
        return array
    with platform.on(platform.device(array)):
        return platform.to_host(array)


def assign(array, values):
    """Copy a NumPy array of the same shape and dtype into an array, wherever that is."""
    platform = _platform(type(array))
    if platform is None:
        array[...] = values
        return
    with platform.on(platform.device(array)):
        platform.assign(array, values)


def copy(pairs):
    """Copy, for each pair (to, source) of arrays of one shape and dtype, wherever each is; no two overlap.

    On GPUs this is ordered with what kernels do before and after, and the CPU does not wait.
    """
    for to, source in pairs:
        if to.shape != source.shape or to.dtype != source.dtype or _platform(type(to)) is not _platform(type(source)):
            raise TypeError(f"copy: from {source.dtype} {source.shape} to {to.dtype} {to.shape}, "
                            f"{type(source).__name__} to {type(to).__name__}")
    if not pairs or not on_gpu(pairs[0][0]):
        for to, source in pairs:
            to[...] = source
        return
    for to, source in pairs:
        if not (to.flags.c_contiguous and source.flags.c_contiguous):
            raise TypeError("copy: an array is not contiguous")
    _platform(type(pairs[0][0])).copy(pairs)


# From pinned memory, while the device computes


def pinned(like, size):
    """`size` bytes of host memory, NumPy uint8, that the device `like` is on can read while the CPU does other work."""
    platform = _platform(type(like))
    with platform.on(platform.device(like)):
        return platform.pinned(size)


def upload(array, values, after):
    """Copy NumPy `values`, in pinned memory, into `array`, of the same bytes, once the event `after` has passed.

    On a stream of its own: neither the CPU waits nor what the device computes. Returns an event: until it has passed,
    `array` is not to be read (`follow`), nor `values` to be written (`wait`).
    """
    if array.nbytes != values.nbytes or not (array.flags.c_contiguous and values.flags.c_contiguous):
        raise TypeError(f"upload: {values.dtype} {values.shape} to {array.dtype} {array.shape}, or not contiguous")
    platform = _platform(type(array))
    with platform.on(platform.device(array)):
        return platform.upload(array, values, after)


def mark(array):
    """An event that passes when the device of `array` has done what it has been given so far."""
    platform = _platform(type(array))
    with platform.on(platform.device(array)):
        return platform.mark()


def follow(array, event):
    """The device of `array` does what it is given from now on after `event` has passed. The CPU does not wait."""
    platform = _platform(type(array))
    with platform.on(platform.device(array)):
        platform.follow(event)


def wait(array, event):
    """Returns when an event of the device of `array` has passed. From any thread."""
    platform = _platform(type(array))
    with platform.on(platform.device(array)):
        platform.wait(event)


# Launching


def capture(like, work):
    """What `work()` launches on the GPU of `like`, not run but recorded: an object whose `launch()` runs all of it.

    Raises an error for what cannot be repeated so: a copy to or from the host, an allocation.
    """
    platform = _platform(type(like))
    with platform.on(platform.device(like)):
        return platform.capture(work)


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

    grid, block: an int or up to three. shared: bytes of dynamic shared memory. defines: macros for the text, in Python's
    hands: tile sizes, and types such as {"label": "int"}. Python numbers become the parameters' own types. Raises
    TypeError for an argument that does not fit its parameter. An empty grid does nothing.
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
    with platform.on(device):
        function = _functions.get((name, *key))
        if function is None:
            if key not in _modules:
                # In the text and not as options: CuPy compiles an empty text for each set of options, in every process.
                head = "".join(f"#define {macro} {value}\n" for macro, value in sorted(defines.items()))
                _modules[key] = platform.module(head + text(path_of(file)))
            function = _functions[name, *key] = _modules[key].get_function(name)
        if shared > _shared.get(function, DEFAULT_SHARED):
            function.max_dynamic_shared_size_bytes = _shared[function] = shared
        function(grid, block, values, shared_mem=shared)


def _arguments(name, parameters, args, defines):
    """(platform, device, values): arrays as they are, numbers as NumPy scalars. Defines `real`, float by default."""
    if len(args) != len(parameters):
        raise TypeError(f"{name} takes {len(parameters)} arguments ({', '.join(p for _, _, p in parameters)}), not {len(args)}")
    platform = device = None
    values = []
    for (kind, pointer, parameter), arg in zip(parameters, args, strict=True):
        where = f"{name}, {parameter}"
        if not pointer:
            values.append((kind, where, arg))
            continue
        own = _platform(type(arg))
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
    return platform, device, tuple(_scalar(*value, defines) if isinstance(value, tuple) else value for value in values)


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
        raise TypeError(f"{where}: launch.py does not know the type {kind!r}; one of {', '.join(_DTYPES)}")
    return _DTYPES[kind]

"""The one gate to the GPU: compiles a .cu once a device, checks every argument, launches; and multiplies matrices.

CuPy passes on whatever it is given: a Python float as 8 bytes where the kernel reads 4, a transposed view as if it were
contiguous, an array of another device. Here each argument is held against the kernel's own signature first.

An operation writes `if on_gpu(x):` and then

    launch(__file__, "lrn_forward", blocks(pixels, THREADS), THREADS, x, y, pixels, k, defines={"THREADS": THREADS})

for the kernel `lrn_forward` of the .cu beside it. In that file `real` is the dtype of its `real*` arguments. Kernels are
declared `extern "C" __global__ void name(...)`. CuPy is imported when a GPU is asked for, and not without.
"""
import functools
import operator
import re
from math import prod
from pathlib import Path

import numpy as np

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


class Cupy:
    """NVIDIA GPUs through CuPy. Whatever else runs kernels offers the same methods to `register`."""

    def __init__(self):
        import cupy
        from cupy._core import _routines_linalg as linalg
        self.cupy = cupy
        self.compute_types = {"fp32": linalg.COMPUTE_TYPE_DEFAULT, "tf32": linalg.COMPUTE_TYPE_TF32}
        self.set_compute_type = linalg.set_compute_type
        self.math = None  # that cuBLAS has been told
        self.shared_memory = {}  # device: what `tensor_cores` says of it
        self.copy_streams = {}  # device: the stream on which copies to it from other devices run
        self.upload_streams = {}  # device: the stream on which copies to it from pinned memory run
        self.capturing = False

    def count(self):
        """How many GPUs there are. Raises CpnetError where there is no driver."""
        try:
            return self.cupy.cuda.runtime.getDeviceCount()
        except self.cupy.cuda.runtime.CUDARuntimeError as error:
            raise CpnetError(f"no GPU can be used ({error}); is NVIDIA's driver installed? --devices cpu needs none") from None

    def name(self, device):
        """Such as "NVIDIA H100 80GB HBM3"."""
        return self.cupy.cuda.runtime.getDeviceProperties(device)["name"].decode()

    def processors(self, device):
        """How many multiprocessors it has."""
        return self.cupy.cuda.runtime.getDeviceProperties(device)["multiProcessorCount"]

    def tensor_cores(self, device):
        """Bytes of shared memory that a block may have, if there are tensor cores for TF32; 0 if there are none."""
        if device not in self.shared_memory:
            properties = self.cupy.cuda.runtime.getDeviceProperties(device)
            self.shared_memory[device] = properties["sharedMemPerBlockOptin"] if properties["major"] >= 8 else 0
        return self.shared_memory[device]

    def reaches(self, device, peer):
        """Whether the hardware lets `device` access the memory of `peer`."""
        return bool(self.cupy.cuda.runtime.deviceCanAccessPeer(device, peer))

    def device(self, array):
        """What two arrays must have in common to be arguments of one launch."""
        return array.device.id

    def address(self, array):
        return array.data.ptr

    def on(self, device):
        """A context in which `device` is the current one."""
        return self.cupy.cuda.Device(device)

    def module(self, code, options):
        """The compiled text. CuPy keeps it on disk too (CUPY_CACHE_DIR), for the next process."""
        return self.cupy.RawModule(code=code, options=("--std=c++17", *options))

    def empty(self, shape, dtype):
        if self.capturing:  # CuPy's pool might have some, and give it to others while the graph still uses it
            raise RuntimeError(f"memory for {shape} is asked for while a graph is captured")
        return self.cupy.empty(shape, dtype)

    def capture(self, work):
        """The launches of `work()`, none of them run, as a CUDA graph."""
        stream = self.cupy.cuda.Stream()  # not a non-blocking one: then the default stream's work would pass unnoticed
        self.capturing = True
        try:
            with stream:
                # Of this thread alone: the loader's threads may wait for their copies meanwhile.
                stream.begin_capture(self.cupy.cuda.runtime.streamCaptureModeThreadLocal)
                try:
                    work()
                finally:
                    graph = stream.end_capture()
        finally:
            self.capturing = False
        return graph

    def free(self):
        """Bytes that the current device could still give."""
        return self.cupy.cuda.runtime.memGetInfo()[0] + self.cupy.get_default_memory_pool().free_bytes()

    def matmul(self, a, b, out):
        self._set_math("tf32" if math() == "tf32" and self.tensor_cores(self.device(out)) else "fp32")
        self.cupy.dot(a, b, out=out)  # cuBLAS reads transposed views as they are, and writes into `out`

    def _set_math(self, wanted):
        """How cuBLAS computes float32 products from now on. Unless told, CuPy would let CUPY_TF32 decide."""
        if self.math != wanted:
            self.set_compute_type(np.float32, self.compute_types[wanted])
            self.math = wanted

    def to_host(self, array):
        return self.cupy.asnumpy(array)

    def assign(self, array, values):
        array.set(values)
        self.cupy.cuda.get_current_stream().synchronize()  # `values` may be written over, or freed, as soon as this returns

    def copy(self, pairs):
        """See `copy`. A copy to another device runs on a stream of its own, which belongs to the receiver, so that copies
        in both directions overlap. It begins when both devices have done what they were given before (the source is
        complete, the old content no longer needed), and both go on after it (the content is there, the source is free).
        """
        ready, done = {}, {}
        for to, source in pairs:
            for device in self.device(to), self.device(source):
                if device not in ready:
                    with self.on(device):
                        ready[device] = self._record(self.cupy.cuda.get_current_stream())
        for number, (to, source) in enumerate(pairs):
            device = self.device(to)
            with self.on(device):
                if self.device(source) == device:
                    stream = self.cupy.cuda.get_current_stream()
                else:
                    stream = self._copy_stream(device)
                    for each in device, self.device(source):
                        stream.wait_event(ready[each])
                # CuPy switches peer access on where there is any; elsewhere the driver stages the copy in pinned memory.
                to.data.copy_from_device_async(source.data, source.nbytes, stream)
                if self.device(source) != device:
                    done[number] = self._record(stream)
        for number, event in done.items():
            for array in pairs[number]:
                with self.on(self.device(array)):
                    self.cupy.cuda.get_current_stream().wait_event(event)

    def pinned(self, size):
        """See `pinned`."""
        memory = self.cupy.cuda.alloc_pinned_memory(size)
        return np.ndarray((size,), np.uint8, memory)

    def upload(self, array, values, after):
        """See `upload`; `array` is the current device's."""
        stream = self._stream(self.upload_streams, self.device(array))
        stream.wait_event(after)
        array.data.copy_from_host_async(values.ctypes.data, values.nbytes, stream)
        return self._record(stream, block=True)  # the thread that waits for it sleeps

    def mark(self):
        """An event at the end of what the current device has been given."""
        return self._record(self.cupy.cuda.get_current_stream(), block=True)

    def follow(self, event):
        """What the current device is given from now on waits for the event, be it of another stream or device."""
        self.cupy.cuda.get_current_stream().wait_event(event)

    def wait(self, event):
        """See `wait`. The interpreter lock is free meanwhile."""
        event.synchronize()

    def _copy_stream(self, device):
        return self._stream(self.copy_streams, device)

    def _stream(self, streams, device):
        """The stream of `device`, which is the current one, among `streams`; made at first."""
        if device not in streams:
            streams[device] = self.cupy.cuda.Stream(non_blocking=True)
        return streams[device]

    def _record(self, stream, **kind):
        """An event at the end of what `stream`, of the current device, has been given."""
        return stream.record(self.cupy.cuda.Event(disable_timing=True, **kind))


@functools.cache
def gpus():
    """The platform of the GPUs. Raises CpnetError where CuPy is not installed."""
    try:
        return Cupy()
    except ImportError as error:
        raise CpnetError(f"CuPy cannot be used ({error}): pip install -r requirements-cuda13.txt") from None


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
    """`size` bytes of host memory, NumPy uint8, that the kind of device `like` is on can read while the CPU does other work."""
    return _platform(type(like)).pinned(size)


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
    _platform(type(array)).wait(event)


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
    signatures = _signatures(file)
    if name not in signatures:
        raise ValueError(f"{_path(file).name} has no kernel {name}; it has {', '.join(signatures)}")
    platform, device, values = _arguments(name, signatures[name], args, defines)
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
                options = tuple(f"-D{macro}={value}" for macro, value in defines.items())
                _modules[key] = platform.module(text(_path(file)), options)
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


def matmul(a, b, out):
    """out = a b for matrices (views transposed or not) on a GPU: cuBLAS, in the arrays' own precision."""
    platform = _platform(type(out))
    for name, array in {"a": a, "b": b}.items():
        if _platform(type(array)) is not platform or platform.device(array) != platform.device(out):
            raise TypeError(f"matmul, {name}: not on the device of the result")
        if array.dtype != out.dtype:
            raise TypeError(f"matmul, {name}: {array.dtype}, not {out.dtype}")
    if not out.flags.c_contiguous:
        raise TypeError(f"matmul, out: not contiguous (shape {out.shape}, strides {out.strides})")
    if a.shape[1] != b.shape[0] or out.shape != (a.shape[0], b.shape[1]):
        raise ValueError(f"matmul: {a.shape} by {b.shape} is not {out.shape}")
    with platform.on(platform.device(out)):
        platform.matmul(a, b, out)


# The text


def _path(file):
    return Path(file).with_suffix(".cu")


@functools.cache
def text(path):
    """A .cu with every #include "..." in its place: CuPy's cache would not notice that an included file has changed."""
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
def _signatures(file):
    """{kernel: [(type, whether a pointer, name), ...]} of the .cu beside `file`."""
    code = re.sub(r"//[^\n]*|/\*.*?\*/", " ", text(_path(file)), flags=re.S)
    bounds = r"(?:__launch_bounds__\s*\([^()]*\)\s*)?"
    kernels = re.findall(rf'extern\s+"C"\s+__global__\s+void\s+{bounds}(\w+)\s*\(([^()]*)\)', code)
    return {name: [_parameter(each) for each in parameters.split(",")] for name, parameters in kernels}


def _parameter(declaration):
    words = re.sub(r"\b(const|__restrict__)\b", " ", declaration)
    kind, star, name = re.fullmatch(r"\s*(.*?)\s*(\*?)\s*(\w+)\s*", words).groups()
    return " ".join(kind.split()), star == "*", name

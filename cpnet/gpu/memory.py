"""Arrays on GPUs: allocated, copied, and waited for.
NumPy's arrays are taken as they are, so that who calls need not ask."""
from math import prod

import numpy as np

from cpnet.errors import CpnetError
from cpnet.gpu.platform import of_type, on_gpu, platform_of

_workspaces = {}  # (platform, device, name, dtype): arrays, the last and largest of which is in use


def workspace(name, shape, dtype, like):
    """The array called `name` where `like` is, uninitialised:
    the same memory at every call, as long as `shape` fits.

    So a step allocates nothing, and its kernels find what they share at the same place.
    Whoever asks for the name next, on the same device, may write over it.
    Outgrown memory is kept: a captured graph may still use it.
    """
    platform = platform_of(like)
    device, dtype, size = platform.device(like), np.dtype(dtype), prod(shape)
    held = _workspaces.setdefault((platform, device, name, dtype), [])
    if not held or held[-1].size < size:
        held.append(empty_on(platform, device, (size,), dtype, 0))
    return held[-1][:size].reshape(shape)


def empty(shape, dtype, like):
    """An uninitialised array where `like` is. Raises CpnetError where there is no room."""
    platform = platform_of(like)
    return empty_on(platform, platform.device(like), shape, dtype, shape[-1])


def empty_on(platform, device, shape, dtype, images):
    """An uninitialised array on a device.
    Raises CpnetError where there is no room for a batch of so many images."""
    platform.use(device)
    try:
        return platform.empty(shape, dtype)
    except MemoryError:
        asked = int(np.prod(shape, dtype=object)) * np.dtype(dtype).itemsize
        raise no_room("GPU memory", asked, platform.free(), images) from None


def no_room(what, asked, free, images):
    """The error for memory that ran out: `asked` for and `free`, in bytes, by a batch of so many images."""
    fits = min(images // 2, images * free // max(asked, 1))
    fits = 1 << fits.bit_length() - 1 if fits else 0
    advice = f"; a batch of {fits} instead of {images} may fit" if fits else "; this net needs more of it"
    return CpnetError(f"out of {what}: asked for {asked / 2**20:,.0f} MiB, {free / 2**20:,.0f} MiB are "
                      f"free{advice}")


def address(array):
    """Where a GPU's array begins, in bytes."""
    return of_type(type(array)).address(array)


# Copies


def to_host(array):
    """A NumPy copy of a GPU's array, having waited for all work on it; a NumPy array itself."""
    platform = platform_of(array)
    return array if platform is None else platform.to_host(array)


def assign(array, values):
    """Copy a NumPy array of the same shape and dtype into an array, wherever that is."""
    platform = platform_of(array)
    if platform is None:
        array[...] = values
    else:
        platform.assign(array, values)


def copy(pairs):
    """Copy, for each pair (to, source) of arrays of one shape and dtype, wherever each is; no two overlap.

    On GPUs this is ordered with what kernels do before and after, and the CPU does not wait.
    """
    for to, source in pairs:
        alike = to.shape == source.shape and to.dtype == source.dtype
        if not alike or of_type(type(to)) is not of_type(type(source)):
            raise TypeError(f"copy: from {source.dtype} {source.shape} to {to.dtype} {to.shape}, "
                            f"{type(source).__name__} to {type(to).__name__}")
    if not pairs or not on_gpu(pairs[0][0]):
        for to, source in pairs:
            to[...] = source
        return
    for to, source in pairs:
        if not (to.flags.c_contiguous and source.flags.c_contiguous):
            raise TypeError("copy: an array is not contiguous")
    of_type(type(pairs[0][0])).copy(pairs)


# From pinned memory, while the device computes


def pinned(like, size):
    """`size` bytes of host memory, NumPy uint8, that the device `like` is on can read while
    the CPU does other work."""
    return platform_of(like).pinned(size)


def upload(array, values, after):
    """Copy NumPy `values`, in pinned memory, into `array`, of the same bytes,
    once the event `after` has passed.

    On a stream of its own: neither the CPU waits nor what the device computes. Returns an event: until it has
    passed, `array` is not to be read (`follow`), nor `values` to be written (`wait`).
    """
    if array.nbytes != values.nbytes or not (array.flags.c_contiguous and values.flags.c_contiguous):
        raise TypeError(f"upload: {values.dtype} {values.shape} to {array.dtype} {array.shape}, or not "
                        "contiguous")
    return platform_of(array).upload(array, values, after)


def mark(array):
    """An event that passes when the device of `array` has done what it has been given so far."""
    return platform_of(array).mark()


def follow(array, event):
    """The device of `array` does what it is given from now on after `event` has passed.
    The CPU does not wait."""
    platform_of(array).follow(event)


def wait(array, event):
    """Returns when an event of the device of `array` has passed. From any thread."""
    platform_of(array).wait(event)

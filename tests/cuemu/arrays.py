"""The arguments of one launch: checked against the kernel's signature, and laid out for machine.h.

CuPy passes whatever it is given: a Python int as 8 bytes where the kernel reads 4, a float64 array where it reads
floats.  Here that is a TypeError.
"""

import ctypes
import weakref

import numpy as np


class _Array(ctypes.Structure):  # as in machine.h
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("bytes", ctypes.c_uint64),
        ("written", ctypes.c_void_p),
        ("writable", ctypes.c_int32),
        ("padding", ctypes.c_int32),
        ("begin", ctypes.c_void_p),
    ]


class _Pointer(ctypes.Structure):
    _fields_ = [("argument", ctypes.c_int32), ("array", ctypes.c_int32), ("offset", ctypes.c_uint64)]


# ---- memory that nothing has written --------------------------------------------------------------------------------

_empty = {}  # address: (bytes, one uint8 per byte: whether a kernel has written it)


def empty(shape, dtype=np.float32):
    """np.empty, but check mode reports a kernel that reads what no kernel, nor the host, has written.

    The memory holds bytes 0xff: NaN, -1 or 255.  The host is taken to have written a byte that is something else, so
    after the host has written such values itself, call `initialised`.
    """
    dtype = np.dtype(dtype)
    count = int(np.prod(shape, dtype=np.int64))
    memory = np.full(count * dtype.itemsize + 256, 0xFF, np.uint8)
    start = -memory.ctypes.data % 256  # aligned as on the GPU
    memory = memory[start : start + count * dtype.itemsize]
    track(memory.ctypes.data, np.zeros(memory.nbytes, np.uint8))
    weakref.finalize(memory.base, forget, memory.ctypes.data)
    return memory.view(dtype).reshape(shape)


def track(address, written):
    """From now on `written`, uint8 with one element a byte, tells what of the memory at an address has been written."""
    _empty[address] = written.size, written


def forget(address):
    """The memory at an address is no longer tracked."""
    _empty.pop(address, None)


def initialised(array):
    """Declare that all of an array made by `empty` has been written."""
    address = array.ctypes.data
    for begin, (size, written) in list(_empty.items()):  # other threads may allocate
        if begin <= address < begin + size:
            written[address - begin : address - begin + array.nbytes] = 1
    return array


# ---- a launch's arguments -------------------------------------------------------------------------------------------


class Arrays:
    def __init__(self, kernel, signature, parameters, args):
        if len(args) != len(signature):
            raise TypeError(f"{kernel} takes {len(signature)} arguments, not {len(args)}")
        self._names = [parameters[i] if i < len(parameters) else str(i) for i in range(len(args))]
        self._values, given = [], []
        for i, (arg, kind) in enumerate(zip(args, signature, strict=True)):
            where = f"{kernel}, argument {i} ({self._names[i]})"
            if kind[0] not in "pP":
                self._values.append(_scalar(arg, kind, where))
                continue
            if _pointer_is_array(arg, kind, where):
                given.append((i, arg, kind[0] == "p"))
            self._values.append(np.zeros(1, np.uint64))
        self._keep = args
        self.arguments = (ctypes.c_void_p * max(1, len(args)))(*(value.ctypes.data for value in self._values))
        self._group(given)

    def _group(self, given):
        """Arguments that overlap become one array of the machine's, so that a race between two of them is one."""
        groups = []  # [begin, end, [(index, argument, is written), ...]]
        for i, array, written in sorted(given, key=lambda item: (item[1].ctypes.data, -item[1].nbytes)):
            begin = array.ctypes.data
            if groups and begin < groups[-1][1]:
                groups[-1][1] = max(groups[-1][1], begin + array.nbytes)
                groups[-1][2].append((i, array, written))
            else:
                groups.append([begin, begin + array.nbytes, [(i, array, written)]])
        self.array_count, self.pointer_count = len(groups), len(given)
        self.arrays = (_Array * max(1, len(groups)))()
        self.pointers = (_Pointer * max(1, len(given)))()
        self._groups = groups
        n = 0
        for number, (begin, end, members) in enumerate(groups):
            writable = any(written for _, _, written in members)
            self.arrays[number] = _Array(begin, end - begin, _written_mask(begin, end), writable, 0, 0)
            for i, array, _ in members:
                self.pointers[n] = _Pointer(i, number, array.ctypes.data - begin)
                n += 1

    def name(self, number):
        """The parameter that an array was passed as; 'x/y' if it was passed as two."""
        return "/".join(self._names[i] for i, _, _ in sorted(self._groups[number][2], key=lambda member: member[0]))

    def describe(self, number, offset):
        begin, _, members = self._groups[number]
        i, array, _ = members[0]
        text = f"argument {i} ({self.name(number)}), {array.dtype}{list(array.shape)}"
        if 0 <= offset < array.nbytes:
            index = np.unravel_index(offset // array.itemsize, array.shape)
            return text + f", element {list(map(int, index))}"
        return text


def _written_mask(begin, end):
    for address, (size, written) in list(_empty.items()):  # other threads may allocate
        if address <= begin and end <= address + size:
            return written.ctypes.data + begin - address
    return None


def _pointer_is_array(arg, kind, where):
    if arg is None or (isinstance(arg, np.integer) and arg.itemsize == 8 and arg == 0):
        return False  # a null pointer
    if not isinstance(arg, np.ndarray):
        raise TypeError(f"{where}: an array, not {type(arg).__name__}")
    if not arg.flags.c_contiguous:
        raise TypeError(f"{where}: the array is not C-contiguous")
    if kind[1] in "fiub" and arg.dtype.str[1:] != kind[1:]:
        raise TypeError(f"{where}: {arg.dtype} for a pointer to {np.dtype(kind[1:])}")
    if kind[0] == "p" and not arg.flags.writeable:
        raise TypeError(f"{where}: a read-only array for a pointer that is not const")
    return arg.nbytes > 0


def _scalar(arg, kind, where):
    if kind[0] == "s":
        raise TypeError(f"{where}: structs are not supported")
    if not isinstance(arg, np.generic) or arg.dtype.str[1:] != kind:
        given = arg.dtype if isinstance(arg, np.generic) else type(arg).__name__
        raise TypeError(f"{where}: {given} for a parameter of type {np.dtype(kind)}; pass a NumPy scalar of that type")
    return np.full(1, arg)

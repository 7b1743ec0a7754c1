"""The CPU as a device: arrays that only kernels may touch, run by cuemu behind `cpnet.launch`, as CuPy's are on a GPU."""
import threading
from collections import defaultdict, deque
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np

from cpnet import launch
from cpnet.columns import Gpu
from tests import cuemu

SEEDS = 0, 1, 2  # orders of threads that every launch is run in; the results must have the same bits


class DeviceArray(np.ndarray):
    """An array on the device `place`. NumPy's functions refuse it: on a GPU they could not reach it."""
    place = "cpu"

    def __array_finalize__(self, base):
        self.place = getattr(base, "place", "cpu")

    def __array_ufunc__(self, *_, **__):
        raise TypeError("arithmetic on a device's array outside a kernel")

    def __array_function__(self, *_, **__):
        raise TypeError("a NumPy function on a device's array")


@dataclass(eq=False)
class Event:
    stream: str
    passed: bool = False


class Streams:
    """What devices have been given to do, by stream; each thing is done as late as it may be: when somebody waits for it.

    only: a word in the names of the streams that are late; the others do at once what they are given.
    """

    def __init__(self, only):
        self.only, self.queues, self.lock = only, defaultdict(deque), threading.RLock()

    def give(self, stream, action):
        if self.only in stream:
            self.queues[stream].append(action)
        else:
            action()

    def record(self, stream):
        event = Event(stream)
        self.give(stream, lambda: setattr(event, "passed", True))
        return event

    def until(self, event):
        """Do what comes before an event."""
        with self.lock:
            while not event.passed:
                self.queues[event.stream].popleft()()

    def finish(self):
        """Do everything."""
        with self.lock:
            for queue in list(self.queues.values()):
                while queue:
                    queue.popleft()()


class Runner:
    """The platform of DeviceArray (see cpnet.cupy_gpus.Cupy). Does at once what it is given, or else as late as it may."""

    mutated = {}  # text: what to run instead
    current = "cpu"
    shared_memory = 0  # what `tensor_cores` says: none, so that convolution takes its plain kernels
    streams = None  # Streams, in `late`
    recorded = None  # a Graph, while it is captured

    @contextmanager
    def late(self, only=""):
        """Meanwhile everything is late, or the streams with `only` in their names."""
        self.streams = Streams(only)
        try:
            yield self.streams
            self.streams.finish()
        finally:
            self.streams = None

    def give(self, action, stream=None):
        """Have `action` done by a stream, the current device's own if it has no name; or record it."""
        if self.recorded is not None and not stream:
            self.recorded.append(action)
        elif self.streams:
            self.streams.give(stream or self.current, action)
        else:
            action()

    def pinned(self, size):
        return np.full(size, 0xEE, np.uint8)

    def upload(self, array, values, after):
        stream = f"{self.current}, uploads"
        if self.streams:
            self.give(lambda: self.streams.until(after), stream)
        self.give(lambda: self._write(array, values), stream)
        return self.streams and self.streams.record(stream)

    def mark(self):
        return self.streams and self.streams.record(self.current)

    def follow(self, event):
        if self.streams:
            self.give(lambda: self.streams.until(event))

    def wait(self, event):
        if self.streams:
            self.streams.until(event)

    def device(self, array):
        return getattr(array, "place", "cpu")

    def tensor_cores(self, device):
        return self.shared_memory

    def address(self, array):
        return array.ctypes.data

    def on(self, device):
        self.current = device
        return nullcontext()

    def module(self, code, options):
        assert self.recorded is None, "a module is loaded while a graph is captured"
        module = cuemu.RawModule(code=self.mutated.get(code, code), options=options)
        return Module(module)

    def capture(self, work):
        """As on a GPU: nothing runs, the arguments are those of now, and their memory is read when the graph is launched."""
        assert self.recorded is None
        self.recorded = graph = Graph()
        try:
            work()
        finally:
            self.recorded = None
        return graph

    def refuse(self, what):
        if self.recorded is not None:
            raise RuntimeError(f"{what} while a graph is captured")

    def empty(self, shape, dtype):
        self.refuse(f"memory for {shape} is asked for")
        array = cuemu.empty(shape, dtype).view(DeviceArray)
        array.place = self.current
        return array

    def free(self):
        return 1 << 30

    def matmul(self, a, b, out, math):
        self.give(lambda: self._write(out, host(a) @ host(b)))

    def to_host(self, array):
        self.refuse("an array is copied to the host")
        self._finish()
        return host(array).copy()

    def assign(self, array, values):
        self.refuse("an array is copied from the host")
        self._finish()
        self._write(array, values)

    def copy(self, pairs):
        if len({self.device(array) for pair in pairs for array in pair}) > 1:
            self._finish()  # in what order copies between devices are done is tested elsewhere
        for to, source in pairs:
            self.current = self.device(to)
            self.give(lambda to=to, source=source: self._write(to, host(source)))

    def _finish(self):
        if self.streams:
            self.streams.finish()

    @staticmethod
    def _write(array, values):
        assert values.dtype == array.dtype and values.shape == array.shape
        cuemu.initialised(host(array))[...] = values


class Graph(list):
    """What a graph would launch."""

    def launch(self):
        for action in self:
            RUNNER.give(action)


class Module:
    """A compiled text whose kernels run once for each of SEEDS, from the same arrays."""

    def __init__(self, module):
        self.module = module

    def get_function(self, name):
        return Function(self.module.get_function(name))


class Function:
    def __init__(self, kernel):
        self.kernel = kernel

    @property
    def max_dynamic_shared_size_bytes(self):
        return self.kernel.max_dynamic_shared_size_bytes

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, value):
        self.kernel.max_dynamic_shared_size_bytes = value

    def __call__(self, grid, block, args, shared_mem=0):
        RUNNER.give(lambda: self.run(grid, block, args, shared_mem))

    def run(self, grid, block, args, shared_mem):
        args = [host(arg) if isinstance(arg, np.ndarray) else arg for arg in args]
        arrays = [arg for arg in args if isinstance(arg, np.ndarray)]
        before = [array.copy() for array in arrays]
        first = None
        for seed in SEEDS:
            for array, saved in zip(arrays, before, strict=True):
                if array.flags.writeable:
                    array[...] = saved
            self.kernel(grid, block, args, shared_mem=shared_mem, seed=seed)
            bits = [array.tobytes() for array in arrays]
            first = first or bits
            assert bits == first, f"{self.kernel.name}: other bits in thread order {seed}"


def host(array):
    """The same memory as NumPy's own type."""
    return array.view(np.ndarray)


@dataclass(frozen=True)
class Emulated(Gpu):
    """Where a net's arrays are DeviceArrays of the place `name`: kernels refuse those of another."""

    def empty(self, shape, dtype):
        return launch.empty_on(RUNNER, self.name, shape, dtype, shape[-1])

    def holds(self, array):
        return array.place == self.name


RUNNER = Runner()
launch.register(DeviceArray, RUNNER)

"""NVIDIA's GPUs through CuPy: the Platform of platform.py, which says what each method is for.
The only file that imports CuPy.

A thread of the CPU has a *current* device, GPU 0 at first, and whatever it asks of CUDA makes a context on
that one: some hundred MB of its memory. So a thread makes a device current before it asks for anything,
and never another in passing, as CuPy's `with Device(1):` does, which ends by making GPU 0 current.
"""
import ctypes
import sys
import threading
from contextlib import suppress

import numpy as np

from cpnet.errors import CpnetError

FILES = {12: "requirements-cuda12.txt", 13: "requirements.txt"}  # by the CUDA that they bring
DRIVERS = {12: "525.60", 13: "580.65"}  # the oldest driver for it
NO_DEVICE, PEER_ACCESS_ENABLED = 100, 704  # cudaError_t: no GPU; told before to reach a peer's memory


def driver_installed():
    """Whether NVIDIA's driver can be loaded. This neither imports CuPy nor makes a context."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


class Cupy:
    """The GPUs of this machine, by number."""

    def __init__(self):
        """Raises CpnetError where CuPy, or a library that it needs, is not installed."""
        try:
            import cupy
            from cuda.pathfinder import find_nvidia_header_directory
            from cupy_backends.cuda.libs import nvrtc
        except ImportError as error:
            raise CpnetError(f"CuPy cannot be used ({error}): pip install -r {FILES[13]}") from None
        self.cupy, self.nvrtc, self.runtime = cupy, nvrtc, cupy.cuda.runtime
        self.cuda = self.runtime.runtimeGetVersion() // 1000  # the CUDA that this CuPy is made for
        try:
            nvrtc.getVersion()  # loads it
        except RuntimeError:
            raise CpnetError("CUDA's compiler, NVRTC, cannot be loaded: "
                             f"pip install -r {FILES[self.cuda]}") from None
        if find_nvidia_header_directory("cudart") is None:
            raise CpnetError(f"CUDA's headers are not installed: pip install -r {FILES[self.cuda]}")
        self.thread = threading.local()  # begun: whether this thread has made a device current
        self.shared_memory = {}  # device: what `tensor_cores` says of it
        self.reached = set()  # (device, peer) that have been told to reach each other's memory
        self.copy_streams = {}  # device: the stream on which copies to it from other devices run
        self.upload_streams = {}  # device: the stream on which copies to it from pinned memory run
        self.capturing = False

    # Devices

    def count(self):
        """How many GPUs there are. Raises CpnetError where the driver is too old for this CuPy,
        or does not work."""
        driver = self.runtime.driverGetVersion()
        if driver // 1000 < self.cuda:
            raise CpnetError("NVIDIA's driver is too old: it knows CUDA "
                             f"{driver // 1000}.{driver % 1000 // 10}, and this CuPy needs CUDA {self.cuda}. "
                             f"Install driver {DRIVERS[self.cuda]} or newer" + self._or_cuda_12())
        try:
            return self.runtime.getDeviceCount()
        except self.runtime.CUDARuntimeError as error:
            if error.status == NO_DEVICE:
                return 0
            raise CpnetError(f"NVIDIA's driver does not work ({error}): see whether nvidia-smi works, and "
                             "install the driver again") from None

    def unfit(self, device):
        """Why this GPU cannot run what this CuPy compiles; "" if it can."""
        properties = self.runtime.getDeviceProperties(device)
        capability = properties["major"] * 10 + properties["minor"]
        oldest = min(self.nvrtc.getSupportedArchs())
        if capability >= oldest:
            return ""
        return (f"GPU {device} ({self.name(device)}) is of compute capability {capability / 10}, and CUDA "
                f"{self.cuda} begins at {oldest / 10}: use the CPU" + self._or_cuda_12())

    def _or_cuda_12(self):
        """What older drivers and GPUs can do with, where this CuPy is not it already."""
        return f", or: pip uninstall cupy-cuda13x && pip install -r {FILES[12]}" if self.cuda > 12 else ""

    def name(self, device):
        """Such as "NVIDIA H100 80GB HBM3"."""
        return self.runtime.getDeviceProperties(device)["name"].decode()

    def processors(self, device):
        """How many multiprocessors it has."""
        return self.runtime.getDeviceProperties(device)["multiProcessorCount"]

    def tensor_cores(self, device):
        """Bytes of shared memory that a block may have, if there are tensor cores for TF32;
        0 if there are none."""
        if device not in self.shared_memory:
            properties = self.runtime.getDeviceProperties(device)
            most = properties["sharedMemPerBlockOptin"]
            self.shared_memory[device] = most if properties["major"] >= 8 else 0
        return self.shared_memory[device]

    def reaches(self, device, peer):
        """Whether the hardware lets `device` access the memory of `peer`."""
        return bool(self.runtime.deviceCanAccessPeer(device, peer))

    def versions(self, device):
        """A dictionary for `machine`: the versions of CUDA and CuPy, and the GPU's memory in MiB."""
        return {"cuda": self.runtime.runtimeGetVersion(), "cupy": self.cupy.__version__,
                "memory_mib": self.runtime.getDeviceProperties(device)["totalGlobalMem"] >> 20}

    def device(self, array):
        """The number of the GPU that an array lies on:
        what two arguments of one launch must have in common."""
        return array.device.id

    def address(self, array):
        """Where an array begins, in bytes."""
        return array.data.ptr

    def use(self, device):
        """See Platform.use. Raises CpnetError for a GPU that cannot be had."""
        if not hasattr(self.thread, "begun") or self.runtime.getDevice() != device:
            try:
                self.runtime.setDevice(device)
            except self.runtime.CUDARuntimeError as error:
                raise CpnetError(f"GPU {device} cannot be used ({error}); another program may have it to "
                                 "itself") from None
            self.thread.begun = True

    # Kernels

    def module(self, code):
        """The compiled text. CuPy keeps it on disk too (CUPY_CACHE_DIR), for the next process."""
        return self.cupy.RawModule(code=code, options=("--std=c++17",))

    def capture(self, work):
        """The launches of `work()`, none of them run, as a Graph of the current device."""
        # not a non-blocking one: then the default stream's work would pass unnoticed
        stream = self.cupy.cuda.Stream()
        self.capturing = True
        try:
            with stream:
                # Of this thread alone: the loader's threads may wait for their copies meanwhile.
                stream.begin_capture(self.runtime.streamCaptureModeThreadLocal)
                try:
                    work()
                except BaseException:
                    with suppress(self.runtime.CUDARuntimeError):  # it would hide what went wrong
                        stream.end_capture()
                    raise
                return Graph(self, self.runtime.getDevice(), stream.end_capture())
        finally:
            self.capturing = False

    # Memory

    def empty(self, shape, dtype):
        """An uninitialised array on the current device, of CuPy's pool.
        Raises MemoryError where there is no room."""
        if self.capturing:  # CuPy's pool might have some, and give it to others while the graph still uses it
            raise RuntimeError(f"memory for {shape} is asked for while a graph is captured")
        return self.cupy.empty(shape, dtype)

    def free(self):
        """Bytes that the current device could still give."""
        return self.runtime.memGetInfo()[0] + self.cupy.get_default_memory_pool().free_bytes()

    def pinned(self, size):
        """See Platform.pinned."""
        memory = self.cupy.cuda.alloc_pinned_memory(size)
        return np.ndarray((size,), np.uint8, memory)

    # Copies

    def to_host(self, array):
        """See Platform.to_host."""
        return self.cupy.asnumpy(array)

    def assign(self, array, values):
        """See Platform.assign."""
        array.set(values)
        # CUDA reads pageable memory before it returns, but pinned memory later:
        # `values` may be written over after this.
        self._current().synchronize()

    def copy(self, pairs):
        """See Platform.copy. A copy to another device runs on a stream of its own, which belongs to the
        receiver, so that copies in both directions overlap. It begins when both devices have done what they
        were given before (the source is complete, the old content no longer needed),
        and both go on after it (the content is there, the source is free).
        """
        places = [(self.device(to), self.device(source)) for to, source in pairs]
        crossing = dict.fromkeys(device for place in places if place[0] != place[1] for device in place)
        ready, done = {}, []
        for device in crossing:
            self.use(device)
            ready[device] = self._record(self._current())
        for (to, source), (device, origin) in zip(pairs, places, strict=True):
            if device == origin:
                self.use(device)
                self.runtime.memcpyAsync(to.data.ptr, source.data.ptr, to.nbytes,
                                         self.runtime.memcpyDeviceToDevice, self._current().ptr)
                continue
            self._let_reach(device, origin)
            self._let_reach(origin, device)
            self.use(device)
            stream = self._stream(self.copy_streams, device)
            stream.wait_event(ready[device])
            stream.wait_event(ready[origin])
            self.runtime.memcpyPeerAsync(to.data.ptr, device, source.data.ptr, origin, to.nbytes, stream.ptr)
            done.append(((device, origin), self._record(stream)))
        for place, event in done:
            for device in place:
                self.use(device)
                self._current().wait_event(event)

    def _let_reach(self, device, peer):
        """Let `device` access the memory of `peer`, where it can;
        elsewhere the driver stages copies in pinned memory."""
        if (device, peer) in self.reached:
            return
        self.reached.add((device, peer))
        if self.reaches(device, peer):
            self.use(device)
            try:
                self.runtime.deviceEnablePeerAccess(peer)
            except self.runtime.CUDARuntimeError as error:
                if error.status != PEER_ACCESS_ENABLED:
                    raise

    def upload(self, array, values, after):
        """See Platform.upload."""
        stream = self._stream(self.upload_streams, self.device(array))
        stream.wait_event(after)
        self.runtime.memcpyAsync(array.data.ptr, values.ctypes.data, values.nbytes,
                                 self.runtime.memcpyHostToDevice, stream.ptr)
        return self._record(stream)

    # Events

    def mark(self):
        """An event at the end of what the current device has been given."""
        return self._record(self._current())

    def follow(self, event):
        """What the current device is given from now on waits for the event,
        be it of another stream or device."""
        self._current().wait_event(event)

    def wait(self, event):
        """See Platform.wait. The interpreter lock is free meanwhile."""
        event.synchronize()

    def _current(self):
        """The current device's current stream."""
        return self.cupy.cuda.get_current_stream()

    def _stream(self, streams, device):
        """The stream of `device`, which is the current one, among `streams`; made at first."""
        if device not in streams:
            streams[device] = self.cupy.cuda.Stream(non_blocking=True)
        return streams[device]

    def _record(self, stream):
        """An event at the end of what `stream`, of the current device, has been given.
        Who waits for it sleeps."""
        return stream.record(self.cupy.cuda.Event(block=True, disable_timing=True))


class Graph:
    """A captured graph of one device."""

    def __init__(self, platform, device, graph):
        self.platform, self.device, self.graph = platform, device, graph

    def launch(self):
        """Run all of it in its device's own stream, whichever device is the current one."""
        self.platform.use(self.device)
        self.graph.launch()

"""NVIDIA GPUs through CuPy: the platform behind launch.py. The only file that imports CuPy."""
import numpy as np

from cpnet.errors import CpnetError


class Cupy:
    """The methods that launch.py calls, each on the current device but where it is given one."""

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

    def matmul(self, a, b, out, math):
        self._set_math("tf32" if math == "tf32" and self.tensor_cores(self.device(out)) else "fp32")
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

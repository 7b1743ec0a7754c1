"""The functions of the CUDA runtime that CuPy calls for this program."""
import ctypes
import struct
import threading
from ctypes import c_int, c_size_t, c_uint, c_ulonglong, c_void_p

from tests.softcuda.api import Functions, put, view
from tests.softcuda.errors import CudaError
from tests.softcuda.machine import GLOBAL, THREAD_LOCAL
from tests.softcuda.work import Event, Stream

RUNTIME = 13020  # the CUDA version that CuPy's own copy of the runtime has
TO_DEVICE, TO_HOST, WITHIN, DEFAULT = 1, 2, 3, 4  # cudaMemcpyKind
NON_BLOCKING, UNTIMED = 1, 2  # flags of streams and of events


def functions(machine):
    F = Functions(machine)
    _devices(F, machine)
    _memory(F, machine)
    _copies(F, machine)
    _streams(F, machine)
    _events(F, machine)
    _graphs(F, machine)
    return F


def _devices(F, machine):
    @F("cudaGetErrorName", c_int, result=c_void_p)
    def error_name(code):
        return F.error_name(code)

    @F("cudaGetErrorString", c_int, result=c_void_p)
    def error_string(code):
        return F.text("as softcuda says")

    @F("cudaGetLastError")
    def last_error():
        last, machine.thread.last_error = getattr(machine.thread, "last_error", 0), 0
        return last

    @F("cudaDriverGetVersion", c_void_p)
    def driver_version(out):
        put(c_int, out, machine.driver)

    @F("cudaRuntimeGetVersion", c_void_p)
    def runtime_version(out):
        put(c_int, out, RUNTIME)

    @F("cudaGetDeviceCount", c_void_p)
    def device_count(out):
        if machine.driver // 1000 < RUNTIME // 1000:
            raise CudaError("InsufficientDriver")
        if not machine.devices:
            raise CudaError("NoDevice")
        put(c_int, out, len(machine.devices))

    @F("cudaGetDevice", c_void_p)
    def get_device(out):
        put(c_int, out, machine.current.number)

    @F("cudaSetDevice", c_int)
    def set_device(number):
        machine.enter(machine.device(number))  # which makes its context, since CUDA 12
        machine.thread.device = number

    @F("cudaDeviceSynchronize")
    def synchronize():
        device = machine.enter()
        for capture in machine.captures:
            if any(each.device == device.number for each in capture.streams):
                capture.refuse("StreamCaptureUnsupported", "the device is waited for")
        machine.finish(device)
        machine.enter()

    @F("cudaDeviceGetAttribute", c_void_p, c_int, c_int)
    def attribute(out, which, number):
        device = machine.device(number)
        known = {10: 32, 16: device.processors, 75: device.capability[0], 76: device.capability[1], 97: device.shared}
        put(c_int, out, known.get(which, 0))

    @F("cudaGetDeviceProperties", c_void_p, c_int)
    def properties(out, number):
        device = machine.device(number)
        ctypes.memset(out, 0, 1008)
        name = device.name.encode() + b"\0"
        ctypes.memmove(out, name, len(name))
        for at, kind, *values in ((288, "Q", device.memory), (360, "ii", *device.capability), (384, "i", device.processors),
                                  (672, "Q", device.shared)):  # offsets in CUDA 13's cudaDeviceProp
            ctypes.memmove(out + at, struct.pack(f"<{kind}", *values), struct.calcsize(f"<{kind}"))

    @F("cudaDeviceCanAccessPeer", c_void_p, c_int, c_int)
    def can_access(out, number, peer):
        put(c_int, out, machine.device(peer).number in machine.device(number).peers)

    @F("cudaDeviceEnablePeerAccess", c_int, c_uint)
    def enable_peer(peer, flags):
        device = machine.enter()
        if machine.device(peer).number not in device.peers:
            raise CudaError("PeerAccessUnsupported")
        if peer in device.reached:
            raise CudaError("PeerAccessAlreadyEnabled")
        device.reached.add(peer)


def _memory(F, machine):
    @F("cudaMalloc", c_void_p, c_size_t)
    def malloc(out, size):
        put(c_void_p, out, machine.allocate(size, machine.current).address if size else 0)

    @F("cudaFree", c_void_p)
    def free(address):
        machine.free(address, pinned=False)

    @F("cudaHostAlloc", c_void_p, c_size_t, c_uint)
    def host_alloc(out, size, flags):
        put(c_void_p, out, machine.allocate(size, None).address)

    @F("cudaFreeHost", c_void_p)
    def free_host(address):
        machine.free(address, pinned=True)

    @F("cudaMemGetInfo", c_void_p, c_void_p)
    def info(free, total):
        device = machine.enter()
        put(c_size_t, free, device.memory - machine.memory.bytes_of(device.number))
        put(c_size_t, total, device.memory)

    @F("cudaPointerGetAttributes", c_void_p, c_void_p)
    def attributes(out, address):
        block = machine.memory.find(address or 0)
        ctypes.memset(out, 0, 24)
        if block is not None and not block.freed:
            put(c_int, out, 1 if block.device is None else 2)
            put(c_int, out + 4, block.device or 0)
            put(c_void_p, out + 8, address)

    @F("cudaMemsetAsync", c_void_p, c_int, c_size_t, c_void_p)
    def memset(address, value, size, stream):
        block = machine.memory.living(address, size, "memset", machine.where())
        if block is None:
            raise CudaError("InvalidValue", "memset of memory that is no device's")

        def run():
            view(address, size)[:] = value & 255
            block.note_written(address, size)
        machine.give(machine.stream(stream), run, "memset")


def _copies(F, machine):
    def copy(to, source, size, kind, stream, wait=False):
        """From pageable memory the bytes are those of now; to it, the copy is done on return. Others are done in order."""
        if not size:
            return
        target, origin = (machine.memory.living(each, size, "memcpy", machine.where()) for each in (to, source))
        for block, on_host in (target, kind == TO_HOST), (origin, kind == TO_DEVICE):
            if kind != DEFAULT and on_host == (block is not None and block.device is not None):
                raise CudaError("InvalidValue", f"memcpy of kind {kind}")
        staged = view(source, size).copy() if origin is None else None
        counted = () if stream.capture else (target, origin)
        pinned = [block for block in counted if block is not None and block.device is None]

        def run():
            for block in pinned:
                block.copies -= 1
            for block in target, origin:
                if block is not None and block.freed:
                    raise CudaError("IllegalAddress", f"memory that was freed at\n{block.freed}")
            view(to, size)[:] = view(source, size) if staged is None else staged
            if target is not None:
                known = origin is not None and origin.written is not None
                target.note_written(to, size, origin.written[source - origin.address:][:size] if known else 1)

        operation = machine.give(stream, run, f"a copy of {size} bytes")
        if operation is None and (target is None or origin is None):
            stream.capture.refuse("StreamCaptureUnsupported", "pageable memory is copied")
        for block in pinned:
            block.copies += 1
        if wait or target is None:
            machine.complete(operation)
            machine.enter(machine.devices[stream.device])

    @F("cudaMemcpy", c_void_p, c_void_p, c_size_t, c_int)
    def memcpy(to, source, size, kind):
        copy(to, source, size, kind, machine.current.legacy, wait=True)

    @F("cudaMemcpyAsync", c_void_p, c_void_p, c_size_t, c_int, c_void_p)
    def memcpy_async(to, source, size, kind, stream):
        copy(to, source, size, kind, machine.stream(stream))

    @F("cudaMemcpyPeerAsync", c_void_p, c_int, c_void_p, c_int, c_size_t, c_void_p)
    def memcpy_peer_async(to, device, source, peer, size, stream):
        for address, number in (to, device), (source, peer):
            block = machine.memory.find(address)
            if block is None or block.device != machine.device(number).number:
                raise CudaError("InvalidValue", f"this is no memory of device {number}")
        copy(to, source, size, DEFAULT, machine.stream(stream))


def _streams(F, machine):
    @F("cudaStreamCreateWithPriority", c_void_p, c_uint, c_int)
    def create(out, flags, priority):
        device = machine.enter()
        stream = Stream(device.number, blocking=not flags & NON_BLOCKING)
        device.streams.append(stream)
        put(c_void_p, out, machine.new(stream))

    @F("cudaStreamGetPriority", c_void_p, c_void_p)
    def priority(handle, out):
        put(c_int, out, 0)

    @F("cudaStreamDestroy", c_void_p)
    def destroy(handle):
        machine.enter()
        stream = machine.get(handle, Stream)
        if stream.capture:
            stream.capture.refuse("StreamCaptureUnsupported", "a captured stream is destroyed")
        del machine.handles[handle]
        if not stream.last or stream.last.done:
            machine.devices[stream.device].streams.remove(stream)  # else what it was given is still to be done

    @F("cudaStreamSynchronize", c_void_p)
    def synchronize(handle):
        machine.enter()
        stream = machine.stream(handle)
        machine.may_wait(stream)
        device = machine.devices[stream.device]
        for each in [each for each in device.streams if each.blocking] if stream.legacy else [stream]:
            if each.last:
                machine.complete(each.last)
        machine.enter(device)

    @F("cudaStreamIsCapturing", c_void_p, c_void_p)
    def is_capturing(handle, out):
        stream = machine.stream(handle)
        machine.may_use(stream)
        put(c_int, out, 0 if not stream.capture else 2 if stream.capture.invalid else 1)

    @F("cudaStreamWaitEvent", c_void_p, c_void_p, c_uint)
    def wait_event(handle, number, flags):
        stream, event = machine.stream(handle), machine.get(number, Event)
        if event.capture is not None:
            machine.may_use(stream)
            if stream.capture not in (None, event.capture):
                raise CudaError("StreamCaptureMerge")
            stream.capture = event.capture
            event.capture.streams.setdefault(stream, set()).update(event.nodes)
        elif stream.capture:
            stream.capture.refuse("StreamCaptureIsolation", "an event from outside is waited for")
        elif event.operation is not None and not event.operation.done:
            machine.give(stream, None, "a wait", after=[event.operation])


def _events(F, machine):
    @F("cudaEventCreateWithFlags", c_void_p, c_uint)
    def create(out, flags):
        put(c_void_p, out, machine.new(Event(machine.enter().number, timed=not flags & UNTIMED)))

    @F("cudaEventCreate", c_void_p)
    def create_timed(out):
        create(out, 0)

    @F("cudaEventDestroy", c_void_p)
    def destroy(number):
        machine.get(number, Event)
        del machine.handles[number]

    @F("cudaEventRecord", c_void_p, c_void_p)
    def record(number, handle):
        machine.enter()
        stream, event = machine.stream(handle), machine.get(number, Event)
        if stream.device != event.device:
            raise CudaError("InvalidResourceHandle", f"an event of device {event.device} is recorded in a {stream}")
        if stream.capture:
            if stream.capture.invalid:
                raise CudaError("StreamCaptureInvalidated", stream.capture.invalid)
            event.operation, event.capture, event.nodes = None, stream.capture, set(stream.capture.streams[stream])
        else:
            event.operation, event.capture = machine.give(stream, None, "an event"), None

    def uncaptured(number, done):
        """The event, which is `done`, as the host may only do with one that belongs to no capture."""
        event = machine.get(number, Event)
        if event.capture is not None:
            event.capture.refuse("CapturedEvent", f"an event of it is {done}")
        return event

    @F("cudaEventSynchronize", c_void_p)
    def synchronize(number):
        machine.enter()
        event = uncaptured(number, "waited for")
        if event.operation is not None:
            machine.complete(event.operation)
        machine.enter(machine.devices[event.device])

    @F("cudaEventQuery", c_void_p)
    def query(number):
        machine.enter()
        event = uncaptured(number, "asked for")
        for capture in machine.captures:
            if capture.mode == GLOBAL or capture.mode == THREAD_LOCAL and capture.thread == threading.get_ident():
                capture.refuse("StreamCaptureUnsupported", "an event is asked for")
        if event.operation is None or event.operation.done:
            return
        machine.complete(event.operation)  # so that the next query finds it done
        raise CudaError("NotReady")

    @F("cudaEventElapsedTime", c_void_p, c_void_p, c_void_p)
    def elapsed(out, one, other):
        events = machine.get(one, Event), machine.get(other, Event)
        if not all(event.timed for event in events):
            raise CudaError("InvalidResourceHandle", "an event that keeps no time")
        if any(event.operation is None or not event.operation.done for event in events):
            raise CudaError("NotReady")
        put(ctypes.c_float, out, 1.0)


def _graphs(F, machine):
    @F("cudaStreamBeginCapture", c_void_p, c_int)
    def begin(handle, mode):
        machine.begin(machine.stream(handle), mode)

    @F("cudaStreamEndCapture", c_void_p, c_void_p)
    def end(handle, out):
        put(c_void_p, out, 0)
        put(c_void_p, out, machine.new(machine.end(machine.stream(handle))))

    @F("cudaGraphInstantiate", c_void_p, c_void_p, c_ulonglong)
    def instantiate(out, graph, flags):
        put(c_void_p, out, machine.new(list(machine.get(graph, list))))

    @F("cudaGraphLaunch", c_void_p, c_void_p)
    def launch(graph, handle):
        machine.enter()
        machine.launch(machine.get(graph, list), machine.stream(handle))

    @F("cudaGraphDestroy", c_void_p)
    def destroy(graph):
        machine.get(graph, list)
        del machine.handles[graph]

    @F("cudaGraphExecDestroy", c_void_p)
    def destroy_executable(graph):
        destroy(graph)

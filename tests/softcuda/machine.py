"""The machine: devices, contexts, memory, and when work is done.

Work is done as late as its order allows, when somebody waits for it ("late"); at once ("eager"); late in default streams and
at once in others ("skewed"); or at moments drawn from a seed ("random").
"""
import os
import random
import sys
import threading
import traceback
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.cuemu import CuemuError
from tests.softcuda.errors import CudaError
from tests.softcuda.memory import Memory
from tests.softcuda.work import Capture, Operation, Stream

HERE = os.path.dirname(__file__)
MODES = "late", "eager", "skewed", "random"
GLOBAL, THREAD_LOCAL, RELAXED = range(3)  # cudaStreamCaptureMode
READY = 0.4  # probability, in mode "random", that one of the waiting operations is done when another is given


@dataclass
class Device:
    """What a device is, and its state. A context costs hundreds of MB of a real one."""
    number: int
    name: str
    capability: tuple
    shared: int  # bytes of shared memory that a block may have when it asks
    peers: frozenset = frozenset()  # devices whose memory it can reach
    memory: int = 4 << 30
    processors: int = 4
    busy: bool = False  # in exclusive mode, and another process has it
    context: str = ""  # the lines of Python that made it; "" where there is none
    dead: str = ""  # the error that its context has died of
    reached: set = field(default_factory=set)  # peers whose memory it has been told to reach
    streams: list = field(default_factory=list)

    def __post_init__(self):
        self.legacy = Stream(self.number, legacy=True)
        self.streams.append(self.legacy)


class Machine:
    """All devices of a process, its handles, and what went wrong (`faults`). Whoever calls holds `lock`."""

    def __init__(self, devices, driver, mode="late", seed=0):
        self.devices, self.driver = devices, driver  # driver: the CUDA that it knows, such as 13000
        self.mode, self.random = mode, random.Random(seed)
        self.lock, self.thread = threading.RLock(), threading.local()
        self.faults, self.calls = [], Counter()
        self.memory = Memory(self.fault)
        self.handles, self.next_handle = {}, 0x5C0000
        self.captures, self.waiting = [], []

    # Faults

    def fault(self, text):
        """Note what no device would survive, or would do wrong without a word."""
        self.faults.append(text)
        print(f"softcuda: {text}", file=sys.stderr, flush=True)

    @staticmethod
    def where():
        """The innermost lines of Python, outside softcuda and CuPy, that called."""
        lines, frame = [], sys._getframe(1)
        while frame and len(lines) < 5:
            name = frame.f_code.co_filename
            own = os.path.dirname(name) == HERE and not os.path.basename(name).startswith("test_")
            if not own and "site-packages" not in name and not name.startswith("<"):
                lines.append(f"    {name}:{frame.f_lineno} {frame.f_code.co_name}")
            frame = frame.f_back
        return "\n".join(lines) or "    ?"

    def forgive(self):
        """The faults so far, which are forgotten: contexts live again, captures are over. Work still to come is not done."""
        with self.lock:
            for device in self.devices:
                device.dead = ""
                for stream in device.streams:
                    stream.last = stream.capture = None
            self.captures.clear()
            self.waiting.clear()
            faults, self.faults[:] = list(self.faults), []
            return faults

    # Devices

    @property
    def current(self):
        """The calling thread's current device."""
        if not self.devices:
            raise CudaError("NoDevice")
        return self.devices[getattr(self.thread, "device", 0)]

    def device(self, number):
        if not 0 <= number < len(self.devices):
            raise CudaError("InvalidDevice")
        return self.devices[number]

    def enter(self, device=None):
        """For a call that needs a context: makes it, if there is none. Raises CudaError where it cannot be had, or is dead."""
        device = self.current if device is None else device
        if device.busy:
            raise CudaError("DevicesUnavailable", "another process has it")
        device.context = device.context or self.where()
        if device.dead:
            raise CudaError(device.dead)
        return device

    # Handles

    def new(self, thing):
        self.next_handle += 16
        self.handles[self.next_handle] = thing
        return self.next_handle

    def get(self, handle, kind):
        thing = self.handles.get(handle)
        if not isinstance(thing, kind):
            raise CudaError("InvalidResourceHandle", f"{handle} is no {kind.__name__}")
        return thing

    def stream(self, handle):
        """A stream by its handle; 0 and 1 are the current device's default one. (2, the thread's own, is not modelled.)"""
        return self.get(handle, Stream) if handle and handle > 1 else self.current.legacy

    # Memory

    def allocate(self, size, device):
        """A block of a device, or of pinned memory (None)."""
        self.refuse("memory is allocated")
        if device is not None:
            self.enter(device)
            if self.memory.bytes_of(device.number) + size > device.memory:
                raise CudaError("MemoryAllocation")
        else:
            self.enter()
        return self.memory.allocate(size, device and device.number)

    def free(self, address, pinned):
        if not address:
            return
        self.enter()
        block = self.memory.blocks.get(address)
        if block is None or (block.device is None) != pinned or block.freed:
            self.fault(f"what is freed is no allocation that lives, at\n{self.where()}")
            raise CudaError("InvalidValue")
        self.refuse("memory is freed")
        if block.copies:
            self.fault(f"pinned memory is freed with {block.copies} copies to come, at\n{self.where()}")
        if block.device is not None:
            self.finish(self.devices[block.device])  # cudaFree waits for it; that cudaFreeHost does is not promised
        self.memory.free(block, self.where())

    # Work

    def give(self, stream, run, what, after=()):
        """Have a stream do `run()`, after what it was given before and after these operations; or record it.

        Returns the Operation, or None if it was recorded.
        """
        where = self.where()
        if stream.capture:
            stream.capture.record(stream, run, what, where)
            return None
        self.may_use(stream)
        device = self.enter(self.devices[stream.device])
        before = [stream.last, *after]
        if stream.legacy:
            before += [other.last for other in device.streams if other.blocking]
        elif stream.blocking:
            before.append(device.legacy.last)
        stream.last = operation = Operation(before, run, what, where, device)
        self.given(stream, operation)
        return operation

    def given(self, stream, operation):
        """Do what the mode would do now."""
        if self.mode == "eager" or self.mode == "skewed" and not stream.legacy:
            self.complete(operation)
        elif self.mode == "random":
            self.waiting.append(operation)
            while self.waiting and self.random.random() < READY:
                self.complete(self.waiting.pop(self.random.randrange(len(self.waiting))))

    def complete(self, operation):
        """Do what an operation waits for, in an order drawn from the seed, and then itself."""
        stack = [operation]
        while stack:
            top = stack[-1]
            waits = [] if top.done else [each for each in top.after if not each.done]
            if waits:
                stack.append(waits[self.random.randrange(len(waits))])
                continue
            stack.pop()
            if not top.done:
                run, top.run, top.done, top.after = top.run, None, True, ()
                if run and not top.device.dead:
                    self._run(run, top)

    def _run(self, run, operation):
        try:
            run()
        except CudaError as error:
            operation.device.dead = error.name
            self.fault(f"{operation.what}: {error}, given at\n{operation.where}")
        except CuemuError as error:
            operation.device.dead = "LaunchFailure"
            self.fault(f"{error}, given at\n{operation.where}")
        except Exception:
            operation.device.dead = "Unknown"
            self.fault(f"{operation.what}: softcuda failed\n{traceback.format_exc()}")

    def finish(self, device):
        """Do all that a device was given."""
        for stream in self.random.sample(device.streams, len(device.streams)):
            if stream.last:
                self.complete(stream.last)

    @contextmanager
    def order(self, mode, seed=0):
        """Work in another mode meanwhile; at both ends everything that was given is done."""
        if mode not in MODES:
            raise ValueError(f"mode is one of {', '.join(MODES)}, not {mode!r}")
        before = self.mode, self.random
        self.settle()
        self.mode, self.random = mode, random.Random(seed)
        try:
            yield
            self.settle()
        finally:
            self.mode, self.random = before

    def settle(self):
        """Do all that any device was given."""
        with self.lock:
            for device in self.devices:
                self.finish(device)
            self.waiting.clear()

    # Capture

    def begin(self, stream, mode):
        if stream.legacy:
            raise CudaError("StreamCaptureUnsupported", "the legacy stream cannot be captured")
        if stream.capture:
            raise CudaError("InvalidValue", "the stream is being captured")
        self.enter()
        stream.capture = Capture(stream, mode)
        self.captures.append(stream.capture)

    def end(self, stream):
        """The captured nodes."""
        capture = stream.capture
        if capture is None:
            raise CudaError("InvalidValue", "the stream is not being captured")
        if capture.origin is not stream:
            raise CudaError("StreamCaptureUnmatched")
        if capture.mode != RELAXED and capture.thread != threading.get_ident():
            raise CudaError("StreamCaptureWrongThread")
        self.captures.remove(capture)
        for each in capture.streams:
            each.capture = None
        if capture.invalid:
            raise CudaError("StreamCaptureInvalidated", capture.invalid)
        if capture.loose():
            raise CudaError("StreamCaptureUnjoined")
        return capture.nodes

    def refuse(self, what):
        """Of what no capture allows: in mode "global" to all threads, in "thread local" to the one that captures."""
        for capture in self.captures:
            if capture.mode == GLOBAL or capture.mode == THREAD_LOCAL and capture.thread == threading.get_ident():
                capture.refuse("StreamCaptureUnsupported", what)

    def may_use(self, stream):
        """The legacy stream would wait for a blocking one that is captured."""
        if stream.legacy:
            for capture in self.captures:
                if any(each.blocking and each.device == stream.device for each in capture.streams):
                    capture.refuse("StreamCaptureImplicit", "the legacy stream is used")

    def may_wait(self, stream):
        if stream.capture:
            stream.capture.refuse("StreamCaptureUnsupported", "somebody waits for it")
        self.may_use(stream)

    def launch(self, nodes, stream):
        """Do a graph's nodes, as one thing in the order of a stream."""
        if stream.capture:
            raise CudaError("NotSupported", "a graph is launched in a capture")
        start, operations = self.give(stream, None, "a graph"), []
        for node in nodes:
            operations.append(Operation([start, *(operations[k] for k in node.after)], node.run, node.what, node.where,
                                        start.device))
        stream.last = end = Operation([start, *operations], None, "a graph's end", start.where, start.device)
        self.given(stream, end)

"""The order of a device's work: operations, streams, events, captures, graphs.

An operation names the operations that it must come after, and nothing else orders it. Those are: the one before it in its
stream; for the legacy default stream, the last of every blocking stream of the device, and the reverse; those of events that
its stream was told to wait for.
"""
import threading

from tests.softcuda.errors import CudaError


class Operation:
    """Something to do: `run()`, or nothing but a place in the order. `where`: the lines of Python that gave it."""
    __slots__ = "after", "run", "done", "what", "where", "device"

    def __init__(self, after, run, what, where, device):
        self.after = [each for each in after if each is not None and not each.done]
        self.run, self.done, self.what, self.where, self.device = run, False, what, where, device


class Stream:
    """A stream of a device; `last`, the last operation that it was given; `capture`, the one that records it."""

    def __init__(self, device, *, blocking=True, legacy=False):
        self.device, self.blocking, self.legacy = device, blocking, legacy
        self.last = self.capture = None

    def __str__(self):
        return f"{'legacy' if self.legacy else 'blocking' if self.blocking else 'non-blocking'} stream of device {self.device}"


class Event:
    """Passes with `operation`, once it was recorded; or, recorded in a capture, after the capture's `nodes`."""

    def __init__(self, device, timed):
        self.device, self.timed = device, timed
        self.operation = self.capture = None
        self.nodes = set()


class Node:
    """One thing that a graph does, after those nodes of its list whose numbers are in `after`."""

    def __init__(self, after, run, what, where):
        self.after, self.run, self.what, self.where = after, run, what, where


class Capture:
    """What streams are given, recorded in `nodes`. `streams`: for each, the nodes that its next one follows."""

    def __init__(self, origin, mode):
        self.origin, self.mode, self.thread = origin, mode, threading.get_ident()
        self.nodes, self.streams, self.invalid = [], {origin: set()}, ""

    def refuse(self, name, why):
        """What may not be done while this goes on: it cannot become a graph any more. Raises CudaError."""
        self.invalid = self.invalid or why
        raise CudaError(name, f"{why} while a stream is captured")

    def record(self, stream, run, what, where):
        if self.invalid:
            raise CudaError("StreamCaptureInvalidated", self.invalid)
        self.nodes.append(Node(set(self.streams[stream]), run, what, where))
        self.streams[stream] = {len(self.nodes) - 1}

    def loose(self):
        """Whether something was recorded that the first stream does not wait for."""
        joined, todo = set(), list(self.streams[self.origin])
        while todo:
            number = todo.pop()
            if number not in joined:
                joined.add(number)
                todo += self.nodes[number].after
        return len(joined) < len(self.nodes)

"""One system call that reads many pieces of a file: fewer returns to the interpreter, whose lock other threads want.

`preadv` reads one piece a call. `pwritev` gathers: it writes many pieces of memory to one place of a file. So the source is
mapped into memory, and the target is a file that exists in memory only. The kernel then copies from page cache to target, and
where the source has been cut short or its disk has gone, it stops and says so; a program that touched such a map itself would
be killed (SIGBUS).
"""
import mmap
import os
import weakref

import numpy as np

PIECES = 1024  # of one call: Linux's limit


class Memory:
    """Room for raw images: `array` uint8 of a shape. One thread's own."""

    def __init__(self, shape):
        self.fd = None
        if not hasattr(os, "memfd_create"):  # not Linux: reading piece by piece does
            self.array = np.empty(shape, np.uint8)
            return
        self.fd = os.memfd_create("raw images")
        weakref.finalize(self, os.close, self.fd)
        os.ftruncate(self.fd, int(np.prod(shape)))
        self.array = np.frombuffer(mmap.mmap(self.fd, 0), np.uint8).reshape(shape)


class Map:
    """The open file `fd`, to be gathered from."""

    def __init__(self, fd):
        try:
            self.bytes = memoryview(mmap.mmap(fd, 0, access=mmap.ACCESS_READ))
        except (OSError, ValueError):  # a file system without maps: reading piece by piece does
            self.bytes = b""

    def gather(self, starts, stops, memory):
        """Bytes starts[k] … stops[k] of the file, one piece after the other, into `memory`. Returns whether all came."""
        if memory.fd is None or not self.bytes:
            return False
        pieces, place = [self.bytes[start:stop] for start, stop in zip(starts, stops, strict=True)], 0
        try:
            for first in range(0, len(pieces), PIECES):
                place += os.pwritev(memory.fd, pieces[first:first + PIECES], place)
        except OSError:  # a page that could not be read
            return False
        return place == sum(map(len, pieces))

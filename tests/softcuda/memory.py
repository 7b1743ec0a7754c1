"""Allocations: of devices, and of pinned host memory. Whoever reads what nobody wrote finds 0xFF (NaN, −1), and 0xDD in memory
that was given back, which is kept for a while so that its use is noticed."""
import bisect
from collections import deque

import numpy as np

from tests.cuemu import arrays
from tests.softcuda.errors import CudaError

UNWRITTEN, FREED = 0xFF, 0xDD
QUARANTINE = 64 << 20  # bytes of freed memory that are kept


class Block:
    """An allocation of `size` bytes: a device's, or of pinned host memory where `device` is None."""

    def __init__(self, size, device):
        alignment = 512 if device is not None else 4096
        whole = np.empty(size + alignment, np.uint8)
        start = -whole.ctypes.data % alignment
        self.bytes = whole[start:start + size]
        self.bytes[:] = UNWRITTEN
        self.address, self.size, self.device = self.bytes.ctypes.data, size, device
        self.written = np.zeros(size, np.uint8) if device is not None else None  # 1 for each byte that has been
        self.copies = 0  # to come, out of pinned memory or into it
        self.freed = None  # the lines of Python that freed it

    def note_written(self, address, size, written=1):
        """The bytes from an address on have been written; or those of them where `written` is 1."""
        if self.written is not None:
            self.written[address - self.address:][:size] = written


class Memory:
    """All blocks, by address. `fault(text)` is told what no device would survive."""

    def __init__(self, fault):
        self.fault, self.blocks, self.addresses = fault, {}, []
        self.quarantine, self.kept = deque(), 0

    def allocate(self, size, device):
        block = Block(size, device)
        self.blocks[block.address] = block
        bisect.insort(self.addresses, block.address)
        if block.written is not None:
            arrays.track(block.address, block.written)
        return block

    def find(self, address):
        """The block that an address lies in, living or freed; None for other memory of the process."""
        at = bisect.bisect_right(self.addresses, address) - 1
        block = self.blocks[self.addresses[at]] if at >= 0 else None
        return block if block is not None and address < block.address + max(block.size, 1) else None

    def living(self, address, size, what, where):
        """The block that holds `size` bytes from an address on, or None for pageable memory."""
        block = self.find(address)
        if block is None:
            return None
        if block.freed:
            self.fault(f"{what}: memory that was freed at\n{block.freed}\n  is used at\n{where}")
            raise CudaError("InvalidValue")
        over = address + size - block.address - block.size
        if over > 0:
            self.fault(f"{what}: {size} bytes overrun an allocation of {block.size} bytes by {over}, at\n{where}")
            raise CudaError("InvalidValue")
        return block

    def free(self, block, where):
        if block.written is not None:
            arrays.forget(block.address)
        block.bytes[:] = FREED
        block.freed = where
        self.quarantine.append(block)
        self.kept += block.size
        while self.kept > QUARANTINE:
            old = self.quarantine.popleft()
            self.kept -= old.size
            del self.blocks[old.address], self.addresses[bisect.bisect_left(self.addresses, old.address)]

    def bytes_of(self, device):
        """Bytes allocated on a device, or of pinned memory (None)."""
        return sum(block.size for block in self.blocks.values() if block.device == device and not block.freed)

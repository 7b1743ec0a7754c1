"""Between the loader and the net: a data set's batches on the net's devices.

On a CPU the loader's batches are passed on. A GPU is sent bytes.
For batch k, what the CPU gives the device is

    uploads:    [pinned slot → bytes k mod 2] → event "arrived"
    computing:  wait for "arrived" → [ops/crops: bytes → floats] → event "used" → [the step]

and the upload of batch k + 2, into the same bytes, waits for "used": so batch k + 1 is copied while step k
computes, and the CPU waits for none of it.
The slot is filled anew by a thread of the loader, and that thread waits for "arrived".
"""
import functools
from collections import namedtuple
from math import prod

import numpy as np

from cpnet.gpu import memory, platform
from cpnet.machine import cores
from cpnet.ops import crops
from data.loading.loader import Batch, Loader
from data.loading.packed import unpack

SLOW = 0.1  # share of an epoch spent waiting for images from which on a person is told

Sent = namedtuple("Sent", "indices labels shape turn arrived")
Sent.__doc__ = """A batch on its way: indices; how many labels; shape of its views; its buffer, 0 or 1;
each lane's event."""


class Feed:
    """The batches of one epoch of a split for `network`:
    a context manager and an iterator over data.loading.loader.Batch.

    options: the Loader's. Batch.images is what Network.forward takes: floats (C, crop, crop, N), on GPUs a
    list with each device's own; Batch.labels are NumPy's or the first device's. A batch is valid until the
    next one is asked for. On a GPU it lies at the same place each time, for every Feed of the network,
    so only one Feed may be in use at a time.
    """

    def __init__(self, network, dataset, split, **options):
        self.network, self.mean, self.on_gpu = network, dataset.mean, platform.on_gpu(network.values[0])
        if self.on_gpu:
            def allocate(shape, dtype):
                return memory.pinned(network.values[0], *shape)

            options |= {"raw": True, "allocate": allocate}
        self.loader = Loader(dataset, split, crop=network.table.image[1], dtype=network.dtype, **options)
        self.threads = options.get("threads", 1)
        self.lanes = {}  # device: its lane
        self.ahead, self.turn = None, 0

    def __len__(self):
        """Batches from the Feed's first to the end of the epoch."""
        return len(self.loader)

    def __iter__(self):
        return self

    def __next__(self):
        if not self.on_gpu:
            return next(self.loader)
        sent, self.ahead = self.ahead or self._send(next(self.loader)), None
        images = {device: lane.center(sent) for device, lane in self.lanes.items()}
        if self.loader.ready():  # it can be on its way before the device is given this batch's step
            self.ahead = self._send(next(self.loader))
        labels = self.lanes[self.network.devices[0]].labels[:sent.labels]
        return Batch([images[device] for device in self.network.devices], labels, sent.indices)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def close(self):
        """End the loader's threads. The pinned slots may be freed afterwards,
        so this waits for the last copy out of them."""
        self.loader.close()
        for lane in self.lanes.values():
            if lane.arrived:
                lane.wait(lane.arrived)

    def remark(self, seconds):
        """What to change, if in so many seconds it was the loader that set the pace; else ""."""
        share = self.loader.health().seconds / seconds
        if share < SLOW:
            return ""
        more = min(2 * self.threads, cores())
        change = (f"try --loader-threads {more}" if more > self.threads else
                  "all cores are at work for the loader: a faster disk, or images stored raw, would help")
        return f"{share:.0%} of the time the net waited for images: {change}"

    def _send(self, batch):
        """Begin the copies of a RawBatch; the slot it lies in is kept until they are over."""
        if not self.lanes:  # the first batch is the largest
            # A device that holds two columns has two copies of the first layer, but needs the images once.
            self.lanes = {first.device: Lane(first, self.mean, batch)
                          for first in self.network.rows[0].copies}
        events = {device: lane.send(batch, self.turn) for device, lane in self.lanes.items()}
        self.loader.keep(functools.partial(_wait, self.lanes, events))
        sent = Sent(batch.indices, len(batch.labels), batch.packed.images.shape, self.turn, events)
        self.turn = 1 - self.turn
        return sent


def _wait(lanes, events):
    """Returns when all these events, by device, have passed. No method of Feed: the ring of slots holds on to
    it, and must not hold on to the Feed, so that slots are given back when the Feed is dropped."""
    for device, event in events.items():
        lanes[device].wait(event)


class Lane:
    """One device's side: bytes of two batches, floats and labels of one,
    in the memory of its copy of the first layer."""

    def __init__(self, first, mean, batch):
        views, channels, crop, _ = batch.packed.images.shape
        self.device, self.dtype = first.device, batch.packed.shift.dtype
        self.floats = first.buffer("images", (channels, crop, crop, views), self.dtype).reshape(-1)
        self.labels = first.buffer("labels", batch.labels.shape, np.int32)
        self.bytes = [first.buffer(f"bytes {turn}", batch.memory.shape, np.uint8) for turn in (0, 1)]
        self.mean = first.device.put(mean.astype(self.dtype))
        # The memory may have been somebody else's, whose work is not over.
        self.used = [memory.mark(self.mean)] * 2
        self.arrived = None  # the last copy's event

    def send(self, batch, turn):
        """Begin to copy a RawBatch to buffer `turn`. Returns the event of its arrival."""
        self.arrived = memory.upload(self.bytes[turn][:len(batch.memory)], batch.memory, self.used[turn])
        return self.arrived

    def center(self, sent):
        """The floats (C, crop, crop, V) of a batch, on its arrival; its labels go to `labels`."""
        memory.follow(self.mean, sent.arrived[self.device])
        packed = unpack(self.bytes[sent.turn], sent.labels, sent.shape, self.dtype)
        views, channels, crop, _ = sent.shape
        x = self.floats[:prod(sent.shape)].reshape(channels, crop, crop, views)
        crops.center_crops(packed.images, self.mean, packed.top, packed.left, packed.mirror,
                           packed.shift, out=x)
        memory.copy([(self.labels[:sent.labels], packed.labels)])
        self.used[sent.turn] = memory.mark(self.mean)
        return x

    def wait(self, event):
        """Returns when an event of this device has passed."""
        memory.wait(self.mean, event)

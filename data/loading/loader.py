"""From a data set to batches: threads read and augment ahead of the net, one epoch per Loader."""

import threading
import weakref
from collections import namedtuple
from math import prod

import numpy as np

from data.errors import DataError
from data.loading.augment import View, centre_view, random_views, ten_views
from data.loading.order import SHUFFLES, Batches, epoch_order
from data.loading.packed import packed_bytes, unpack
from data.loading.ring import Ring
from data.store.crops import centre

MODES = ("train", "centre", "ten")

Batch = namedtuple("Batch", "images labels indices")
Batch.__doc__ = """images float (C, crop, crop, N), or 10·N of them; labels int32 (N,);
indices int64 (N,) in the split."""

RawBatch = namedtuple("RawBatch", "packed labels indices memory")
RawBatch.__doc__ = """packed: what data.loading.packed.Packed names, of N images, or of 10·N views;
labels int32 (N,); indices int64 (N,) in the split; memory:
the bytes, flat uint8, that all of `packed` lies in."""


class Loader:
    """The batches of one epoch of a split: a context manager and an iterator over Batch, or RawBatch.

    dataset, split  an open Dataset, which must outlive the loader, and the name of the split
    batch, crop     images a batch, and the side of the crops in pixels
    mode            "train"   shuffled; random crop, mirror and colour shift, from (seed, epoch, image index)
                    "centre"  in file order; the central crop
                    "ten"     in file order; the ten views of section 4.1, view v of image i at v·N + i:
                              corners top left, top right, bottom left, bottom right, centre, then mirrors
    start           the batch to begin with, to resume in mid-epoch
    drop_last       leave out the last batch if it is incomplete
    shuffle         mode "train": "full", or "blocks" for disks that cannot seek fast (data/loading/order.py)
    rank, ranks     this loader's part of every batch of ranks·batch images: the ranks' batches together are
                    those of one loader with that batch size. All ranks have equally many; an incomplete last
                    one may be empty
    mirror, colour, crops
                    mode "train": may mirror; may shift colours (of colour sets); may crop elsewhere than in
                    the centre
    threads, ring   worker threads; batches in memory, the consumer's own included (2 or more overlap with it)
    dtype           float32 or float64
    raw             RawBatch instead, for a GPU that does the rest (cpnet/ops/crops): a quarter of the bytes
                    and the work
    flip            with raw: mirror the pixels here, rather than say which are to be mirrored
    allocate        allocate(shape, dtype) makes the ring's buffers: np.empty, or one of pinned memory

    A batch is valid until the next one is asked for, or longer (`keep`); then its buffer is filled anew.
    Copy what you keep. The mean image's crop is subtracted at the image's own offset, before mirroring.
    An error in a thread is raised here, by the `next()` of the batch that it spoiled, as DataError.
    Raises DataError for a split or crop that the data set does not have,
    ValueError for arguments out of range.
    """

    def __init__(self, dataset, split, *, batch, crop, mode="train", seed=0, epoch=0, start=0,
                 drop_last=False, shuffle="full",
                 rank=0, ranks=1, mirror=True, colour=True, crops=True, threads=1, ring=4,
                 dtype=np.float32, raw=False, flip=False, allocate=np.empty):
        images = dataset.split(split)
        _check(dataset, images, batch, crop, mode, drop_last, shuffle, rank, ranks, threads, ring, dtype)
        shape = images.image_shape
        if mode == "train":
            order = epoch_order(len(images), seed, epoch, shuffle)
            pca = dataset.pca if colour else None
            views = random_views(len(images), shape, crop, seed, epoch, mirror=mirror, pca=pca, crops=crops)
        else:
            order = np.arange(len(images))
            views = centre_view(shape, crop) if mode == "centre" else ten_views(shape, crop)
        batches = Batches(order, batch, rank, ranks,
                          windows=mode == "train" and shuffle == "blocks", start=start)
        last = batches.count(drop_last)
        if not 0 <= start <= last:
            raise ValueError(f"start must be a batch in 0..{last}, not {start}")
        self._length = last - start
        work = (_RawWork if raw else _Work)(dataset.path, images, batches, views, drawn=mode == "train",
                                            mean=dataset.mean.astype(dtype), crop=crop, flip=raw and flip)
        work.slots = [work.slot(allocate) for _ in range(min(ring, self._length))]
        self._ring = Ring(work, start, last, len(work.slots), threads)
        # a loader that is dropped ends its threads too
        self._finalizer = weakref.finalize(self, self._ring.close)

    def __len__(self):
        """Batches from `start` to the end of the epoch."""
        return self._length

    def __iter__(self):
        return self

    def __next__(self):
        return self._ring.next()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def ready(self):
        """Whether the next batch is there already."""
        return self._ring.ready()

    def keep(self, wait):
        """The batch handed out last stays valid until `wait()`, which a thread will call, has returned."""
        self._ring.keep(wait)

    def health(self):
        """How the threads keep up so far: data.loading.ring.Health, in batches."""
        return self._ring.health()

    def close(self):
        """End the threads and wait for them; at any time, more than once."""
        self._finalizer()  # which then lets go of the ring and its slots


class _Work:
    """Makes batch `number` in `slot`; called by the threads.
    Knows nothing of the Loader, so that it can be dropped."""

    def __init__(self, path, split, batches, views, *, drawn, mean, crop, flip):
        self.path, self.split, self.batches = path, split, batches
        self.mean, self.drawn, self.flip = mean, drawn, flip
        shift = None if views.shift is None else views.shift.astype(mean.dtype)
        # fixed ones, in which every image is seen
        self.labels, self.views = split.labels, views._replace(shift=shift)
        if drawn:  # or one of each image: in the order of the epoch, so that a batch's lie together
            self.labels = self.labels[batches.order]
            self.views = View(*(None if each is None else each[batches.order] for each in self.views))
        self.seen = 1 if drawn else len(views.top)
        self.shape = split.image_shape[0], crop, crop
        self.plain = np.zeros(batches.batch * self.seen, bool)  # no crop is mirrored
        self.local = threading.local()

    def __call__(self, number, slot):
        try:
            if self.batches.ahead or not self.split.pixels.cached:
                for indices in self.batches.fetch(number):
                    self.split.hint(indices)
            return self.make(self.batches.places(number), slot)
        except DataError:
            raise
        except BaseException as error:  # whoever waits for this batch reads one line, too
            raise DataError(f"{self.path}: batch {number} of '{self.split.name}' could not be made: "
                            f"{type(error).__name__}: {error}") from error

    def packed_bytes(self, images):
        return packed_bytes(images, (images * self.seen, *self.shape), self.mean.dtype)

    def room(self, memory, n):
        """A Packed of n images at the beginning of `memory`."""
        return unpack(memory, n, (n * self.seen, *self.shape), self.mean.dtype)

    def pack(self, places, packed):
        """The crops of the images at these places of the epoch, uint8, into `packed`, and what is to be done
        to them."""
        indices, n = self.batches.order[places], places.stop - places.start
        packed.labels[...] = self.labels[places]
        for name, values in self.views._asdict().items():
            place = getattr(packed, name)
            if values is None:
                place[...] = 0
            elif self.drawn:
                place[...] = values[places]
            else:
                place.reshape(self.seen, n)[...] = values[:, None]
        mirror = packed.mirror if self.flip else self.plain[:len(packed.mirror)]
        self.split.pixels.crop(indices, packed.top, packed.left, mirror, packed.images)
        if self.flip:
            packed.mirror[...] = False

    def slot(self, allocate):
        channels, crop, _ = self.shape
        return allocate((channels * crop * crop * self.batches.batch * self.seen,), self.mean.dtype)

    def make(self, places, slot):
        if not hasattr(self.local, "memory"):
            self.local.memory = np.empty(self.packed_bytes(self.batches.batch), np.uint8)
        packed = self.room(self.local.memory, places.stop - places.start)
        self.pack(places, packed)
        shape = *self.shape, len(packed.images)
        # The beginning of the slot, so that an incomplete batch is contiguous too.
        images = self.slots[slot][:prod(shape)].reshape(shape)
        centre(packed.images, self.mean, packed.top, packed.left, packed.mirror, packed.shift, images)
        return Batch(images, packed.labels.copy(), self.batches.order[places])


class _RawWork(_Work):
    """The same for RawBatch."""

    def slot(self, allocate):
        memory = allocate((self.packed_bytes(self.batches.batch),), np.dtype(np.uint8))
        return memory, self.room(memory, self.batches.batch)

    def make(self, places, slot):
        (memory, packed), n = self.slots[slot], places.stop - places.start
        if n < self.batches.batch:
            memory = memory[:self.packed_bytes(n)]
            packed = self.room(memory, n)
        self.pack(places, packed)
        return RawBatch(packed, packed.labels, self.batches.order[places], memory)


def _check(dataset, images, batch, crop, mode, drop_last, shuffle, rank, ranks, threads, ring, dtype):
    for name, value, known in (("mode", mode, MODES), ("shuffle", shuffle, SHUFFLES)):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, not {value!r}")
    if batch < 1 or threads < 1 or ring < 1:
        raise ValueError(f"batch, threads and ring must be at least 1, not {batch}, {threads} and {ring}")
    if not 0 <= rank < ranks:
        raise ValueError(f"rank must be in 0..{ranks - 1}, not {rank}")
    if np.dtype(dtype).kind != "f":
        raise ValueError(f"dtype must be a floating-point type, not {np.dtype(dtype)}")
    if not 1 <= crop <= min(dataset.height, dataset.width):
        raise DataError(f"{dataset.path}: cannot cut {crop}×{crop} out of images of "
                        f"{dataset.height}×{dataset.width}")
    if drop_last and len(images) < batch * ranks:
        raise DataError(f"{dataset.path}: '{images.name}' has {len(images)} images, not one full batch of "
                        f"{batch * ranks}; choose a smaller batch")

"""From a data set to batches: threads read and augment ahead of the net, one epoch per Loader."""

import threading
import weakref
from collections import namedtuple

import numpy as np

from data.augment import Cropper, centre_view, epoch_order, random_views, take, ten_views
from data.dataset import DataError
from data.ring import Ring

MODES = ("train", "centre", "ten")

Batch = namedtuple("Batch", "images labels indices")
Batch.__doc__ = "images float (C, crop, crop, N), or 10·N of them; labels int32 (N,); indices int64 (N,) in the split."


class Loader:
    """The batches of one epoch of a split: a context manager and an iterator over Batch.

    dataset, split  an open Dataset, which must outlive the loader, and the name of the split
    batch, crop     images a batch, and the side of the crops in pixels
    mode            "train"   shuffled; random crop, mirror and colour shift, all from (seed, epoch, image index)
                    "centre"  in file order; the central crop
                    "ten"     in file order; the ten views of section 4.1, view v of image i in column v·N + i:
                              corners top left, top right, bottom left, bottom right, centre, then their mirrors
    start           the batch to begin with, to resume in mid-epoch
    drop_last       leave out the last batch if it is incomplete
    mirror, colour  mode "train": may mirror; may shift colours (of colour sets)
    threads, ring   worker threads; batches in memory, the consumer's own included (2 or more overlap with it)
    dtype           float32 or float64
    allocate        allocate(shape, dtype) makes the ring's image buffers: np.empty, or an allocator of pinned memory

    A batch is valid until the next one is asked for; then its buffer is filled anew. Copy what you keep.
    The mean image's crop is subtracted at the image's own offset, before mirroring.
    An error in a thread is raised here, by the `next()` of the batch that it spoiled.
    Raises DataError for a split or crop that the data set does not have, ValueError for arguments out of range.
    """

    def __init__(self, dataset, split, *, batch, crop, mode="train", seed=0, epoch=0, start=0, drop_last=False,
                 mirror=True, colour=True, threads=1, ring=4, dtype=np.float32, allocate=np.empty):
        part = dataset.split(split)
        _check(dataset, part, batch, crop, mode, drop_last, threads, ring, dtype)
        last = len(part) // batch if drop_last else -(-len(part) // batch)
        if not 0 <= start <= last:
            raise ValueError(f"start must be a batch in 0..{last}, not {start}")
        self._length = last - start
        shape = part.image_shape
        columns = batch * (10 if mode == "ten" else 1)
        slots = [allocate((shape[0] * crop * crop * columns,), np.dtype(dtype)) for _ in range(min(ring, self._length))]
        if mode == "train":
            order = epoch_order(len(part), seed, epoch)
            views = random_views(len(part), shape, crop, seed, epoch, mirror=mirror, pca=dataset.pca if colour else None)
        else:
            order = np.arange(len(part))
            views = [centre_view(shape, crop)] if mode == "centre" else ten_views(shape, crop)
        order.flags.writeable = False  # batches hand out parts of it
        work = _Work(part, order, views, Cropper(dataset.mean, crop, dtype), batch, slots)
        self._ring = Ring(work, start, last, len(slots), threads)
        self._finalizer = weakref.finalize(self, self._ring.close)  # a loader that is dropped ends its threads too

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

    def close(self):
        """End the threads and wait for them; at any time, more than once."""
        self._ring.close()


class _Work:
    """Makes batch `number` in `slot`; called by the threads. Knows nothing of the Loader, so that it can be dropped."""

    def __init__(self, split, order, views, cropper, batch, slots):
        self.split, self.order, self.views, self.cropper = split, order, views, cropper
        self.batch, self.slots, self.local = batch, slots, threading.local()

    def __call__(self, number, slot):
        indices = self.order[number * self.batch:(number + 1) * self.batch]
        raw = self._raw_buffer()[:len(indices)]
        self.split.read(indices, raw)
        return Batch(self._crops(raw, indices, slot), self.split.labels[indices], indices)

    def _raw_buffer(self):
        if not hasattr(self.local, "raw"):
            self.local.raw = np.empty((self.batch, *self.split.image_shape), np.uint8)
        return self.local.raw

    def _crops(self, raw, indices, slot):
        n, crop = len(indices), self.cropper.crop
        if isinstance(self.views, list):  # fixed views, side by side
            views = [take(view, n) for view in self.views]
        else:  # a table, one row per image of the split
            views = [take(self.views, indices)]
        shape = (raw.shape[1], crop, crop, n * len(views))
        # The beginning of the slot, so that an incomplete batch is contiguous too.
        images = self.slots[slot][:np.prod(shape)].reshape(shape)
        for v, view in enumerate(views):
            self.cropper(raw, view, images[..., v * n:(v + 1) * n])
        return images


def _check(dataset, part, batch, crop, mode, drop_last, threads, ring, dtype):
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, not {mode!r}")
    if batch < 1 or threads < 1 or ring < 1:
        raise ValueError(f"batch, threads and ring must be at least 1, not {batch}, {threads} and {ring}")
    if np.dtype(dtype).kind != "f":
        raise ValueError(f"dtype must be a floating-point type, not {np.dtype(dtype)}")
    if not 1 <= crop <= min(dataset.height, dataset.width):
        raise DataError(f"{dataset.path}: cannot cut {crop}×{crop} out of images of {dataset.height}×{dataset.width}")
    if drop_last and len(part) < batch:
        raise DataError(f"{dataset.path}: '{part.name}' has {len(part)} images, not one full batch of {batch}; "
                        "choose a smaller batch")

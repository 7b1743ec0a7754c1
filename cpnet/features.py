"""The last hidden layer's activations for every image of a data set (section 6.1): what the net finds alike lies close.

A features file is HDF5: attributes format, version, checkpoint, data, layer; for each split SPLIT/features float32 (N, D), one
row an image in the data set's order, and SPLIT/labels int32 (N).
"""
import json
import os

import h5py
import numpy as np
from tqdm import tqdm

from cpnet.checkpoint import write_atomically
from cpnet.errors import CpnetError
from cpnet.feed import Feed
from cpnet.launch import to_host
from cpnet.layers import Dropout, Linear, Pass
from data.part import write_all

FORMAT, VERSION = "cpnet-features", 1
SAVE_EVERY = 64  # batches


def last_hidden(table):
    """The layer whose output is the last hidden layer's: the nonlinearity before the last fully-connected one. (Dropout's
    ×0.5 at test time, which comes after, would scale all distances alike.)"""
    index = max(i for i, layer in enumerate(table.layers) if isinstance(layer, Linear))
    while isinstance(table.layers[index - 1], Dropout):
        index -= 1
    return table.layers[index - 1]


def hidden(network, images):
    """images (C, H, W, N) → the last hidden layer's activations, NumPy's (N, D); D = C·H·W where that layer has maps."""
    layer, kept = last_hidden(network.table), []

    def watch(this, outputs):
        if this is layer:  # a copy: the layers above write over it
            kept.extend(np.array(to_host(output)).reshape(-1, output.shape[-1]) for output in outputs)

    network.forward(images, Pass(), watch)
    return np.concatenate(kept).T


def extract(network, dataset, out, splits, *, made_from, batch=128, threads=1, progress=False):
    """Write the features of `splits` to `out`. Interrupted, the same call goes on where it stopped. `made_from`: a text that
    says which checkpoint this is. Raises CpnetError where `out` cannot be written."""
    part, journal = f"{out}.partial", f"{out}.progress"
    width = int(np.prod(next(shape for layer, _, shape in network.table.shapes() if layer is last_hidden(network.table))))
    sizes = {split: len(dataset.split(split)) for split in splits}
    task = {"checkpoint": made_from, "data": str(dataset.path), "sizes": sizes, "width": width}
    try:
        done = _resume(journal, part, task)
        if done is None:
            _make(part, task, dataset, network)
            done = dict.fromkeys(splits, 0)
        with h5py.File(part) as file:
            places = {split: file[f"{split}/features"].id.get_offset() for split in splits}
        fd = os.open(part, os.O_WRONLY)
        try:
            for split in splits:
                def save(count, split=split):
                    os.fsync(fd)
                    done[split] = count
                    write_atomically(journal, json.dumps({"task": task, "done": done}))

                _extract_split(network, dataset, split, done[split], batch, threads, progress, fd, places[split], save)
        finally:
            os.close(fd)
        os.replace(part, out)
        os.remove(journal)
    except OSError as error:
        raise CpnetError(f"{out}: could not be written ({error.strerror or error})") from error


def _extract_split(network, dataset, split, done, batch, threads, progress, fd, place, save):
    with Feed(network, dataset, split, batch=batch, mode="centre", start=done // batch, threads=threads) as feed:
        count = done // batch * batch
        for number, loaded in enumerate(tqdm(feed, desc=split, unit="batch", leave=False, disable=not progress), 1):
            rows = np.ascontiguousarray(hidden(network, loaded.images), np.float32)
            write_all(fd, memoryview(rows.reshape(-1).view(np.uint8)), place + count * rows[0].nbytes)
            count += len(rows)
            if number % SAVE_EVERY == 0:
                save(count)
        save(count)


def _resume(journal, part, task):
    """How many images of each split are done, or None where nothing of this task is."""
    if not (os.path.exists(journal) and os.path.exists(part)):
        return None
    with open(journal) as file:
        before = json.load(file)
    return before["done"] if before["task"] == task else None


def _make(part, task, dataset, network):
    """The file with room for all features, which are then written past the HDF5 library, as they come."""
    with h5py.File(part, "w") as file:
        file.attrs.update(format=FORMAT, version=VERSION, checkpoint=task["checkpoint"], data=task["data"],
                          layer=last_hidden(network.table).name)
        for split, count in task["sizes"].items():
            plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
            plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
            group = file.create_group(split)
            space = h5py.h5s.create_simple((count, task["width"]))
            h5py.h5d.create(group.id, b"features", h5py.h5t.IEEE_F32LE, space, plist)
            group["labels"] = dataset.split(split).labels


class Features:
    """A features file: `features(split)` and `labels(split)` as h5py datasets. Raises CpnetError if it is not one."""

    def __init__(self, path):
        self.path = path
        try:
            self.file = h5py.File(path)
        except OSError as error:
            raise CpnetError(f"{path}: cannot be read as a features file ({error})") from error
        if self.file.attrs.get("format") != FORMAT or self.file.attrs.get("version") != VERSION:
            raise CpnetError(f"{path}: is not a features file of this program; make one with python run.py features")

    def split(self, name):
        """(features (N, D), labels (N)) of a split."""
        if name not in self.file:
            raise CpnetError(f"{self.path}: has no split {name!r}, only {', '.join(self.file)}")
        return self.file[name]["features"], self.file[name]["labels"][()]

"""The last hidden layer's activations for every image of a data set (section 6.1): what the net finds alike
lies close. And how they are read again, or the raw pixels that they are compared with,
without ever having all of them in memory.

A features file is HDF5: attributes format, version, checkpoint, data, layer; for each split SPLIT/features
float32 (N, D), one row an image in the data set's order, and SPLIT/labels int32 (N).
"""
import json
import os
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
from tqdm import tqdm

from cpnet.errors import CpnetError
from cpnet.files import write_atomically
from cpnet.gpu.feed import Feed
from cpnet.gpu.memory import to_host
from cpnet.layers import Dropout, Linear, Pass
from data.store.dataset import Dataset
from data.store.part import write_all
from data.store.pixels import FilePixels

FORMAT, VERSION = "cpnet-features", 1
SAVE_EVERY = 64  # batches


def last_hidden(table):
    """The layer whose output is the last hidden layer's: the nonlinearity before the last fully-connected
    one. (Dropout's ×0.5 at test time, which comes after, would scale all distances alike.)"""
    index = max(i for i, layer in enumerate(table.layers) if isinstance(layer, Linear))
    while isinstance(table.layers[index - 1], Dropout):
        index -= 1
    return table.layers[index - 1]


def hidden(network, images):
    """images (C, H, W, N) → the last hidden layer's activations, NumPy's (N, D);
    D = C·H·W where that layer has maps."""
    layer, kept = last_hidden(network.table), []

    def watch(this, outputs):
        if this is layer:  # a copy: the layers above write over it
            kept.extend(np.array(to_host(output)).reshape(-1, output.shape[-1]) for output in outputs)

    network.forward(images, Pass(), watch)
    return np.concatenate(kept).T


def extract(network, dataset, out, splits, *, made_from, batch=128, threads=1, progress=False):
    """Write the features of `splits` to `out`. Interrupted, the same call goes on where it stopped.
    `made_from`: a text that says which checkpoint this is.
    Raises CpnetError where `out` cannot be written."""
    partial, journal = f"{out}.partial", f"{out}.progress"
    width = int(np.prod(next(shape for layer, _, shape in network.table.shapes()
                             if layer is last_hidden(network.table))))
    sizes = {split: len(dataset.split(split)) for split in splits}
    task = {"checkpoint": made_from, "data": str(dataset.path), "sizes": sizes, "width": width}
    try:
        done = _resume(journal, partial, task)
        if done is None:
            _make(partial, task, dataset, network)
            done = dict.fromkeys(splits, 0)
        with h5py.File(partial) as file:
            places = {split: file[f"{split}/features"].id.get_offset() for split in splits}
        fd = os.open(partial, os.O_WRONLY)
        try:
            for split in splits:
                def save(count, split=split):
                    os.fsync(fd)
                    done[split] = count
                    write_atomically(journal, json.dumps({"task": task, "done": done}))

                _extract_split(network, dataset, split, done[split], batch, threads, progress, fd,
                               places[split], save)
        finally:
            os.close(fd)
        os.replace(partial, out)
        os.remove(journal)
    except OSError as error:
        raise CpnetError(f"{out}: could not be written ({error.strerror or error})") from error


def _extract_split(network, dataset, split, done, batch, threads, progress, fd, place, save):
    with Feed(network, dataset, split, batch=batch, mode="centre", start=done // batch,
              threads=threads) as feed:
        count = done // batch * batch
        for number, loaded in enumerate(tqdm(feed, desc=split, unit="batch", leave=False,
                                             disable=not progress), 1):
            rows = np.ascontiguousarray(hidden(network, loaded.images), np.float32)
            write_all(fd, memoryview(rows.reshape(-1).view(np.uint8)), place + count * rows[0].nbytes)
            count += len(rows)
            if number % SAVE_EVERY == 0:
                save(count)
        save(count)


def _resume(journal, partial, task):
    """How many images of each split are done, or None where nothing of this task is."""
    if not (os.path.exists(journal) and os.path.exists(partial)):
        return None
    with open(journal) as file:
        before = json.load(file)
    return before["done"] if before["task"] == task else None


def _make(partial, task, dataset, network):
    """The file with room for all features, which are then written past the HDF5 library, as they come."""
    with h5py.File(partial, "w") as file:
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


class Rows:
    """The vectors (N, D) of a split, read from the disk as they are asked for, by a slice or by indices (n,)
    in any order: rows[2:9], rows[[5, 3]] → (n, D). read(indices, out): fills out (n, D).
    From any number of threads."""

    def __init__(self, shape, dtype, read):
        self.shape, self.dtype, self.read = shape, np.dtype(dtype), read

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, which):
        indices = np.arange(len(self))[which]
        out = np.empty((len(indices), self.shape[1]), self.dtype)
        if len(indices):
            self.read(indices, out)
        return out


class Features:
    """A features file, open until `close()`. `kind` says what its vectors are.
    Raises CpnetError if it is not one."""
    kind = "features"

    def __init__(self, path):
        self.path = path
        try:
            self.file = h5py.File(path)
        except OSError as error:
            raise CpnetError(f"{path}: cannot be read as a features file ({error})") from error
        if self.file.attrs.get("format") != FORMAT or self.file.attrs.get("version") != VERSION:
            raise CpnetError(f"{path}: is not a features file of this program; make one with python run.py "
                             "features")
        self.splits, self.fd = list(self.file), os.open(path, os.O_RDONLY)

    def split(self, name):
        """(Rows of features float32 (N, D), labels (N)) of a split."""
        if name not in self.splits:
            raise CpnetError(f"{self.path}: has no split {name!r}, only {', '.join(self.splits)}")
        features, labels = self.file.get(f"{name}/features"), self.file.get(f"{name}/labels")
        if features is None or labels is None or features.dtype != "<f4" or features.id.get_offset() is None \
                or features.ndim != 2 or labels.shape != features.shape[:1]:
            raise CpnetError(f"{self.path}: {name!r} is not one block of float32 vectors with their labels; "
                             "make it again")
        size = 4 * features.shape[1]
        places = features.id.get_offset() + np.arange(len(features) + 1) * size
        stored = FilePixels(self.fd, str(self.path), name, (size,), places)
        return Rows(features.shape, np.float32,
                    lambda indices, out: stored.read(indices, out.view(np.uint8))), labels[()]

    def close(self):
        self.file.close()
        os.close(self.fd)


class Pixels:
    """A data set's raw pixels as vectors: the same methods as Features."""
    kind = "pixels"

    def __init__(self, dataset):
        self.dataset, self.path, self.splits = dataset, dataset.path, list(dataset.splits)

    def split(self, name):
        """(Rows of pixels uint8 (N, C·H·W), labels (N)) of a split."""
        split = self.dataset.split(name)
        shape = len(split), int(np.prod(split.image_shape))

        def read(indices, out):
            split.read(indices, out.reshape(-1, *split.image_shape))

        return Rows(shape, np.uint8, read), split.labels

    def close(self):
        self.dataset.close()


def open_vectors(path):
    """The Features of a features file, or else the Pixels of a data set.
    Raises CpnetError or DataError for what is neither."""
    try:
        with h5py.File(path) as file:
            is_features = file.attrs.get("format") == FORMAT
    except OSError:
        is_features = False  # the data set's error says what is wrong
    return Features(path) if is_features else Pixels(Dataset(path))


def ahead(read, tasks):
    """Yields read(task) for each of `tasks`; the next one is read by a thread while the
    caller uses this one."""
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as pool:
        coming = None
        for task in tasks:
            present, coming = coming, pool.submit(read, task)
            if present:
                yield present.result()
        if coming:
            yield coming.result()

"""The last hidden layer's activations for every image of a data set (section 6.1): what the net finds alike
lies close. And how they are read again, or the raw pixels that they are compared with,
without ever having all of them in memory.

A features file is HDF5: attributes format, version, token (drawn for this file), checkpoint, data,
fingerprint (of the data set, as JSON), layer; for each split SPLIT/features
float32 (N, D), one row an image in the data set's order, and SPLIT/labels int32 (N).
"""
import hashlib
import json
import os
import secrets
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
from tqdm import tqdm

from cpnet import kinds
from cpnet.checkpoint import TRAINED
from cpnet.errors import CpnetError
from cpnet.files import check_output, owned, write_atomically
from cpnet.gpu.feed import Feed
from cpnet.gpu.memory import to_host
from cpnet.layers import Dropout, Linear, Pass
from cpnet.run_folder import read_object, read_text
from data.store import hdf5
from data.store.dataset import Dataset
from data.store.identity import fingerprint
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

    Raises CpnetError where `out` cannot be written, or while another process writes it.
    """
    place = check_output(out)
    partial, journal = f"{place}.partial", f"{place}.progress"
    width = int(np.prod(next(shape for layer, _, shape in network.table.shapes()
                             if layer is last_hidden(network.table))))
    sizes = {split: len(dataset.split(split)) for split in splits}
    task = {"checkpoint": made_from, "weights": digest(network), "data": str(dataset.path),
            "fingerprint": fingerprint(dataset), "sizes": sizes, "width": width}
    with owned(out):
        try:
            token, done = _resume(journal, partial, task)
            if done is None:
                if os.path.exists(journal):
                    os.remove(journal)  # so that it is never taken for the new file's
                _make(partial, task, dataset, network, token)
                done = dict.fromkeys(splits, 0)
            _extract(network, dataset, done, batch, threads, progress, partial, journal, token, task)
            os.replace(partial, place)
            os.remove(journal)
        except OSError as error:
            raise CpnetError(f"{out}: could not be written ({error.strerror or error})") from error


def digest(network):
    """A text that differs for nets with other weights."""
    found = hashlib.blake2b(digest_size=8)
    for kind in TRAINED:
        for name in network.kinds[kind]:
            found.update(np.ascontiguousarray(network.get(kind, name)))
    return found.hexdigest()


def _extract(network, dataset, done, batch, threads, progress, partial, journal, token, task):
    """Fill in the features that are not `done` yet. What the journal counts is on the disk."""
    with h5py.File(partial) as file:
        places = {split: file[f"{split}/features"].id.get_offset() for split in done}
    fd = os.open(partial, os.O_WRONLY)
    try:
        for split in done:
            def save(count, split=split):
                os.fsync(fd)
                done[split] = count
                write_atomically(journal, json.dumps({"token": token, "task": task, "done": done}))

            _extract_split(network, dataset, split, done[split], batch, threads, progress, fd,
                           places[split], save)
    finally:
        os.close(fd)


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
    """(token, how many images of each split are done); None in place of the second to begin anew.

    The token ties a journal to its file, so that neither is ever taken for another's.
    """
    fresh = secrets.token_hex(8), None
    if not (os.path.exists(journal) and os.path.exists(partial)):
        return fresh
    try:
        before = read_object(journal, read_text(journal))
        with hdf5.reading(partial, "features file", CpnetError) as file:
            token = hdf5.text(file.attrs.get("token", ""))
    except CpnetError:
        return fresh  # damaged: all of it is made again
    done, sizes = before.get("done"), task["sizes"]
    if before.get("task") != task or before.get("token") != token or not isinstance(done, dict):
        return fresh
    for split, size in sizes.items():
        if not kinds.whole.holds(done.get(split)) or done[split] > size:
            return fresh
    return token, done


def _make(partial, task, dataset, network, token):
    """The file with room for all features, which are then written past the HDF5 library, as they come."""
    size = sum(count * (4 * task["width"] + 4) for count in task["sizes"].values())
    with open(partial, "wb") as file:
        file.truncate(size)  # HDF5 does not survive a limit on the size of files; this raises OSError
    with hdf5.new(partial) as file:
        file.attrs.update(format=hdf5.fixed(FORMAT), version=VERSION, token=hdf5.fixed(token),
                          checkpoint=hdf5.fixed(task["checkpoint"]), data=hdf5.fixed(task["data"]),
                          layer=hdf5.fixed(last_hidden(network.table).name),
                          fingerprint=hdf5.fixed(json.dumps(task["fingerprint"])))
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
        with hdf5.reading(path, "features file", CpnetError) as file:
            if hdf5.kind(file) != FORMAT or file.attrs.get("version") != VERSION:
                raise CpnetError(f"{path}: is not a features file of this program; make one with python "
                                 "run.py features")
            self.fingerprint = hdf5.json_object(file.attrs.get("fingerprint", "{}"))
            token = hdf5.text(file.attrs.get("token", ""))  # which the first files lack
            self.identity = token or f"{os.path.abspath(path)}, {os.stat(path).st_mtime_ns}"
            self.splits = {name: self._read_split(file, name) for name in file}
        self.fd = os.open(path, os.O_RDONLY)

    def _read_split(self, file, name):
        """(shape, place in the file, labels) of a split."""
        features, labels = file.get(f"{name}/features"), file.get(f"{name}/labels")
        good = features is not None and labels is not None and features.dtype == "<f4" \
            and features.ndim == 2 and features.shape[1] > 0 and labels.shape == features.shape[:1] \
            and labels.dtype.kind in "iu" and features.id.get_offset() is not None
        if not good or features.id.get_offset() + features.nbytes > os.path.getsize(self.path):
            raise CpnetError(f"{self.path}: {name!r} is not one block of float32 vectors with their labels; "
                             "make it again")
        return features.shape, features.id.get_offset(), labels[()]

    def split(self, name):
        """(Rows of features float32 (N, D), labels (N)) of a split."""
        if name not in self.splits:
            raise CpnetError(f"{self.path}: has no split {name!r}, only {', '.join(self.splits)}")
        shape, place, labels = self.splits[name]
        size = 4 * shape[1]
        stored = FilePixels(self.fd, str(self.path), name, (size,), place + np.arange(shape[0] + 1) * size)
        return Rows(shape, np.float32, lambda indices, out: stored.read(indices, out.view(np.uint8))), labels

    def close(self):
        os.close(self.fd)


class Pixels:
    """A data set's raw pixels as vectors: the same methods as Features."""
    kind = "pixels"

    def __init__(self, dataset):
        self.dataset, self.path, self.splits = dataset, dataset.path, list(dataset.splits)
        self.fingerprint = fingerprint(dataset)
        self.identity = json.dumps(self.fingerprint)

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
    with hdf5.reading(path, "features file or data set", CpnetError) as file:
        is_features = hdf5.kind(file) == FORMAT
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

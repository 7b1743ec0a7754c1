"""A data set file in the making, which outlives being killed at any moment.

OUT.h5.part/ holds `data`, the file to be, and `state.npz`, which says how much of it is good.
Pixels are written behind one another straight to the places where the finished file will have them.
From time to time `data` is synced, and then a new state replaces the old one: what a state counts is on disk.
Going on starts at the last state, and what was written after it is written again. HDF5's own structure comes
last, around the pixels; it can be written as often as it takes.
"""

import errno
import fcntl
import io
import json
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np

from data.errors import DataError
from data.store import hdf5
from data.store.moments import Statistics
from data.store.skipped import list_skipped
from data.store.writer import check_place, publish, write_header, write_statistics

STORES = {"raw": "images", "jpeg": "jpeg"}  # what the pixels of a split are called in the file
SECONDS = 5  # between two states


class Part:
    """The file `out` in the making; a context manager. One process at a time; its methods are for one thread.

        with Part(out, job, "raw", (C, H, W)) as part:
            part.begin("train")
            part.append(pixels, ...)            # as often as needed, in order, from part.handled("train") on
            part.begin("val")                   # and so on
            part.finish(...)                    # now there is a file `out`

    job: a dict for JSON of all that the file depends on. Raises DataError if OUT.h5.part is of another job.
    """

    def __init__(self, out, job, store, shape):
        self.out, self.store, self.shape = os.fspath(out), store, tuple(shape)
        self.job = json.loads(json.dumps(job))
        check_place(self.out)
        self.folder = f"{os.path.realpath(self.out)}.part"  # where the file will be, links followed
        self.data, self.state = (os.path.join(self.folder, name) for name in ("data", "state.npz"))
        # name → {"handled": images, "skipped": [[index, name, reason], …], "bytes": of pixels}
        self.splits = {}
        self.lengths = {}  # name → list of bytes per image, of a jpeg store
        self.statistics = Statistics()
        self.fd, self.committer = None, ThreadPoolExecutor(1)
        self.commit, self.committed = None, time.monotonic()
        try:
            os.makedirs(self.folder, exist_ok=True)
            # killed between the new name and the end
            self.published = self._load() and not os.path.exists(self.data)
            if self.published and not os.path.exists(self.out):
                raise DataError(f"{self.folder}: is not whole; delete it to start anew")
            if not self.published:
                self.fd = os.open(self.data, os.O_RDWR | os.O_CREAT, 0o666)
                fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.close()
            raise DataError(f"{self.folder}: another process is writing it; wait for that one") from error
        except OSError as error:
            raise DataError(f"{self.folder}: cannot be written: {error.strerror}") from error

    def _load(self):
        """Whether there was a state, taken over; DataError if it is of another job."""
        if not os.path.exists(self.state):
            return False
        try:
            with np.load(self.state) as arrays:  # which unpickles nothing
                about = json.loads(str(arrays["about"]))
                self.statistics = Statistics(None, int(arrays["count"]), arrays["total"], arrays["products"])
                self.lengths = {name: arrays[f"lengths/{name}"].tolist() for name in about["splits"]}
        except Exception as error:  # NumPy and zipfile raise nearly anything for a damaged file
            raise DataError(f"{self.state}: cannot be read: {error}; "
                            f"delete {self.folder} to start anew") from error
        for key in self.job:
            if about["job"].get(key) != self.job[key]:
                raise DataError(f"{self.folder}: was begun with another {key} ({about['job'].get(key)}, now "
                                f"{self.job[key]}); go on with that one, or delete the folder to start anew")
        self.splits = about["splits"]
        return True

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def close(self):
        """Stop writing; what has been committed stays."""
        self.committer.shutdown()
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None

    def handled(self, name):
        """How many images of split `name` are done, stored or skipped."""
        return self.splits[name]["handled"] if name in self.splits else 0

    def skipped(self, name=None):
        """[index in the split, name, reason] of the images that could not be converted,
        of one split or of all."""
        return [entry for split in ([name] if name else self.splits)
                for entry in self.splits[split]["skipped"]]

    def stored(self, name):
        """How many images of split `name` the file holds."""
        return self.handled(name) - len(self.skipped(name))

    def begin(self, name):
        """The next images are of split `name`; the splits before it are complete."""
        self.splits.setdefault(name, {"handled": 0, "skipped": [], "bytes": 0})
        self.lengths.setdefault(name, [])
        self.name = name
        with hdf5.new(Structure()) as trial:
            # depends on the splits before it only, which are complete
            self.place = self._reserve(trial)[name]

    def _reserve(self, file):
        """Make room for the pixels of every split in an open, empty h5py file:
        {split: its place, a byte of the file}."""
        places = {}
        for name, split in self.splits.items():
            extent = (split["bytes"],) if self.store == "jpeg" else (self.stored(name), *self.shape)
            how = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            how.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
            how.set_fill_time(h5py.h5d.FILL_TIME_NEVER)  # the pixels are there already
            how.set_obj_track_times(False)  # the same data, the same bytes
            space = h5py.h5s.create_simple(tuple(max(1, n) for n in extent))
            dataset = h5py.h5d.create(file.create_group(name).id, STORES[self.store].encode(),
                                      h5py.h5t.STD_U8LE, space, how)
            places[name] = dataset.get_offset()
        return places

    def append(self, pixels, lengths, skipped, handled, statistics=None):
        """Store the next images of the split begun last.

        pixels: contiguous bytes of the images; lengths: bytes of each image, of a jpeg store; skipped:
        [index, name, reason] of those of the `handled` images that are not among them; statistics:
        added to the sums, if not None.
        """
        split = self.splits[self.name]
        view = memoryview(pixels).cast("B") if len(pixels) else memoryview(b"")
        try:
            write_all(self.fd, view, self.place + split["bytes"])
        except OSError as error:
            raise self._failed(error) from error
        split["bytes"] += len(view)
        split["handled"] += handled
        split["skipped"] += skipped
        self.lengths[self.name] += lengths
        if statistics is not None:
            self.statistics += statistics
        if time.monotonic() - self.committed > SECONDS and (self.commit is None or self.commit.done()):
            self._commit()

    def _commit(self):
        """Sync and save a state, on a thread: images are converted and written meanwhile.
        Raises what the last one met."""
        self._wait()
        self.committed = time.monotonic()
        arrays = {f"lengths/{name}": np.array(lengths, np.int64) for name, lengths in self.lengths.items()}
        arrays |= {"count": self.statistics.count, "total": self.statistics.total,
                   "products": self.statistics.products}
        self.commit = self.committer.submit(self._save, json.dumps({"job": self.job, "splits": self.splits}),
                                            arrays)

    def _save(self, about, arrays):
        os.fsync(self.fd)
        save_arrays(self.state, {"about": np.array(about), **arrays})

    def _wait(self):
        try:
            if self.commit is not None:
                self.commit.result()
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error):
        return DataError(f"{self.out}: writing failed: {error.strerror or error}; the same command goes on "
                         "from here")

    def keep(self, name, arrays):
        """Save {array's name: array} as the file `name` beside the pixels, as long as these are there."""
        try:
            save_arrays(os.path.join(self.folder, name), arrays)
        except OSError as error:
            raise self._failed(error) from error

    def finish(self, classes, labels, source, left_out=(), synsets=None):
        """Write the structure and give the file its name.
        labels: {split: int32 (N,)}, skipped images included; left_out: as list_skipped takes it."""
        if not self.published:
            self._commit()
            self._wait()
            structure = Structure()
            with hdf5.new(structure) as file:
                if self._reserve(file)[self.name] != self.place:
                    raise RuntimeError("HDF5 laid the file out differently the second time")
                write_header(file, classes, source, synsets)
                for name, numbers in labels.items():
                    gone = [index for index, _, _ in self.skipped(name)]
                    file[name].create_dataset("labels", data=np.delete(numbers, gone).astype(np.int32))
                    if self.store == "jpeg":
                        file[name].create_dataset("offsets",
                                                  data=np.cumsum([0, *self.lengths[name]], dtype=np.int64))
                write_statistics(file, self.statistics)
            try:
                structure.save(self.fd)
                os.fsync(self.fd)
                list_skipped(self.out, os.path.join(self.folder, "skipped"),
                             {name: self.skipped(name) for name in self.splits}, left_out)
                publish(self.data, self.out)
            except OSError as error:
                raise self._failed(error) from error
        self.discard()

    def discard(self):
        """Delete OUT.h5.part."""
        self.close()
        try:
            shutil.rmtree(self.folder)
        except OSError as error:
            # Since `data` has its name, another process may have begun anew in this folder, and deletes it.
            if error.errno not in (errno.ENOTEMPTY, errno.ENOENT):
                raise DataError(f"{self.folder}: cannot be deleted: {error.strerror}; delete "
                                "it by hand") from error


def save_arrays(path, arrays):
    """Save {name: array} at `path`, .npz, in place of what was there, so that one or the other is whole."""
    with open(f"{path}.tmp", "wb") as file:
        np.savez(file, **arrays)
        file.flush()
        os.fsync(file.fileno())
    publish(f"{path}.tmp", path)


class Structure(io.RawIOBase):
    """What the HDF5 library takes for a new, empty file. What it writes stays in memory until `save`;
    that is everything but the pixels, which it is told not to write.
    Then no error of the disk happens inside the library."""

    def __init__(self):
        self.pieces, self.position, self.size = [], 0, 0

    def readable(self):
        return True

    writable = seekable = readable

    def seek(self, offset, whence=os.SEEK_SET):
        self.position = offset + (0, self.position, self.size)[whence]
        return self.position

    def tell(self):
        return self.position

    def readinto(self, buffer):
        first, last = self.position, min(self.position + len(buffer), self.size)
        data = bytearray(last - first)
        for place, piece in self.pieces:
            begin, end = max(first, place), min(last, place + len(piece))
            if begin < end:
                data[begin - first:end - first] = piece[begin - place:end - place]
        buffer[:len(data)] = data
        self.position = last
        return len(data)

    def write(self, data):
        self.pieces.append((self.position, bytes(data)))
        self.position += len(data)
        self.size = max(self.size, self.position)
        return len(data)

    def truncate(self, size=None):
        self.size = size
        return size

    def save(self, fd):
        """Write all of it into the open file `fd`, around what is there,
        and cut off what lies behind its end."""
        for place, piece in self.pieces:
            write_all(fd, memoryview(piece), place)
        os.ftruncate(fd, self.size)


def write_all(fd, view, place):
    """A memoryview of bytes to byte `place` of the open file: one call may write less than it is given."""
    while view:
        count = os.pwrite(fd, view, place)
        view, place = view[count:], place + count

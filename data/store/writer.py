"""One HDF5 file is one data set: writing it. The file appears under its name only when it is complete."""

import os
import resource
import shutil

import numpy as np

from data.errors import DataError
from data.store import hdf5
from data.store.dataset import FORMAT, SPLITS, VERSION

# of compressed sets: large chunks compress a little better, and all of them are read anyway
CHUNK_BYTES = 1 << 20


class Writer:
    """Writes a data set; a context manager.

        with Writer("out.h5", classes, (C, H, W), source="...") as writer:
            writer.add_split("train", labels)
            writer.write("train", 0, images)        # as often as needed, in any order, every image once
            writer.set_statistics(statistics)

    All of it goes to a temporary file beside `out`, which is synced and renamed at the end of the block.
    If the block raises, or something is missing at its end, the temporary file is removed and whatever was at
    `out` stays. compress: gzip the pixels; for small sets, which a Dataset then holds in memory.
    synsets: the classes' WNIDs, if any.
    """

    def __init__(self, out, classes, shape, *, source, compress=False, synsets=None):
        self.out, self.shape, self.compress = os.fspath(out), tuple(shape), compress
        self.folder = check_place(self.out)
        if len(classes) < 2:
            raise DataError(f"{self.out}: a data set needs at least two classes, there {self._are(classes)}")
        self.temporary = os.path.join(self.folder, f".{os.path.basename(self.out)}.tmp")
        self.classes, self.missing, self.statistics = list(classes), {}, None
        try:
            self.file = hdf5.new(self.temporary)
        except OSError as error:
            raise DataError(f"{self.out}: cannot be written: {str(error).splitlines()[0]}") from error
        write_header(self.file, self.classes, source, synsets)

    @staticmethod
    def _are(classes):
        return f"is only '{classes[0]}'" if len(classes) else "are none"

    def add_split(self, name, labels):
        """Declare split `name` with labels (N,): room for its images is set aside at once."""
        if name not in SPLITS:
            raise ValueError(f"a split is one of {SPLITS}, not {name!r}")
        labels = np.asarray(labels, dtype=np.int32)
        if labels.ndim != 1 or not len(labels) or labels.min() < 0 or labels.max() >= len(self.classes):
            raise ValueError(f"'{name}' needs labels (N,) in 0..{len(self.classes) - 1}")
        size = len(labels) * int(np.prod(self.shape))
        free = shutil.disk_usage(self.folder).free
        if not self.compress and size > free:
            raise DataError(f"{self.out}: '{name}' needs {size / 1e9:.1f} GB, {self.folder} has "
                            f"{free / 1e9:.1f} GB free")
        limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
        if limit != resource.RLIM_INFINITY and size > limit:  # which the HDF5 library does not survive
            raise DataError(f"{self.out}: '{name}' needs {size / 1e6:,.1f} MB, and a file may have "
                            f"{limit / 1e6:,.1f} MB here (ulimit -f)")
        group = self.file.create_group(name)
        group.create_dataset("labels", data=labels)
        images = {}
        if self.compress:
            step = min(len(labels), max(1, CHUNK_BYTES // int(np.prod(self.shape))))
            images = dict(chunks=(step, *self.shape), compression="gzip", compression_opts=9)
        group.create_dataset("images", (len(labels), *self.shape), np.uint8, **images)
        self.missing[name] = np.ones(len(labels), bool)

    def write(self, name, start, images):
        """Store images uint8 (n, C, H, W) as images start, start + 1, … of split `name`."""
        where = slice(start, start + len(images))
        if images.dtype != np.uint8 or images.shape != (len(self.missing[name][where]), *self.shape):
            raise ValueError(f"'{name}' takes uint8 (n, C, H, W) of {self.shape} in its range, "
                             f"not {images.dtype} {images.shape} at {start}")
        try:
            self.file[name]["images"][where] = images
        except OSError as error:
            raise DataError(f"{self.out}: writing failed: {str(error).splitlines()[0]}") from error
        self.missing[name][where] = False

    def set_statistics(self, statistics):
        """Store the mean image and, of colour sets, the principal components of a
        Statistics of the training set."""
        write_statistics(self.file, statistics)
        self.statistics = statistics

    def __enter__(self):
        return self

    def __exit__(self, kind, *exc):
        try:
            if kind is None:
                self._check_complete()
                self._publish()
        except OSError as error:
            raise DataError(f"{self.out}: writing failed: {str(error).splitlines()[0]}") from error
        finally:
            self.file.close()
            if os.path.exists(self.temporary):
                os.remove(self.temporary)

    def _check_complete(self):
        if "train" not in self.missing or self.statistics is None:
            raise ValueError("a data set needs a 'train' split and its statistics before it is closed")
        for name, missing in self.missing.items():
            if missing.any():
                raise ValueError(f"{missing.sum()} images of '{name}' were never written, first "
                                 f"{missing.argmax()}")

    def _publish(self):
        self.file.close()
        with open(self.temporary, "rb") as file:
            os.fsync(file.fileno())
        publish(self.temporary, self.out)


def check_place(out):
    """The folder that the file `out`, links followed, is to lie in; DataError if it cannot."""
    place = os.path.realpath(out)
    folder = os.path.dirname(place)
    if not os.path.isdir(folder):
        raise DataError(f"{out}: its folder does not exist; create {folder} first")
    if os.path.isdir(place):
        raise DataError(f"{out}: is a folder; name a file to write, such as data.h5")
    if os.path.lexists(place) and not os.path.isfile(place):
        raise DataError(f"{out}: is no regular file, and is left as it is; choose another name")
    return folder


def write_header(file, classes, source, synsets=None):
    """What a data set says of itself, into an open h5py file:
    format, source, class names, WNIDs if there are any."""
    axes = ("images uint8 (N, C, H, W), 0..255; labels int32 (N,), indices into /classes; mean float32 (C, "
            "H, W)")
    file.attrs.update(format=hdf5.fixed(FORMAT), version=VERSION, source=hdf5.fixed(source),
                      axes=hdf5.fixed(axes))
    file.create_dataset("classes", data=hdf5.fixed_list(classes))
    if synsets:
        file.create_dataset("synsets", data=hdf5.fixed_list(synsets))


def write_statistics(file, statistics):
    """The mean image and, of colour sets, the principal components of the training set,
    into an open h5py file."""
    file.create_dataset("mean", data=statistics.mean())
    colour = statistics.colour()
    if colour is not None:
        group = file.create_group("pca")
        group.create_dataset("std", data=colour.std)
        group.create_dataset("vectors", data=colour.vectors)


def publish(path, out):
    """Give the synced file at `path` the name `out`, links followed, in the same file system,
    so that both name and file last."""
    place = os.path.realpath(out)
    os.replace(path, place)
    folder = os.open(os.path.dirname(place), os.O_RDONLY)  # the new name must be on disk too
    try:
        os.fsync(folder)
    finally:
        os.close(folder)

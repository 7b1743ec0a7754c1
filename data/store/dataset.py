"""One HDF5 file is one data set: reading it.
The layout is described in docs/data.md, writing is in writer.py.

h5py reads everything but the pixels. The HDF5 library lets only one thread in at a time, so the pixels,
or JPEGs, one contiguous block of bytes per split, are read past it, at the block's place in the file
(pixels.py, crops.py): threads do not wait for each other.
"""

import os
from collections import namedtuple
from contextlib import contextmanager

import h5py
import numpy as np

from data.errors import DataError
from data.store import hdf5
from data.store.pixels import FilePixels, JpegPixels, MemoryPixels

FORMAT, VERSION = "cpnet-dataset", 1
SPLITS = ("train", "val", "test")
MEMORY_LIMIT = 2 << 30  # bytes; compressed pixels are held in memory, which suits small sets only

Colour = namedtuple("Colour", "std vectors")
Colour.__doc__ = """RGB covariance of a training set: std (3,), descending, 0..255 scale;
vectors (3, 3), one a column."""


class Split:
    """One part of a data set: `labels` int32 (N,) and a way to read its images.

    `pixels` is one of the classes of pixels.py: another way of storing images needs no change here.
    """

    def __init__(self, name, labels, shape, pixels):
        self.name, self.labels, self.image_shape, self.pixels = name, labels, shape, pixels

    def __len__(self):
        return len(self.labels)

    def read(self, indices, out=None):
        """Images `indices` (n,) into `out`, uint8 (n, C, H, W), C-contiguous, made if None. Returns out.
        Thread-safe.

        Raises IndexError or ValueError for arguments that do not fit, DataError if the file cannot be read.
        """
        indices = np.asarray(indices, dtype=np.int64)
        if len(indices) and not (0 <= indices.min() and indices.max() < len(self)):
            raise IndexError(f"split '{self.name}' has images 0..{len(self) - 1}, not "
                             f"{indices.min()}..{indices.max()}")
        shape = (len(indices), *self.image_shape)
        if out is None:
            out = np.empty(shape, np.uint8)
        elif out.shape != shape or out.dtype != np.uint8 or not out.flags.c_contiguous:
            raise ValueError(f"out must be contiguous uint8 {shape}, not {out.dtype} {out.shape}")
        if len(indices):
            self.pixels.read(indices, out)
        return out

    def hint(self, indices):
        """Have the operating system fetch images `indices` (n,), int64 in range, from the disk;
        does not wait for them."""
        if len(indices):
            self.pixels.hint(indices)


class Dataset:
    """A data set, checked as it is opened and open for reading until `close()`.

    path; classes (list of str); channels, height, width; mean float32 (C, H, W), the training set's mean
    image, 0..255; pca (Colour, or None for grey sets); source (str); splits: dict from "train", "val",
    "test" to Split. Raises DataError, naming the file, for anything that is not a whole, valid data set.
    """

    def __init__(self, path):
        self.path = os.fspath(path)
        if not os.path.exists(self.path):
            raise DataError(f"{self.path}: no such file; make it with 'python run.py prepare'")
        if os.path.isdir(self.path):
            raise DataError(f"{self.path}: is a folder; prepare it into an .h5 file first: 'python run.py "
                            "prepare'")
        hdf5.check_input(self.path, "data set", DataError)
        self._fd = os.open(self.path, os.O_RDONLY)
        try:
            self._size = os.fstat(self._fd).st_size
            with self._opened() as file:
                self._read_header(file)
                self.splits = {name: self._read_split(file, name) for name in SPLITS if name in file}
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def __del__(self):
        self.close()

    def close(self):
        """Close the file. Loaders that use the data set must be closed first. May be called twice."""
        fd, self._fd = getattr(self, "_fd", None), None
        for split in getattr(self, "splits", {}).values():
            if isinstance(split.pixels, FilePixels):
                split.pixels.close()
        if fd is not None:
            os.close(fd)

    def split(self, name):
        """The split called `name`; DataError lists those that there are if it is missing."""
        if name not in self.splits:
            raise DataError(f"{self.path}: has no split '{name}'; it has {', '.join(self.splits)}")
        return self.splits[name]

    def read(self, split, indices, out=None):
        """Images `indices` (n,) of the split called `split`: uint8 (n, C, H, W), as Split.read."""
        return self.split(split).read(indices, out)

    def _bad(self, what):
        return DataError(f"{self.path}: {what}")

    @contextmanager
    def _opened(self):
        """The open h5py file. Whatever is wrong with it becomes DataError."""
        if not h5py.is_hdf5(self.path):
            raise self._bad("is not an HDF5 file; make a data set with 'python run.py prepare'")
        try:
            with hdf5.reading(self.path, "data set", DataError) as file:
                yield file
        except DataError as error:
            if "truncated" in str(error.__cause__):
                raise self._bad("is truncated: a copy or download stopped early; "
                                "copy or prepare it again") from error
            raise

    def _read_header(self, file):
        if hdf5.kind(file) != FORMAT:
            raise self._bad(f"is HDF5 but no data set of ours (no attribute format='{FORMAT}'); use "
                            "'prepare' first")
        if file.attrs.get("version") != VERSION:
            raise self._bad(f"has format version {file.attrs.get('version')}, this program reads {VERSION}; "
                            "prepare the data set again")
        self.source = hdf5.text(file.attrs.get("source", ""))
        self.classes = self._array(file, "classes", hdf5.texts)
        self.synsets = self._array(file, "synsets", hdf5.texts) if "synsets" in file else None
        if not self.classes:
            raise self._bad("/classes is empty: a data set needs at least one class")
        self.mean = self._array(file, "mean")
        if self.mean.ndim != 3 or not self.mean.size or self.mean.dtype != np.float32 \
                or not np.isfinite(self.mean).all():
            raise self._bad(f"/mean must be finite float32 (C, H, W), not {self.mean.dtype} "
                            f"{self.mean.shape}")
        self.channels, self.height, self.width = self.mean.shape
        self.pca = None
        if self.channels == 3:
            self.pca = Colour(self._array(file, "pca/std"), self._array(file, "pca/vectors"))
            if self.pca.std.shape != (3,) or self.pca.vectors.shape != (3, 3) \
                    or not all(part.dtype.kind == "f" and np.isfinite(part).all() for part in self.pca):
                raise self._bad("/pca must hold finite std (3,) and vectors (3, 3), "
                                f"not {self.pca.std.shape} and {self.pca.vectors.shape}")
        if "train" not in file:
            raise self._bad("has no split /train")

    def _array(self, file, name, read=lambda dataset: np.asarray(dataset[()])):
        if not isinstance(file.get(name), h5py.Dataset):
            raise self._bad(f"has no /{name}: it is not complete; prepare it again")
        try:
            return read(file[name])
        except (OSError, TypeError, ValueError) as error:
            raise self._bad(f"/{name} cannot be read: {str(error).splitlines()[0]}") from error

    def _read_split(self, file, name):
        labels, shape = self._array(file, f"{name}/labels"), (self.channels, self.height, self.width)
        count, pixels = (self._jpegs if f"{name}/jpeg" in file else self._images)(file, name, shape)
        if labels.ndim != 1 or labels.dtype.kind not in "iu" or len(labels) != count or not len(labels):
            raise self._bad(f"/{name}/labels must be one integer for each of the {count} images (at least "
                            f"one), not {labels.dtype} {labels.shape}")
        if labels.min() < 0 or labels.max() >= len(self.classes):
            wrong = int(np.flatnonzero((labels < 0) | (labels >= len(self.classes)))[0])
            raise self._bad(f"label {labels[wrong]} of image {wrong} of '{name}' is outside "
                            f"0..{len(self.classes) - 1} ({len(self.classes)} classes)")
        return Split(name, labels.astype(np.int32), shape, pixels)

    def _images(self, file, name, shape):
        """(how many, pixels) of a split stored raw."""
        images = self._array(file, f"{name}/images", lambda d: d)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != shape:
            raise self._bad(f"/{name}/images must be uint8 (N, {', '.join(map(str, shape))}) as /mean is, "
                            f"not {images.dtype} {images.shape}")
        size = int(np.prod(images.shape, dtype=np.int64))
        if images.chunks:
            if size > MEMORY_LIMIT:
                raise self._bad(f"/{name}/images is {size >> 20} MiB in chunks, too large to hold in memory; "
                                "store it as one contiguous, uncompressed block")
            return len(images), MemoryPixels(self._array(file, f"{name}/images"))
        places = self._offset(f"{name}/images", images) + np.arange(len(images) + 1) * int(np.prod(shape))
        return len(images), FilePixels(self._fd, self.path, name, shape, places)

    def _jpegs(self, file, name, shape):
        """(how many, pixels) of a split stored as JPEGs."""
        jpeg, offsets = self._array(file, f"{name}/jpeg", lambda d: d), self._array(file, f"{name}/offsets")
        if jpeg.dtype != np.uint8 or jpeg.ndim != 1 or jpeg.chunks:
            raise self._bad(f"/{name}/jpeg must be one contiguous, uncompressed block of uint8 (B,), "
                            f"not {jpeg.dtype} {jpeg.shape}{' in chunks' if jpeg.chunks else ''}")
        if offsets.dtype != np.int64 or offsets.ndim != 1 or len(offsets) < 2:
            raise self._bad(f"/{name}/offsets must be int64 (N + 1,), not {offsets.dtype} {offsets.shape}")
        if offsets[0] != 0 or offsets[-1] != len(jpeg) or not (np.diff(offsets) > 0).all():
            raise self._bad(f"/{name}/offsets must rise from 0 to {len(jpeg)}, the size of /{name}/jpeg, "
                            "without a gap or an empty image; prepare the data set again")
        return len(offsets) - 1, JpegPixels(self._fd, self.path, name, shape,
                                            self._offset(f"{name}/jpeg", jpeg) + offsets)

    def _offset(self, name, stored):
        """Where in the file the contiguous block of a dataset begins."""
        offset = stored.id.get_offset()
        if offset is None:
            raise self._bad(f"/{name} holds no pixels: it was never written; prepare it again")
        if offset + stored.size > self._size:
            raise self._bad(f"is truncated: /{name} ends at byte {offset + stored.size}, the file at "
                            f"{self._size}; copy or prepare it again")
        return offset

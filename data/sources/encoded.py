"""Images as they come, still encoded: files of their own, or stretches of archives,
which are never unpacked."""

import os
import zlib
from dataclasses import dataclass, field

import numpy as np

from data.errors import DataError

LIMIT = 256 << 20  # bytes; no photograph is larger, and a worker holds one at a time
BLOCK = 1 << 12
VANISHED = "has vanished since it was listed"
NAMES = np.dtypes.StringDType()  # a million names in tens of megabytes


def as_text(name):
    """A file's name as text that can be stored. Bytes that are not UTF-8 become \\xe9 and the like."""
    return os.fsencode(name).decode(errors="backslashreplace")


@dataclass
class Encoded:
    """N encoded images. `names` (N,): for files their paths below `root`, as text;
    sizes, offsets int64 (N,), stamps int64 (N,).

    archives: paths of the files that the images lie in; image i in archives[which[i]], at byte offsets[i].
    Without archives each image is a file.
    stamps: when the file or archive was last changed, in ns: part of the set's identity.
    raw: {name: path} of those files whose names are not UTF-8.
    """
    root: str
    names: np.ndarray
    sizes: np.ndarray
    stamps: np.ndarray
    offsets: np.ndarray = None
    which: np.ndarray = None
    archives: tuple = ()
    raw: dict = field(default_factory=dict)

    def __len__(self):
        return len(self.names)

    def take(self, indices):
        """The images `indices`, in that order."""
        columns = (None if c is None else c[indices]
                   for c in (self.names, self.sizes, self.stamps, self.offsets, self.which))
        return Encoded(self.root, *columns, self.archives, self.raw)

    def sorted(self):
        """In the order of the names of their files, whatever the order in the folder or archive."""
        keys = [str(name) if not self.archives else os.path.basename(name) for name in self.names]
        return self.take(np.array(sorted(range(len(self)), key=keys.__getitem__), np.int64))

    def identify(self, digest):
        """Add to a hashlib digest all that tells these images from others without reading them."""
        for start in range(0, len(self), BLOCK):  # not all of the names at once
            digest.update("\n".join(self.names[start:start + BLOCK]).encode())
        for column in (self.sizes, self.stamps, self.offsets, self.which):
            digest.update(b"" if column is None else column.tobytes())

    def read(self, index):
        """The bytes of image `index`; thread-safe. DataError if it is too large, or a file that is no longer
        as it was listed; SourceError if it cannot be read at all."""
        name, size = str(self.names[index]), int(self.sizes[index])
        if size > LIMIT:
            raise DataError(f"is {size >> 20} MiB large, too much for one image")
        path = self.archives[self.which[index]] if self.archives else (
            os.path.join(self.root, self.raw.get(name, name)))
        place = int(self.offsets[index]) if self.archives else 0
        try:
            with open(path, "rb", buffering=0) as file:
                changed = not self.archives and os.fstat(file.fileno()).st_size != size
                data = os.pread(file.fileno(), size, place)
        except OSError as error:
            # Without the folder it is not this image that has vanished, but perhaps a disk.
            if not self.archives and not os.path.lexists(path) and os.path.isdir(os.path.dirname(path)):
                raise DataError(VANISHED) from error
            raise SourceError(f"{path}: cannot be read: {error.strerror}; the same command goes on from "
                              "here") from error
        if changed:
            raise DataError("has another size than when it was listed")
        if len(data) < size:
            raise SourceError(f"{path}: has become shorter while it was being read; download it again")
        if data[:2] == b"\x1f\x8b":  # ILSVRC-2010 has a JPEG that is gzipped (n02487347_1956)
            try:
                data = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(data, LIMIT)
            except zlib.error as error:
                raise DataError(f"is gzipped, and damaged: {error}") from error
        return data


class SourceError(DataError):
    """The source cannot be read: its disk's or archive's fault, not that of one image."""


def join(parts):
    """Several Encoded of one root, one after the other: all of them files, or all of them in archives."""
    archives = tuple(dict.fromkeys(path for part in parts for path in part.archives))
    columns = [np.concatenate([getattr(part, name) for part in parts])
               for name in ("names", "sizes", "stamps")]
    if not archives:
        return Encoded(parts[0].root, *columns,
                       raw={name: path for part in parts for name, path in part.raw.items()})
    which = np.concatenate([np.array([archives.index(path) for path in part.archives], np.int32)[part.which]
                            for part in parts])
    return Encoded(parts[0].root, *columns, np.concatenate([part.offsets for part in parts]), which, archives)

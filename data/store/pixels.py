"""Where a split's images are, and how they are read: in memory, raw in a file, or as JPEGs in a file.

Each class has `read(indices, out)`, images `indices` int64 (n,) into `out` uint8 (n, C, H, W);
`crop(indices, top, left, mirror, out)`, crops of them, as data/store/crops.py says it, into `out` uint8
(V·n, C, crop, crop); and `hint(indices)`, which asks the operating system to fetch them and does not wait.
All may be called from any number of threads.
"""
import io
import os
from time import perf_counter

import numpy as np
from PIL import Image

from data.errors import DataError
from data.store import crops

try:
    import simplejpeg
except ImportError:  # optional: it decodes half as fast again as Pillow
    simplejpeg = None

HINT_BYTES = 512 << 10  # Linux fetches no more than about this for one hint
QUICK = 1e9  # bytes/s: from memory, not from a disk
HINTED = 8  # reads after a slow one that are hinted at
UNCHECKED = 0.05  # seconds for which crops are read without a look at whether somebody wrote into the file


class MemoryPixels:
    """Pixels held in memory: images uint8 (N, C, H, W)."""
    cached = True  # hints would be of no use

    def __init__(self, images):
        self.images = images

    def read(self, indices, out):
        # the range has been checked; "raise" would copy
        np.take(self.images, indices, axis=0, out=out, mode="clip")

    def crop(self, indices, top, left, mirror, out):
        crops.cut(self.images, indices, top, left, mirror, out)

    def hint(self, indices):
        pass


class FilePixels:
    """Raw pixels in a file: image k, uint8 of `shape`,
    takes the bytes places[k] … places[k + 1] of the open file `fd`.

    places: int64 (N + 1,).
    """

    def __init__(self, fd, path, name, shape, places):
        self.fd, self.path, self.name, self.shape, self.places = fd, path, name, shape, places
        self.opened = self._stamp()
        self.hinted, self.checked = HINTED, 0.0
        if hasattr(os, "posix_fadvise"):  # every read says all it wants: reading on past it would be waste
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)

    def close(self):
        """Forget the file: a late read fails, and cannot hit a file that reuses the number."""
        self.fd = -1

    @property
    def cached(self):
        """Whether the latest reads were so quick that the file must be in memory,
        where a hint an image would be waste."""
        return self.hinted == 0

    def read(self, indices, out):
        if not crops.read(self.fd, self.places, indices, out):
            self._read_one_by_one(indices, out)
        self._check_unchanged()

    def crop(self, indices, top, left, mirror, out):
        began = perf_counter()
        image = np.empty(self.shape, np.uint8)
        if not crops.read_and_cut(self.fd, self.places, indices, image, top, left, mirror, out):
            self._crop_one_by_one(indices, top, left, mirror, out)
        quick = len(indices) * image.nbytes > QUICK * (perf_counter() - began)
        self.hinted = max(0, self.hinted - 1) if quick else HINTED
        if began > self.checked + UNCHECKED:
            self._check_unchanged()
            self.checked = began

    def hint(self, indices):
        if not hasattr(os, "posix_fadvise"):
            return
        for first, last in runs(indices):
            start, stop = int(self.places[indices[first]]), int(self.places[indices[last - 1] + 1])
            for place in range(start, stop, HINT_BYTES):
                length = min(HINT_BYTES, stop - place)
                os.posix_fadvise(self.fd, place, length, os.POSIX_FADV_WILLNEED)

    def _read_one_by_one(self, indices, out):
        for image, place in zip(indices.tolist(), out, strict=True):
            self._load(image, place)

    def _crop_one_by_one(self, indices, top, left, mirror, out):
        image, first = np.empty((1, *self.shape), np.uint8), np.zeros(1, np.int64)
        for n, index in enumerate(indices.tolist()):
            self._load(index, image[0])
            for k in range(n, len(out), len(indices)):
                one = slice(k, k + 1)
                crops.cut(image, first, top[one], left[one], mirror[one], out[one])

    def _load(self, image, out):
        """One image into `out` uint8 (C, H, W), C-contiguous; DataError says what is the matter with it."""
        self.read_bytes(int(self.places[image]), memoryview(out.reshape(-1)))

    def read_bytes(self, place, target):
        """The file's bytes from `place` on into `target`, a memoryview, until it is full."""
        done = 0
        while done < len(target):  # one call may bring less than it was asked for: the kernel stops at 2 GiB
            try:
                count = os.preadv(self.fd, [target[done:]], place + done)
            except OSError as error:
                raise DataError(f"{self.path}: {self._image(place + done)} cannot be read: {error.strerror}; "
                                "is the disk still there?") from error
            if count == 0:
                raise DataError(f"{self.path}: the file ends inside {self._image(place + done)}: it was cut "
                                "short while open; prepare it again")
            done += count

    def _image(self, place):
        return f"image {np.searchsorted(self.places, place, side='right') - 1} of '{self.name}'"

    def _stamp(self):
        status = os.fstat(self.fd)
        return status.st_size, status.st_mtime_ns

    def _check_unchanged(self):
        """What was read is no good if somebody wrote into the file meanwhile:
        pixels and labels may not belong together."""
        try:
            now = self._stamp()
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read: {error.strerror}; "
                            "is the disk still there?") from error
        if now[0] < self.opened[0]:
            raise DataError(f"{self.path}: was cut short while open, from {self.opened[0]} to {now[0]} "
                            "bytes; prepare it again")
        if now != self.opened:
            raise DataError(f"{self.path}: was written to while open; start again with the file as it is now")


class JpegPixels(FilePixels):
    """The same for images stored as JPEGs, decoded by Pillow, or by simplejpeg where that is installed."""

    def read(self, indices, out):
        self._read_one_by_one(indices, out)
        self._check_unchanged()

    def crop(self, indices, top, left, mirror, out):
        self._crop_one_by_one(indices, top, left, mirror, out)
        self._check_unchanged()

    def _load(self, image, out):
        start, stop = self.places[image:image + 2].tolist()
        jpeg = memoryview(bytearray(stop - start))
        self.read_bytes(start, jpeg)
        try:
            decode(jpeg, out)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise DataError(f"{self.path}: image {image} of '{self.name}' is a damaged JPEG ({reason}); run "
                            "'python run.py check' and prepare the data set again") from error


def decode(jpeg, out):
    """A JPEG's bytes into `out` uint8 (C, H, W).
    Raises ValueError or OSError for what is damaged, or of another size."""
    mode, (height, width) = ("L" if len(out) == 1 else "RGB"), out.shape[1:]
    if simplejpeg:
        pixels = simplejpeg.decode_jpeg(jpeg, "GRAY" if mode == "L" else "RGB", strict=True)
        if pixels.shape[:2] != (height, width):
            raise ValueError(f"{pixels.shape[0]}×{pixels.shape[1]} pixels, not {height}×{width}")
        np.copyto(out, pixels.transpose(2, 0, 1))
        return
    with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as image:
        if image.size != (width, height) or image.mode != mode:
            raise ValueError(f"{image.height}×{image.width} pixels in {image.mode}, not {height}×{width} in "
                             f"{mode}")
        # a plane at a time: Pillow's own loop beats a strided copy
        for plane, band in zip(out, mode, strict=True):
            plane[...] = np.frombuffer(image.tobytes("raw", band), np.uint8).reshape(height, width)


def runs(indices):
    """[(first, last), …]: the places in `indices` (n,) where runs of consecutive numbers begin and end."""
    starts = np.flatnonzero(np.diff(indices, prepend=-2) != 1).tolist()
    return list(zip(starts, starts[1:] + [len(indices)], strict=True))

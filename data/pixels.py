"""Where a split's images are, and how they are read: in memory, raw in a file, or as JPEGs in a file.

Each class has `read(indices, out, memory)`, images `indices` into `out` uint8 (n, C, H, W), which may be the beginning of a
data.gather.Memory, and `hint(indices)`, which asks the operating system to fetch them and does not wait. Both may be called
from any number of threads.
"""
import io
import os
from functools import cached_property
from time import perf_counter

import numpy as np
from PIL import Image

from data.errors import DataError
from data.gather import Map

try:
    import simplejpeg
except ImportError:  # optional: it decodes half as fast again as Pillow
    simplejpeg = None

HINT_BYTES = 512 << 10  # Linux fetches no more than about this for one hint
QUICK = 1e9  # bytes/s: from memory, not from a disk
HINTED = 8  # reads after a slow one that are hinted at


class MemoryPixels:
    """Pixels held in memory: images uint8 (N, C, H, W)."""
    cached = True  # hints would be of no use

    def __init__(self, images):
        self.images = images

    def read(self, indices, out, memory=None):
        np.take(self.images, indices, axis=0, out=out, mode="clip")  # the range has been checked; "raise" would copy

    def hint(self, indices):
        pass


class FilePixels:
    """Pixels in a file: a contiguous uint8 block that starts at byte `offset` of the open file `fd`.

    Image k takes the bytes starts[k] … starts[k + 1] of the block: `starts` has int64 (N + 1,).
    """

    def __init__(self, fd, path, name, offset, starts):
        self.fd, self.path, self.name, self.offset, self.starts = fd, path, name, offset, starts
        self.opened = self._stamp()
        self.hinted = HINTED
        if hasattr(os, "posix_fadvise"):  # every read is large and says all it wants: reading on past it would be waste
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)

    @cached_property
    def map(self):
        """The file, mapped when it is first gathered from: who reads in order, or JPEGs, never does."""
        return Map(self.fd)

    def close(self):
        """Forget the file: a late read fails, and cannot hit a file that reuses the number."""
        self.fd, self.map = -1, None

    @property
    def cached(self):
        """Whether the latest reads were so quick that the file must be in memory, where a hint an image would be waste."""
        return self.hinted == 0

    def read(self, indices, out, memory=None):
        """One system call for each run of neighbouring images; into a Memory, one call for all, wherever they are."""
        spans = runs(indices)
        if not (memory and self.map and self._gather(indices, spans, memory)):
            self._read_runs(indices, spans, out)
        self._check_unchanged()

    def hint(self, indices):
        if not hasattr(os, "posix_fadvise"):
            return
        for first, last in runs(indices):
            start, stop = self.starts[indices[first]], self.starts[indices[last - 1] + 1]
            for place in range(int(start), int(stop), HINT_BYTES):
                length = min(HINT_BYTES, int(stop) - place)
                os.posix_fadvise(self.fd, self.offset + place, length, os.POSIX_FADV_WILLNEED)

    def _gather(self, indices, spans, memory):
        """Whether one call brought all of it. If not, reading run by run will, or says what is the matter."""
        starts, stops = (self.offset + self.starts[indices[[span[end] - end for span in spans]] + end] for end in (0, 1))
        began = perf_counter()
        whole = self.map.gather(starts.tolist(), stops.tolist(), memory)
        quick = (stops - starts).sum() > QUICK * (perf_counter() - began)
        self.hinted = max(0, self.hinted - 1) if quick else HINTED
        return whole

    def _read_runs(self, indices, spans, out):
        target, size = memoryview(out.reshape(-1)), out[0].nbytes
        places = self.starts[indices[[first for first, _ in spans]]].tolist()
        for (first, last), place in zip(spans, places, strict=True):
            self.read_bytes(place, target[first * size:last * size])

    def read_bytes(self, place, target):
        """The block's bytes from `place` on into `target`, a memoryview, until it is full."""
        done = 0
        while done < len(target):  # one call may bring less than it was asked for: the kernel stops at 2 GiB
            try:
                count = os.preadv(self.fd, [target[done:]], self.offset + place + done)
            except OSError as error:
                raise DataError(f"{self.path}: {self._image(place + done)} cannot be read: {error.strerror}; is the disk "
                                "still there?") from error
            if count == 0:
                raise DataError(f"{self.path}: the file ends inside {self._image(place + done)}: it was cut short while "
                                "open; prepare it again")
            done += count

    def _image(self, place):
        return f"image {np.searchsorted(self.starts, place, side='right') - 1} of '{self.name}'"

    def _stamp(self):
        status = os.fstat(self.fd)
        return status.st_size, status.st_mtime_ns

    def _check_unchanged(self):
        """What was read is no good if somebody wrote into the file meanwhile: pixels and labels may not belong together."""
        try:
            now = self._stamp()
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read: {error.strerror}; is the disk still there?") from error
        if now[0] < self.opened[0]:
            raise DataError(f"{self.path}: was cut short while open, from {self.opened[0]} to {now[0]} bytes; prepare it again")
        if now != self.opened:
            raise DataError(f"{self.path}: was written to while open; start again with the file as it is now")


class JpegPixels(FilePixels):
    """The same for images stored as JPEGs, decoded by Pillow, or by simplejpeg where that is installed."""

    def _gather(self, indices, spans, memory):
        return False  # memory is for images, not for JPEGs

    def _read_runs(self, indices, spans, out):
        for first, last in spans:
            starts = self.starts[int(indices[first]):int(indices[last - 1]) + 2].tolist()
            stored = memoryview(bytearray(starts[-1] - starts[0]))
            self.read_bytes(starts[0], stored)
            for k in range(first, last):
                start, stop = (each - starts[0] for each in starts[k - first:k - first + 2])
                self._decode(int(indices[k]), stored[start:stop], out[k])

    def _decode(self, image, jpeg, out):
        try:
            decode(jpeg, out)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise DataError(f"{self.path}: image {image} of '{self.name}' is a damaged JPEG ({reason}); run 'python run.py "
                            "check' and prepare the data set again") from error


def decode(jpeg, out):
    """A JPEG's bytes into `out` uint8 (C, H, W). Raises ValueError or OSError for what is damaged, or of another size."""
    mode, (height, width) = ("L" if len(out) == 1 else "RGB"), out.shape[1:]
    if simplejpeg:
        pixels = simplejpeg.decode_jpeg(jpeg, "GRAY" if mode == "L" else "RGB", strict=True)
        if pixels.shape[:2] != (height, width):
            raise ValueError(f"{pixels.shape[0]}×{pixels.shape[1]} pixels, not {height}×{width}")
        np.copyto(out, pixels.transpose(2, 0, 1))
        return
    with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as image:
        if image.size != (width, height) or image.mode != mode:
            raise ValueError(f"{image.height}×{image.width} pixels in {image.mode}, not {height}×{width} in {mode}")
        for plane, band in zip(out, mode, strict=True):  # a plane at a time: Pillow's own loop beats a strided copy
            plane[...] = np.frombuffer(image.tobytes("raw", band), np.uint8).reshape(height, width)


def runs(indices):
    """[(first, last), …]: the places in `indices` (n,) where runs of consecutive numbers begin and end."""
    starts = np.flatnonzero(np.diff(indices, prepend=-2) != 1).tolist()
    return list(zip(starts, starts[1:] + [len(indices)], strict=True))

"""One image file → the pixels that a net takes: section 2 of the paper, for photographs as they come.

What is done with odd images (transparency, 16 bits, CMYK, orientation, size) is in docs/data.md,
"Odd images".
"""

import logging
import os
import warnings

import numpy as np
from PIL import Image

from data.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".jfi", ".pjpeg", ".pjp", ".mpo", ".png", ".apng",
            ".bmp", ".dib", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm")
# no others: Pillow would run Ghostscript on an EPS file
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
# pixels, those of an 8K screen: WebP takes 16 bytes each while decoding, the others less; JPEGs half as much
LARGEST = 1 << 25

# What Pillow warns of either stops it, and is reported then, or does not touch the pixels.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.CRITICAL)


def load_image(source, size, channels=3, name=None):
    """The image as uint8 (C, size, size): shorter side scaled to `size` (bicubic, antialiased),
    central square.

    source: a path, or a seekable binary file object (then `name` is what errors call it).
    What counts is what is in the file, not its suffix. channels: 3 for RGB, 1 for grey; whatever the file
    holds is converted. Raises DataError, one line with name and reason, for a file that is missing, damaged,
    no image, or too large.
    """
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 (grey) or 3 (RGB), not {channels}")
    name = _printable(name or source)
    if not hasattr(source, "read"):
        with _open(source, name) as file:
            return load_image(file, size, channels, name)
    try:
        with Image.open(source, formats=FORMATS) as image:
            square = _square(image, size)
    except MemoryError:
        raise
    except Image.UnidentifiedImageError as error:
        reason = "is empty" if source.seek(0, os.SEEK_END) == 0 else (
            f"is not an image that can be read: neither {', '.join(FORMATS[:-1])} nor {FORMATS[-1]}, or "
            "damaged at its start")
        raise DataError(f"{name}: {reason}") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{name}: has too many pixels to decode within bounded memory (at most "
                        f"{2 * LARGEST / 1e6:.0f} million in a JPEG, {LARGEST / 1e6:.0f} million in others); "
                        "scale it down") from error
    except Exception as error:  # decoders raise nearly anything for a damaged file, such as SyntaxError
        raise DataError(f"{name}: cannot be decoded: {_printable(error) or type(error).__name__}") from error
    if channels == 1:
        return np.asarray(square.convert("L"))[None]
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))


def _open(path, name):
    """The file opened for reading. A pipe called a.jpg would make open() wait for ever,
    so it must be a regular file."""
    if not os.path.isfile(path):
        raise DataError(f"{name}: {'is not a file' if os.path.lexists(path) else 'no such file'}")
    try:
        return open(path, "rb")
    except OSError as error:
        raise DataError(f"{name}: cannot be opened: {error.strerror}") from error


def _printable(text):
    """In one line, and without the control characters that a file name may hold."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))


def _square(image, size):
    """The opened image's central square as an RGB image (size, size)."""
    if image.width * image.height > LARGEST * (2 if image.format in ("JPEG", "MPO") else 1):
        raise Image.DecompressionBombError  # as Pillow does, but at 179 million
    image.draft(None, (2 * size, 2 * size))  # large JPEGs decode at 1/2, 1/4, 1/8; detail to spare remains
    image.load()  # before its size is used: Pillow turns a TIFF as that format's own orientation tag says
    number = image.mode[0] in "IF"  # I;16, I or F: one value a pixel, of 16 or 32 bits
    mode = image.mode[0] if number else "RGBA" if image.has_transparency_data else "RGB"
    sixteen = image.mode.startswith("I;16") or image.mode == "I" and image.format in ("PNG", "PPM")
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    square = (image if image.mode == mode else image.convert(mode)).resize(
        (size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
    if number:
        return Image.fromarray(_eight_bits(np.asarray(square), sixteen)).convert("RGB")
    if mode == "RGBA":
        return Image.alpha_composite(Image.new("RGBA", square.size, "white"), square).convert("RGB")
    return square


def _eight_bits(values, sixteen):
    """Grey values (H, W) → uint8: the upper 8 of 16 bits, as Pillow takes of 16-bit colour; others have no
    fixed range (floats, 32 bits), so their lowest becomes 0 and their highest 255."""
    if sixteen:
        return (values.clip(0, 65535) >> 8).astype(np.uint8)
    values = values.astype(np.float64)
    low, high = values.min(), values.max()
    if not np.isfinite(high - low):
        raise ValueError("it holds values that are infinite or no numbers")
    return ((values - low) * (255 / (high - low or 1))).round().astype(np.uint8)

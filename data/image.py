"""One image file → the pixels that a net takes: section 2 of the paper."""

import struct

import numpy as np
from PIL import Image, ImageOps

from data.dataset import DataError

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")


def load_image(source, size, channels=3, name=None):
    """The image as uint8 (C, size, size): shorter side scaled to `size` (bicubic, antialiased), central square.

    source: a path, or a binary file object (then `name` is what errors call it). channels: 3 for RGB, 1 for grey;
    other modes (CMYK, palette, transparency) are converted, and a photograph stored on its side is turned upright.
    Raises DataError, one line naming the file, if it is missing, damaged, or no image.
    """
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 (grey) or 3 (RGB), not {channels}")
    name = name or str(source)
    try:
        with Image.open(source) as image:
            image.draft(None, (2 * size, 2 * size))  # large JPEGs decode at 1/2, 1/4, 1/8; detail to spare remains
            image = _upright(image).convert("RGB" if channels == 3 else "L")
            width, height = image.size
            side = min(width, height)
            left, top = (width - side) / 2, (height - side) / 2
            square = image.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
    except FileNotFoundError as error:
        raise DataError(f"{name}: no such file") from error
    except MemoryError:
        raise
    except Image.UnidentifiedImageError as error:
        raise DataError(f"{name}: is not an image that can be read") from error
    except Exception as error:  # decoders of damaged files raise nearly anything: OSError, SyntaxError, struct.error, …
        raise DataError(f"{name}: is not an image that can be read: {' '.join(str(error).split())}") from error
    pixels = np.asarray(square)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)) if channels == 3 else pixels[None]


def _upright(image):
    """Turned as its EXIF orientation says. Cameras' EXIF is often malformed while the pixels are fine: then as stored."""
    try:
        return ImageOps.exif_transpose(image)
    except (SyntaxError, TypeError, ValueError, KeyError, ZeroDivisionError, struct.error):
        return image

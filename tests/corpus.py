"""Odd and damaged image files, made from scratch: what a folder of photographs from the web may hold.

`kinds()` makes them, `write` puts them into class folders. Run as a program, `python -m tests.corpus FOLDER` loads each file
of such a folder and prints what became of it, so that a crash, a hang or spent memory shows in a process of its own.
"""
import faulthandler
import functools
import gzip
import io
import json
import os
import pickle
import re
import resource
import struct
import sys
import time
import zipfile
import zlib
from collections import namedtuple
from pathlib import Path

import numpy as np
from PIL import Image, TiffImagePlugin

from data.errors import DataError
from data.sources.image import load_image
from tests.surgery import change, frame, join, jpeg, png, put, save, segments, with_segment

Kind = namedtuple("Kind", "name data expect")
Kind.__doc__ = """A file: its name and bytes, and what must become of it.

expect: CONVERTED, REFUSED, or EITHER where it is the decoder's to say; or, for CONVERTED, the colours of the picture's
quadrants, top left, top right, bottom left, bottom right, as (4, 3).
"""
CONVERTED, REFUSED, EITHER = "converted", "refused", "either"

RED, GREEN, BLUE, SAND = (200, 40, 30), (30, 160, 60), (40, 60, 190), (220, 200, 120)
COLOURS = np.array([RED, GREEN, BLUE, SAND])
WHITE, SIZE = (255, 255, 255), 32


def picture(colours=COLOURS, width=48, height=36):
    """Four quadrants, RGB. Wider than high, so that a turned picture is seen by its size as well."""
    pixels = np.empty((height, width, 3), np.uint8)
    for quadrant, colour in enumerate(colours):
        rows, columns = (slice(0, height // 2), slice(height // 2, None)), (slice(0, width // 2), slice(width // 2, None))
        pixels[rows[quadrant // 2], columns[quadrant % 2]] = colour
    return Image.fromarray(pixels)


def grey(colours=COLOURS):
    """What colours look like without colour."""
    return (np.asarray(colours) @ (0.299, 0.587, 0.114)).round()[:, None].repeat(3, axis=1)


def ycck():
    """A YCCK JPEG as Photoshop writes it. Pillow writes CMYK only, so: channels chosen such that what it stores is Y Cb Cr of
    the ink and the inverted black, and the Adobe marker's transform then says so."""
    ink = 255 - np.asarray(picture())
    stored = np.asarray(Image.fromarray(ink).convert("YCbCr"))
    black = np.full((*ink.shape[:2], 1), 255, np.uint8)
    data = jpeg(Image.fromarray(255 - np.concatenate([stored, black], axis=2), mode="CMYK"))
    return change(data, lambda marker, payload: payload[:11] + b"\2" if marker == 0xEE else payload)


def sixteen_bit_png(alpha=False):
    """48 or 64 bits a pixel, which Pillow does not write. The low byte is noise; the alpha's left half is transparent."""
    values = np.asarray(picture()).astype(np.uint16) * 256 + 99
    if alpha:
        opaque = np.broadcast_to(np.where(np.arange(48) < 24, 0, 65535).astype(np.uint16)[None, :, None], (36, 48, 1))
        values = np.concatenate([values, opaque], axis=2)
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in values)
    return png(48, 36, 16, 6 if alpha else 2, lines)


def transparent(mode="RGBA"):
    """The picture with its left half transparent."""
    image = picture().convert("RGBA")
    image.putalpha(Image.fromarray(np.broadcast_to(np.where(np.arange(48) < 24, 0, 255).astype(np.uint8), (36, 48)).copy()))
    return image.convert(mode)


def oriented(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def jpegs():
    good, exif = jpeg(picture()), b"Exif\0\0II*\0"
    progressive, cmyk = jpeg(picture(), progressive=True), jpeg(picture().convert("CMYK"))
    scan = segments(progressive)[-1][1]
    last = scan[scan.rindex(b"\xff\xda"):-2]
    yield "plain.jpg", good, COLOURS
    yield "UPPER.JPEG", good, COLOURS
    yield "progressive.jpg", progressive, COLOURS
    yield "halved colour.jpg", save(picture(), "JPEG", quality=95, subsampling=2), COLOURS
    yield "restarts.jpg", jpeg(picture(), restart_marker_blocks=1), COLOURS
    yield "grey.jpg", jpeg(picture().convert("L")), grey()
    yield "stored as rgb.jpg", jpeg(picture(), keep_rgb=True), COLOURS
    yield "cmyk.jpg", cmyk, COLOURS
    yield "ycck.jpg", ycck(), COLOURS
    yield "cmyk without adobe.jpg", change(cmyk, lambda marker, payload: None if marker == 0xEE else payload), COLOURS
    for k in range(1, 9):
        yield f"orientation {k}.jpg", jpeg(picture(), exif=oriented(k)), COLOURS
    yield "exif of garbage.jpg", with_segment(good, 0xE1, exif + bytes(range(200))), COLOURS
    yield "exif that ends nowhere.jpg", with_segment(good, 0xE1, exif + b"\xf0\xff\xff\xff"), COLOURS
    yield "exif promising 65535 tags.jpg", with_segment(good, 0xE1, exif + b"\x08\0\0\0\xff\xff" + bytes(40)), COLOURS
    yield "colour profile of garbage.jpg", with_segment(good, 0xE2, b"ICC_PROFILE\0\1\1" + b"?" * 99), COLOURS
    yield "fifty comments.jpg", join([*((0xFE, b"c" * 60_000) for _ in range(50)), *segments(good)]), COLOURS
    yield "more after its end.jpg", good + b"<html>" * 500, COLOURS
    yield "two in one.jpg", good + jpeg(picture(COLOURS[::-1])), COLOURS
    yield "two frames.mpo.jpg", save(picture(), "MPO", save_all=True, quality=95,
                                     append_images=[picture(COLOURS[::-1])]), COLOURS
    yield "mpo of garbage.jpg", with_segment(good, 0xE2, b"MPF\0II*\0\x08\0\0\0\x03\0" + b"\xff" * 60), COLOURS
    yield "fill bytes.jpg", good[:2] + b"\xff" * 300 + good[2:], COLOURS
    yield "one pixel.jpg", jpeg(picture().resize((1, 1))), CONVERTED
    yield "one pixel high.jpg", jpeg(picture().resize((3000, 1))), CONVERTED
    yield "one pixel wide.jpg", jpeg(picture().resize((1, 3000))), CONVERTED
    yield "60 million pixels.jpg", save(Image.new("L", (10000, 6000), 77), "JPEG", quality=30), [[77] * 3] * 4
    yield "a thousand scans.jpg", join([*segments(progressive)[:-1], (0, scan[:-2] + last * 1000 + b"\xff\xd9")]), EITHER
    yield "no end marker.jpg", good[:-2], EITHER
    yield "scan of zeros.jpg", put(good, len(good) - 300, bytes(298)), EITHER
    yield "no huffman tables.jpg", change(good, lambda marker, payload: None if marker == 0xC4 else payload), EITHER
    yield "no quantisation tables.jpg", change(good, lambda marker, payload: None if marker == 0xDB else payload), REFUSED
    yield "arithmetic.jpg", good.replace(b"\xff\xc0", b"\xff\xc9", 1), EITHER
    yield "lossless.jpg", good.replace(b"\xff\xc0", b"\xff\xc3", 1), REFUSED
    yield "half of it.jpg", good[:len(good) // 2], REFUSED
    yield "header only.jpg", good[:20], REFUSED
    yield "no width.jpg", frame(good, 3, b"\0\0"), REFUSED
    yield "no height.jpg", frame(good, 1, b"\0\0"), REFUSED
    yield "65500 by 65500.jpg", frame(good, 1, struct.pack(">HH", 65500, 65500)), REFUSED
    yield "20000 by 20000.jpg", frame(good, 1, struct.pack(">HH", 20000, 20000)), REFUSED
    yield "10000 by 6700, progressive.jpg", frame(progressive, 1, struct.pack(">HH", 10000, 6700)), EITHER
    yield "12 bits.jpg", frame(good, 0, b"\x0c"), REFUSED
    yield "five components.jpg", frame(good, 5, b"\5"), REFUSED


def pngs():
    good, palette = save(picture(), "PNG"), picture().quantize(256)
    yield "plain.png", good, COLOURS
    yield "really a png.JPEG", good, COLOURS
    yield "really a jpeg.png", jpeg(picture()), COLOURS
    yield "grey.png", save(picture().convert("L"), "PNG"), grey()
    yield "palette.png", save(palette, "PNG"), COLOURS
    yield "palette of two.png", save(picture([RED, RED, SAND, SAND]).quantize(2), "PNG", bits=1), [RED, RED, SAND, SAND]
    yield "black and white.png", save(picture([WHITE, WHITE, (0,) * 3, WHITE]).convert("1"), "PNG"), [
        WHITE, WHITE, (0,) * 3, WHITE]
    yield "alpha.png", save(transparent(), "PNG"), [WHITE, GREEN, WHITE, SAND]
    yield "grey alpha.png", save(transparent("LA"), "PNG"), [WHITE, grey()[1], WHITE, grey()[3]]
    yield "palette alpha.png", save(transparent().quantize(256), "PNG"), [WHITE, GREEN, WHITE, SAND]
    yield "a transparent colour.png", save(picture(), "PNG", transparency=BLUE), [RED, GREEN, WHITE, SAND]
    yield "a transparent grey.png", save(picture([(9,) * 3, *COLOURS[1:]]).convert("L"), "PNG", transparency=9), [
        WHITE, *grey()[1:]]
    yield "16 bits grey.png", save(Image.fromarray(np.asarray(picture().convert("L")).astype(np.uint16) * 257), "PNG"), grey()
    yield "16 bits colour.png", sixteen_bit_png(), COLOURS
    yield "16 bits alpha.png", sixteen_bit_png(alpha=True), [WHITE, GREEN, WHITE, SAND]
    yield "animated.png", save(picture(), "PNG", save_all=True, append_images=[picture(COLOURS[::-1])]), COLOURS
    yield "orientation 6.png", save(picture(), "PNG", exif=oriented(6)), COLOURS
    yield "16 million pixels.png", png(4000, 4000, 1, 0, bytes(501 * 4000)), [[0] * 3] * 4
    yield "20000 by 20000.png", png(20000, 20000, 1, 0, bytes(2501 * 20)), REFUSED
    yield "36 million pixels.png", png(6000, 6000, 1, 0, bytes(751 * 6000)), REFUSED
    yield "no width.png", png(0, 9, 8, 2, bytes(9)), REFUSED
    text = b"a\0\0" + zlib.compress(bytes(99 << 20))
    yield "compressed text of 99 MB.png", png(48, 36, 8, 0, bytes(49 * 36), [(b"zTXt", text)]), EITHER
    yield "no palette.png", png(48, 36, 8, 3, bytes(49 * 36)), EITHER
    yield "damaged header.png", put(good, 18, b"\xff"), REFUSED
    yield "damaged data.png", put(good, good.index(b"IDAT") + 20, bytes(20)), REFUSED
    yield "garbage for data.png", good[:good.index(b"IDAT") + 4] + bytes(range(100)), REFUSED
    yield "half of it.png", good[:len(good) // 2], REFUSED
    yield "no end.png", good[:-12], EITHER


def gifs():
    good = save(picture().quantize(256), "GIF")
    small = save(picture().crop((12, 9, 36, 27)).quantize(256), "GIF")
    canvas = put(small, 6, struct.pack("<HH", 48, 36))
    place = canvas.index(b"\x2c\0\0\0\0") + 1  # where on its canvas the frame lies
    yield "plain.gif", good, COLOURS
    yield "really a gif.JPEG", good, COLOURS
    yield "animated.gif", save(picture(), "GIF", save_all=True, append_images=[picture(COLOURS[::-1])]), COLOURS
    yield "transparent.gif", save(transparent(), "GIF"), [WHITE, GREEN, WHITE, SAND]
    yield "smaller than its canvas.gif", put(canvas, place, struct.pack("<HH", 12, 9)), CONVERTED
    yield "outside its canvas.gif", put(canvas, place, struct.pack("<HH", 60000, 60000)), EITHER
    yield "65535 by 65535.gif", put(good, 6, b"\xff" * 4), REFUSED
    yield "half of it.gif", good[:len(good) // 2], REFUSED
    yield "no frame.gif", good[:13], REFUSED


def others():
    bmp, webp = save(picture(), "BMP"), save(picture(), "WEBP", quality=95)
    yield "plain.bmp", bmp, COLOURS
    yield "palette.bmp", save(picture().quantize(16), "BMP"), COLOURS
    yield "top line first.bmp", put(bmp, 22, struct.pack("<i", -36)), COLOURS[[2, 3, 0, 1]]
    yield "20000 by 20000.bmp", put(bmp, 18, struct.pack("<ii", 20000, 20000)), REFUSED
    yield "half of it.bmp", bmp[:len(bmp) // 2], REFUSED
    yield "no such compression.bmp", put(bmp, 30, b"\x63"), REFUSED
    yield "plain.webp", webp, COLOURS
    yield "alpha.webp", save(transparent(), "WEBP", lossless=True), [WHITE, GREEN, WHITE, SAND]
    yield "animated.webp", save(picture(), "WEBP", save_all=True, quality=95, append_images=[picture(COLOURS[::-1])]), COLOURS
    yield "half of it.webp", webp[:len(webp) // 2], REFUSED
    pixels = np.asarray(picture())
    yield "plain.ppm", save(picture(), "PPM"), COLOURS
    yield "in words.ppm", f"P3 48 36 255\n{' '.join(map(str, pixels.ravel().tolist()))}\n".encode(), COLOURS
    yield "16 bits.pgm", b"P5 48 36 65535\n" + (np.asarray(picture().convert("L")).astype(">u2") * 257).tobytes(), grey()
    yield "floats.ppm", b"PF 48 36 -1.0\n" + pixels.astype("<f4").tobytes(), EITHER
    yield "20000 by 20000.ppm", b"P6 20000 20000 255\n" + bytes(99), REFUSED
    yield "a negative width.ppm", b"P6 -48 36 255\n" + pixels.tobytes(), REFUSED
    yield "half of it.ppm", save(picture(), "PPM")[:2000], REFUSED


def tiffs():
    good, one = save(picture(), "TIFF"), np.asarray(picture().convert("L"))
    ramp = (one - one.min()) * (255 / np.ptp(one))  # what stretching makes of values without a range of their own
    stretched = [[ramp[y, x]] * 3 for y in (5, 30) for x in (10, 40)]
    directory = int.from_bytes(good[4:8], "little")
    orientation = TiffImagePlugin.ImageFileDirectory_v2()
    orientation[0x0112] = 3
    yield "plain.tif", good, COLOURS
    yield "lzw.tif", save(picture(), "TIFF", compression="tiff_lzw"), COLOURS
    yield "jpeg inside.tif", save(picture(), "TIFF", compression="jpeg", quality=95), COLOURS
    yield "cmyk.tif", save(picture().convert("CMYK"), "TIFF"), COLOURS
    yield "alpha.tif", save(transparent(), "TIFF"), [WHITE, GREEN, WHITE, SAND]
    yield "two pages.tif", save(picture(), "TIFF", save_all=True, append_images=[picture(COLOURS[::-1])]), COLOURS
    yield "turned.tif", save(picture(), "TIFF", tiffinfo=orientation), COLOURS[::-1]
    yield "16 bits.tif", save(Image.fromarray(one.astype(np.uint16) * 257), "TIFF"), grey()
    yield "32 bits.tif", save(Image.fromarray(one.astype(np.int32) * 1_000_000 - 5), "TIFF"), stretched
    yield "floats.tif", save(Image.fromarray(one.astype(np.float32) / 255), "TIFF"), stretched
    yield "one float everywhere.tif", save(Image.fromarray(np.full((9, 9), 0.5, np.float32)), "TIFF"), [[0] * 3] * 4
    yield "not a number.tif", save(Image.fromarray(np.full((9, 9), np.nan, np.float32)), "TIFF"), REFUSED
    yield "a directory at its own start.tif", put(good, 4, b"\0\0\0\0"), REFUSED
    yield "a directory beyond its end.tif", put(good, 4, b"\xff\xff\xff\x7f"), REFUSED
    yield "directories in a circle.tif", good[:-4] + struct.pack("<I", directory), EITHER
    yield "half of it.tif", good[:len(good) // 2], REFUSED


def no_images():
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.jpg", jpeg(picture()))
    yield "empty.jpg", b"", REFUSED
    yield "one byte.jpg", b"\xff", REFUSED
    yield "text.jpg", "Grüße\n".encode() * 99, REFUSED
    yield "not found.jpg", b"<!DOCTYPE html><html><title>404 Not Found</title></html>", REFUSED
    yield "gzip.jpg", gzip.compress(b"no image"), REFUSED  # but prepare takes a gzipped JPEG: ILSVRC-2010 has one
    yield "zip.jpg", archive.getvalue(), REFUSED
    yield "pickle.jpg", pickle.dumps({"a": [1, 2]}), REFUSED
    yield "document.pdf.jpg", b"%PDF-1.4\n" + bytes(500), REFUSED
    yield "a program.eps.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(hello) print\n%%EOF\n", REFUSED
    yield "drawing.svg.jpg", b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>", REFUSED
    yield "iphone.heic.jpg", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(400), REFUSED
    yield "hdf5.jpg", b"\x89HDF\r\n\x1a\n" + bytes(500), REFUSED
    yield "a megabyte of zeros.jpg", bytes(1 << 20), REFUSED
    yield "a megabyte of ones.jpg", b"\xff" * (1 << 20), REFUSED
    yield "noise.jpg", np.random.default_rng(1).bytes(5000), REFUSED
    yield "jpeg's first bytes, then zeros.jpg", b"\xff\xd8\xff" + bytes(1 << 20), REFUSED


def names():
    """Good pictures with names in any script."""
    for name in ("写真", "фотография", "صورة", "תמונה", "भारत", "e\u0301tat", "📷", "a 'quoted' \"name\"", "-rf", "$HOME `x`",
                 "two\nlines", "x" * 245, "%s%d{0}", "two..dots", "\x1b[31mred"):
        yield f"{name}.jpg", jpeg(picture()), COLOURS
    if sys.platform == "linux":  # elsewhere names are Unicode
        yield os.fsdecode(b"latin-1 caf\xe9.jpg"), jpeg(picture()), COLOURS


def fuzzed(each=5):
    """Good files with a few bytes changed: half of the time in the header, seeded."""
    rng = np.random.default_rng(2012)
    good = {"jpg": jpeg(picture()), "progressive.jpg": jpeg(picture(), progressive=True), "png": save(picture(), "PNG"),
            "cmyk.jpg": jpeg(picture().convert("CMYK")), "gif": save(picture().quantize(64), "GIF"),
            "bmp": save(picture(), "BMP"), "webp": save(picture(), "WEBP"), "tif": save(picture(), "TIFF"),
            "lzw.tif": save(picture(), "TIFF", compression="tiff_lzw"), "ppm": save(picture(), "PPM")}
    for suffix, data in good.items():
        for k in range(each):
            changed = np.frombuffer(data, np.uint8).copy()
            places = rng.integers(4, len(data) if k % 2 else min(len(data), 300), size=1 + 4 * k)
            changed[places] = rng.integers(0, 256, size=len(places))
            yield f"fuzzed {k}.{suffix}", changed.tobytes(), EITHER


@functools.cache
def kinds():
    """All of them, as a list of Kind, always the same."""
    makers = jpegs, pngs, gifs, others, tiffs, no_images, names, fuzzed
    return [Kind(*fields) for maker in makers for fields in maker()]


def write(root, classes=("cat", "dog")):
    """Write every kind to root/CLASS/NAME, the classes in turn. Returns {path as str: Kind}."""
    paths = {}
    for name in classes:
        os.makedirs(Path(root) / name)
    for k, kind in enumerate(kinds()):
        path = Path(root) / classes[k % len(classes)] / kind.name
        path.write_bytes(kind.data)
        paths[str(path)] = kind
    return paths


def quadrants(image):
    """The colours (4, 3) in the middle of the four quadrants of an image (3, H, W)."""
    height, width = image.shape[1:]
    return np.array([image[:, y * height // 8, x * width // 8] for y in (2, 6) for x in (2, 6)])


def report(root):
    """Load each file below `root` and print a line of JSON on it; the last line has the most memory ever used, in MB."""
    faulthandler.enable()
    for folder, _, files in os.walk(root):
        for name in sorted(files):
            path, start = os.path.join(folder, name), time.monotonic()
            faulthandler.dump_traceback_later(60, exit=True)  # where it hangs
            try:
                image = load_image(path, SIZE)
                result = {"shape": image.shape, "dtype": image.dtype.name, "quadrants": quadrants(image).tolist()}
            except DataError as error:
                result = {"error": str(error)}
            print(json.dumps({"path": path, "seconds": time.monotonic() - start, **result}), flush=True)
    print(json.dumps({"megabytes": peak_megabytes()}))


def peak_megabytes():
    """The most memory that this process ever used."""
    if sys.platform == "linux":  # where getrusage also counts what the parent had used
        return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # bytes on macOS


if __name__ == "__main__":
    report(sys.argv[1])

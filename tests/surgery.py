"""Files of images made, taken apart and put together again, byte by byte, as no library would."""
import functools
import io
import struct
import zlib


def save(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


jpeg = functools.partial(save, kind="JPEG", quality=95, subsampling=0)


def segments(data):
    """A JPEG taken apart: [(marker, payload)], the scan and all that follows it as the payload of marker 0."""
    parts, place = [], 2
    while data[place + 1] != 0xDA:
        length = int.from_bytes(data[place + 2:place + 4], "big")
        parts.append((data[place + 1], data[place + 4:place + 2 + length]))
        place += 2 + length
    return [*parts, (0, data[place:])]


def join(parts):
    return b"\xff\xd8" + b"".join(payload if marker == 0 else struct.pack(">BBH", 255, marker, len(payload) + 2) + payload
                                  for marker, payload in parts)


def change(data, change_one):
    """A JPEG with each segment replaced by change_one(marker, payload): another payload, or None to leave it out."""
    changed = [(marker, change_one(marker, payload)) for marker, payload in segments(data)]
    return join([(marker, payload) for marker, payload in changed if payload is not None])


def put(data, place, value):
    """Bytes with `value` written over those at `place`."""
    return data[:place] + value + data[place + len(value):]


def frame(data, place, value):
    """A JPEG with bytes of its frame header replaced: 0 precision, 1 height, 3 width, 5 number of components."""
    return change(data, lambda marker, payload: put(payload, place, value) if marker in (0xC0, 0xC2) else payload)


def with_segment(data, marker, payload):
    return join([(marker, payload), *segments(data)])


def png(width, height, depth, colour, raw, extra=()):
    """A PNG from its parts: bit depth, colour type, raw lines (each with its filter byte), extra (name, payload) chunks."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), *extra, (b"IDAT", zlib.compress(raw, 9)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(payload)) + name + payload + struct.pack(">I", zlib.crc32(name + payload))
        for name, payload in chunks)

"""Images of any kind → one data set file. `prepare` looks at the source and picks the way."""

import hashlib
import io
import os
import shutil
import sys
from collections import deque, namedtuple
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import PIL
from PIL import Image
from tqdm import tqdm

from data.errors import DataError
from data.sources.cifar import find_cifar, read_cifar
from data.sources.encoded import SourceError, as_text
from data.sources.folders import OTHER, by_reason, leave_out, list_beside
from data.sources.idx import choose_names, find_idx, first_label, read_pair
from data.sources.image import load_image
from data.sources.recognise import list_source
from data.sources.split import stratified_split
from data.store.begun import as_begun, keep_listing
from data.store.moments import Statistics
from data.store.part import STORES, Part
from data.store.skipped import list_skipped, skipped_path
from data.store.writer import Writer

PIECE = 16  # images that a worker prepares at a time: 3 MB of pixels
QUALITY = 95  # of the JPEGs of a jpeg store
JPEG_SHARE = 0.25  # of the raw pixels' bytes, at most, that a photograph's JPEG is reckoned to take

Prepared = namedtuple("Prepared", "out images skipped left_out")
Prepared.__doc__ = """out: path; images: how many there are in the file; skipped: how many could not be
converted; left_out: {reason: count} of all that was found and is not in the file, these among them."""


def prepare(source, out, *, size=256, store="raw", val_fraction=0.1, val=5000, seed=0, workers=None,
            class_names=None):
    """Make the data set `out` from what `source` holds: images (prepare_images), CIFAR-10 or IDX files.
    Returns Prepared.

    size, store, val_fraction, workers: of images (prepare_images); val, class_names: of IDX files and
    CIFAR-10 (prepare_arrays). Raises DataError if the source is none of these, or is not in order.
    """
    if not os.path.exists(source):
        raise DataError(f"{source}: no such folder")
    cifar = find_cifar(source)
    if not cifar and not os.path.isdir(source):
        raise DataError(f"{source}: is a file, not a folder of images; give the folder that holds the "
                        "archives")
    if cifar or find_idx(source):
        if store != "raw":
            raise DataError(f"{source}: images as small as these are stored raw; leave out --store {store}")
        return prepare_arrays(source, out, val=val, seed=seed, class_names=class_names)
    return prepare_images(source, out, size=size, store=store, val_fraction=val_fraction, seed=seed,
                          workers=workers)


def prepare_arrays(source, out, *, val=5000, seed=0, class_names=None):
    """MNIST, Fashion-MNIST, EMNIST (IDX files, gzipped or not) or CIFAR-10 (binary) → `out`, at their own
    size. Returns Prepared. Labels that count from 1 are stored from 0 (first_label).

    `val` images are split off the training files, stratified and seeded; the test files stay the split
    "test". class_names: list of str; by default CIFAR-10's own,
    the clothes if the folder's name contains "fashion", or the numbers that the labels are.
    """
    found, names, left_out, what = _read_arrays(source)
    names = class_names or names
    left_out = _without_own(left_out, _folder(source), out)
    images, labels = found["train"]
    rest, chosen = stratified_split(labels, val, seed)
    parts = {"train": (images[rest], labels[rest]), "val": (images[chosen], labels[chosen])}
    if "test" in found:
        parts["test"] = found["test"]
        if parts["test"][0].shape[1:] != images.shape[1:]:
            raise DataError(f"{source}: the test images are {parts['test'][0].shape[1:]} (C, H, W), "
                            f"the training images {images.shape[1:]}")
    every = np.concatenate([part[1] for part in parts.values()])
    names, first = choose_names(source, every, names), first_label(every, names)
    folder = as_text(os.path.basename(os.path.abspath(source)))
    how = f"{what} in {folder}; {val} of the training images for validation, seed {seed}"
    with Writer(out, names, images.shape[1:], source=how) as writer:
        for name, (pixels, numbers) in parts.items():
            writer.add_split(name, numbers - first)
            writer.write(name, 0, pixels)
        writer.set_statistics(Statistics(parts["train"][0]))
        try:
            list_skipped(out, f"{writer.temporary}.skipped", {}, left_out)
        except OSError as error:
            raise DataError(f"{skipped_path(out)}: cannot be written: {error.strerror}; mend that, and give "
                            "the same command again") from error
    return Prepared(out, len(every), 0, by_reason(reason for _, reason in left_out))


def _read_arrays(source):
    """CIFAR-10 or the IDX files in `source`: ({"train" and perhaps "test": (images uint8 (N, C, H, W),
    labels uint8 (N,))}, names of the classes or None, [(path, reason)] of all else, what it is)."""
    cifar, root = find_cifar(source), _folder(source)
    if cifar:
        found, names, others = read_cifar(cifar)
        left_out = [] if cifar == source else list_beside(source, [cifar])
        for name in others:
            leave_out(root, os.path.join(os.path.relpath(cifar, root), name), OTHER, left_out)
        return found, names, left_out, "CIFAR-10"
    files = find_idx(source)
    if "train" not in files:
        raise DataError(f"{source}: has no train-images-idx3-ubyte[.gz] with its "
                        "train-labels-idx1-ubyte[.gz]")
    left_out = list_beside(source, [path for pair in files.values() for path in pair])
    return {name: read_pair(*paths) for name, paths in files.items()}, None, left_out, "IDX files"


def _folder(source):
    """`source`, or where it lies, if it is an archive."""
    return source if os.path.isdir(source) else os.path.dirname(os.path.abspath(source))


def prepare_images(source, out, *, size=256, store="raw", val_fraction=0.1, seed=0, workers=None):
    """Images in class folders or tars, ILSVRC as downloaded (list_source) → `out`: RGB, size×size.
    Returns Prepared.

    store: "raw" pixels, or "jpeg", those of quality 95; mean and colours are of the pixels before that.
    workers: threads, one per core by default (Pillow decodes and scales outside the interpreter's lock);
    the file does not depend on them. Killed at any moment, the same call goes on where it was
    (data/store/part.py). Images that cannot be converted, and whatever else was found and is not in the file,
    are listed in OUT.skipped.jsonl (list_skipped).
    """
    if size < 1:
        raise DataError(f"{source}: images of size {size} cannot be made; size must be at least 1")
    if store not in STORES:
        raise DataError(f"there is no store '{store}'; there are {', '.join(STORES)}")
    try:
        listing = list_source(source, val_fraction, seed)
    except OSError as error:
        raise DataError(f"{error.filename or source}: cannot be read: {error.strerror or error}") from error
    left_out = _without_own(listing.left_out, source, out)
    listing = as_begun(f"{os.path.realpath(out)}.part", listing, _identity(listing))
    workers = workers or os.cpu_count()
    how = f"{listing.how}; shorter side to {size}, central square"
    if store == "jpeg":
        how += f", JPEG quality {QUALITY}"
    job = {"size": size, "store": store, "version of Pillow": PIL.__version__, "source": how,
           "set of images": _identity(listing)}
    with Part(out, job, store, (3, size, size)) as part, ThreadPoolExecutor(workers) as pool:
        _check_space(part, listing)
        if not part.splits:
            keep_listing(part, listing, job["set of images"])
        done = sum(part.handled(name) for name in listing.parts)
        if done:
            print(f"{out}: going on after {done:,} images", file=sys.stderr)
        for name, (images, _) in listing.parts.items():
            part.begin(name)
            _convert(part, name, images, pool, workers + 4)
            if not part.stored(name):
                first = part.skipped(name)[0]
                part.discard()
                raise DataError(f"{source}: none of the {len(images)} images of '{name}' can be converted, "
                                f"first {first[1]}: {first[2]}")
        part.finish(listing.classes, {name: labels for name, (_, labels) in listing.parts.items()}, how,
                    left_out, listing.synsets)
        reasons = [reason for _, _, reason in part.skipped()] + [reason for _, reason in left_out]
        return Prepared(out, sum(part.stored(name) for name in listing.parts), len(part.skipped()),
                        by_reason(reasons))


def _without_own(left_out, source, out):
    """Of what is left out, [(path, reason)], all but the files that `prepare` itself makes for `out`."""
    own = tuple(as_text(os.path.relpath(path, source)) for path in (out, skipped_path(out), f"{out}.part/"))
    return [entry for entry in left_out if entry[0] not in own[:2] and not entry[0].startswith(f"{own[2]}/")]


def _identity(listing):
    """What tells this set of images and labels from others, as text."""
    digest = hashlib.sha256("\n".join(listing.classes).encode())
    for name, (images, labels) in listing.parts.items():
        digest.update(name.encode() + labels.tobytes())
        images.identify(digest)
    return digest.hexdigest()[:16]


def _check_space(part, listing):
    image = int(np.prod(part.shape)) * (1 if part.store == "raw" else JPEG_SHARE)
    need = sum((len(images) - part.handled(name)) * image for name, (images, _) in listing.parts.items())
    free = shutil.disk_usage(part.folder).free
    if need > free:
        raise DataError(f"{part.out}: needs {need / 1e9:.1f} GB, "
                        f"{os.path.dirname(os.path.abspath(part.out))} has {free / 1e9:.1f} GB free")


def _convert(part, name, images, pool, ahead):
    """Convert the images of a split that are still to do, in order, `ahead` pieces at most in memory."""
    begin, pending = part.handled(name), deque()
    starts = iter(range(begin, len(images), PIECE))
    with tqdm(total=len(images), initial=begin, desc=name, unit=" images") as progress:
        try:
            for start in range(begin, len(images), PIECE):
                while len(pending) < ahead and (following := next(starts, None)) is not None:
                    pending.append(pool.submit(_piece, images, following, part.shape[1], part.store,
                                               name == "train"))
                part.append(*pending.popleft().result())
                progress.update(min(PIECE, len(images) - start))
        finally:
            for future in pending:  # after an error; otherwise there are none left
                future.cancel()


def _piece(images, start, size, store, sums):
    """Images start, start + 1, … up to PIECE of them: the arguments of Part.append."""
    stop = min(start + PIECE, len(images))
    pixels, skipped = np.empty((stop - start, 3, size, size), np.uint8), []
    for index in range(start, stop):
        try:
            encoded = io.BytesIO(images.read(index))
            pixels[index - start - len(skipped)] = load_image(encoded, size, name="image")
        except SourceError:
            raise  # not the image's fault
        except DataError as error:
            skipped.append([index, str(images.names[index]), str(error).removeprefix("image: ")])
    pixels = pixels[:len(pixels) - len(skipped)]
    statistics = Statistics(pixels) if sums else None
    if store == "raw":
        return pixels, [], skipped, stop - start, statistics
    encoded = [_jpeg(image) for image in pixels]
    return b"".join(encoded), [len(data) for data in encoded], skipped, stop - start, statistics


def _jpeg(pixels):
    """uint8 (3, H, W) → the bytes of a JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def synthetic(out, images=1000, classes=1000, size=256, seed=0):
    """Random noise shaped like ImageNet, for measuring speed:
    `images` for training, a twentieth more for validation."""
    generator = np.random.Generator(np.random.Philox(key=seed))
    if images < 1:
        raise DataError(f"{out}: a synthetic set needs at least 1 image, not {images}")
    source = f"synthetic noise, seed {seed}"
    with Writer(out, [f"class {k:04d}" for k in range(classes)], (3, size, size), source=source) as writer:
        for name, count in (("train", images), ("val", max(1, images // 20))):
            writer.add_split(name, generator.integers(classes, size=count))
            total = Statistics()
            for start in range(0, count, PIECE):
                shape = (min(PIECE, count - start), 3, size, size)
                block = np.frombuffer(generator.bytes(int(np.prod(shape))), np.uint8).reshape(shape)
                writer.write(name, start, block)
                if name == "train":
                    total += Statistics(block)
            if name == "train":
                writer.set_statistics(total)
    return out

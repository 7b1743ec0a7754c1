"""Images of any kind → one data set file. `prepare` looks at the source and picks the way."""

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from tqdm import tqdm

from data.dataset import DataError
from data.folders import list_folder
from data.idx import choose_names, find_idx, read_pair
from data.image import load_image
from data.moments import Statistics
from data.split import stratified_split
from data.writer import Writer

PIECE = 32  # images that a worker prepares at a time


def prepare(source, out, *, size=256, val_fraction=0.1, val=5000, seed=0, workers=None, class_names=None):
    """Make the data set `out` from the folder `source`, which holds IDX files or class folders. Returns `out`.

    size, val_fraction, workers: of class folders (prepare_folder); val, class_names: of IDX files (prepare_idx).
    Raises DataError if the source is neither, or is not in order.
    """
    if not os.path.isdir(source):
        raise DataError(f"{source}: {'is a file, not a folder of images' if os.path.exists(source) else 'no such folder'}")
    if find_idx(source):
        return prepare_idx(source, out, val=val, seed=seed, class_names=class_names)
    return prepare_folder(source, out, size=size, val_fraction=val_fraction, seed=seed, workers=workers)


def prepare_idx(source, out, *, val=5000, seed=0, class_names=None):
    """MNIST or Fashion-MNIST (IDX files, gzipped or not) → `out`, at their own size. Returns `out`.

    `val` images are split off the training files, stratified and seeded; the test files stay the split "test".
    class_names: list of str; by default the clothes if the folder's name contains "fashion", else the digits.
    """
    found = find_idx(source)
    if "train" not in found:
        raise DataError(f"{source}: has no train-images-idx3-ubyte[.gz] with its train-labels-idx1-ubyte[.gz]")
    images, labels = read_pair(*found["train"])
    rest, chosen = stratified_split(labels, val, seed)
    parts = {"train": (images[rest], labels[rest]), "val": (images[chosen], labels[chosen])}
    if "test" in found:
        parts["test"] = read_pair(*found["test"])
        if parts["test"][0].shape[1:] != images.shape[1:]:
            raise DataError(f"{source}: the test images are {parts['test'][0].shape[1:]} (C, H, W), "
                            f"the training images {images.shape[1:]}")
    names = choose_names(source, np.concatenate([part[1] for part in parts.values()]), class_names)
    how = f"IDX files in {_base(source)}; {val} of the training images for validation, seed {seed}"
    with Writer(out, names, images.shape[1:], source=how) as writer:
        for name, (pixels, numbers) in parts.items():
            writer.add_split(name, numbers)
            writer.write(name, 0, pixels)
        writer.set_statistics(Statistics(parts["train"][0]))
    return out


def prepare_folder(source, out, *, size=256, val_fraction=0.1, seed=0, workers=None):
    """Class folders of images → `out`: RGB, size×size, as load_image makes them. Returns `out`.

    source holds train/, and val/ and test/ if there are such splits, each with one folder per class; or the class
    folders themselves. Without val/, val_fraction of the training images becomes "val", stratified and seeded.
    Classes are numbered in the order of their sorted names, images stored in the order of classes and sorted paths.
    workers: threads, one per core by default; the file does not depend on them.
    """
    if size < 1:
        raise DataError(f"{source}: images of size {size} cannot be made; size must be at least 1")
    classes, parts = list_folder(source)
    if "val" not in parts:
        if not 0 < val_fraction < 1:
            raise DataError(f"{source}: has no val/, so val_fraction must lie between 0 and 1, not {val_fraction}")
        paths, labels = parts["train"]
        rest, chosen = stratified_split(labels, max(1, round(val_fraction * len(labels))), seed)
        parts = {**parts, "train": ([paths[i] for i in rest], labels[rest]),
                 "val": ([paths[i] for i in chosen], labels[chosen])}
    workers = workers or os.cpu_count()
    how = f"class folders in {_base(source)}, shorter side to {size}, central square, seed {seed}"
    with Writer(out, classes, (3, size, size), source=how) as writer, ThreadPoolExecutor(workers) as pool:
        for name, (_, labels) in parts.items():
            writer.add_split(name, labels)  # all of them first: too small a disk shows now and not in an hour
        for name, (paths, _) in parts.items():
            statistics = _write_images(writer, name, paths, size, pool, 2 * workers)
            if name == "train":
                writer.set_statistics(statistics)
    return out


def _write_images(writer, split, paths, size, pool, ahead):
    """Prepare and store the images of a split, `ahead` pieces at most in memory. Returns their Statistics."""
    def piece(start):
        images = np.stack([load_image(path, size) for path in paths[start:start + PIECE]])
        return images, Statistics(images) if split == "train" else Statistics()

    total, pending, starts = Statistics(), deque(), iter(range(0, len(paths), PIECE))
    with tqdm(total=len(paths), desc=split, unit=" images") as progress:
        try:
            for start in range(0, len(paths), PIECE):
                while len(pending) < ahead and (next_start := next(starts, None)) is not None:
                    pending.append(pool.submit(piece, next_start))
                images, statistics = pending.popleft().result()
                writer.write(split, start, images)
                total += statistics
                progress.update(len(images))
        finally:
            for future in pending:  # after an error; otherwise there are none left
                future.cancel()
    return total


def _base(path):
    return os.path.basename(os.path.abspath(path))


def synthetic(out, images=1000, classes=1000, size=256, seed=0):
    """Random noise shaped like ImageNet, for measuring speed: `images` for training, a twentieth more for validation."""
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

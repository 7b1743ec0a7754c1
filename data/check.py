"""Is a data set what it says? Its statistics recomputed, its classes counted,
its images compared with one another."""

import hashlib
import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from tqdm import tqdm

from data.errors import DataError
from data.store.pixels import JpegPixels

SAMPLE = 10_000  # training images that mean and colours are recomputed on; of smaller sets all
PIECE_BYTES = 4 << 20  # pixels that a thread reads at a time
# What may differ: five standard errors of the sample's mean (0 if the sample is the whole set),
# and this for rounding:
SIGMAS, MEAN_SLACK, COLOUR_SLACK = 5, 1e-3, 1e-4  # grey levels; share of the largest variance
# Of sets stored as JPEGs, whose statistics are those of the images before that, this:
# sharp edges of colour lose most.
JPEG_MEAN_SLACK, JPEG_COLOUR_SLACK = 4, 0.05
SHOWN = 5  # classes, unreadable images and the like that are named


class Findings:
    """What a check found: `facts`, `warnings` and `errors`, each a list of lines for people."""

    def __init__(self):
        self.facts, self.warnings, self.errors = [], [], []


def check(dataset, *, sample=SAMPLE, workers=None):
    """Look through all of an open Dataset, whose opening has checked its structure and labels.
    Returns Findings.

    Every image is read once, on `workers` threads (default: one a core), in bounded memory: 8 bytes an image
    are kept. sample: of how many training images, drawn at random with a fixed seed,
    to recompute mean and colours.
    """
    findings, hashes, moments = Findings(), [], None
    findings.facts += class_table(dataset)
    _class_names(dataset, findings)
    workers = workers or os.cpu_count()
    with ThreadPoolExecutor(workers) as pool:
        for name, split in dataset.splits.items():
            chosen = np.zeros(len(split), bool)
            if name == "train":
                chosen[np.random.default_rng(0).permutation(len(split))[:sample]] = True
            keys, total = _read(split, chosen, dataset.mean, pool, 2 * workers, findings)
            hashes.append(keys)
            moments = total if name == "train" else moments
    _copies(dataset, hashes, findings)
    _statistics(dataset, moments, findings)
    return findings


def class_table(dataset):
    """How many images the classes have, as lines; of more than 40 classes the smallest and the largest."""
    names, counts = dataset.classes, _counts(dataset)
    order = np.argsort(counts[:, 0], kind="stable")
    if len(names) <= 40:
        order, heading = np.arange(len(names)), "images of each class"
    else:
        order = np.concatenate([order[:SHOWN], order[-SHOWN:]])
        heading = f"images of the {SHOWN} smallest and the {SHOWN} largest of {len(names):,} training classes"
    rows = [(counts[k], f"{k} {names[k][:60]}") for k in order] + [(counts.sum(axis=0), "all")]
    return [f"{heading}:", "  " + "".join(f"{name:>12}" for name in dataset.splits),
            *("  " + "".join(f"{count:12,}" for count in row) + f"  {name}" for row, name in rows)]


def _counts(dataset):
    """Images of each class in each split, int (K, splits)."""
    return np.stack([np.bincount(split.labels, minlength=len(dataset.classes))
                     for split in dataset.splits.values()], axis=1)


def _class_names(dataset, findings):
    """Classes without training images, and names that several classes have."""
    names = dataset.classes
    empty = [names[k] for k in np.flatnonzero(_counts(dataset)[:, 0] == 0)]
    if empty:
        findings.warnings.append(f"{len(empty)} classes have no training images: {_some(empty)}")
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        findings.warnings.append(f"names of more than one class: {_some(twice)}")


def _some(things):
    return ", ".join(map(str, things[:SHOWN])) + (", …" if len(things) > SHOWN else "")


class _Moments:
    """Sums over the sample: count; total, squares int64 (C, H, W), of pixels and of their squares; second,
    fourth float64 (C, C), of each image's mean of (x − m)(x − m)ᵀ over its pixels and of that squared,
    m the set's mean colour."""

    def __init__(self, shape):
        self.count, self.total, self.squares = 0, np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        self.second, self.fourth = np.zeros((shape[0],) * 2), np.zeros((shape[0],) * 2)

    def add(self, image, centre):
        self.count += 1
        self.total += image
        self.squares += image.astype(np.uint16) ** 2
        x = image.reshape(len(image), -1) - centre
        # not @: threads run side by side, and BLAS would start more
        product = np.einsum("ip,jp->ij", x, x) / x.shape[1]
        self.second += product
        self.fourth += product**2

    def __iadd__(self, other):
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)
        return self


def _read(split, chosen, mean, pool, ahead, findings):
    """Every image of a split once: their hashes uint64 (N,) and the _Moments of the
    `chosen` ones (bool (N,))."""
    centre = mean.mean(axis=(1, 2), dtype=np.float64)[:, None]
    step = max(1, PIECE_BYTES // mean.size)

    def piece(start):
        hashes, moments, unreadable = [], _Moments(mean.shape), []
        for index, image in _images(split, np.arange(start, min(start + step, len(split))), unreadable):
            # One that cannot be read is a copy of no other: it gets a hash of its own.
            content = f"{split.name} {index}".encode() if image is None else image
            hashes.append(int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little"))
            if chosen[index] and image is not None:
                moments.add(image, centre)
        return hashes, moments, unreadable

    keys, total, bad, pending = [], _Moments(mean.shape), [], deque()
    with tqdm(total=len(split), desc=split.name, unit=" images") as progress:
        starts = iter(range(0, len(split), step))
        try:
            while len(keys) < len(split):
                while len(pending) < ahead and (start := next(starts, None)) is not None:
                    pending.append(pool.submit(piece, start))
                hashes, moments, unreadable = pending.popleft().result()
                keys += hashes
                total += moments
                bad += unreadable
                progress.update(len(hashes))
        finally:
            for future in pending:  # after Ctrl-C; otherwise there are none left
                future.cancel()
    if bad:
        findings.errors.append(f"{len(bad)} images of '{split.name}' cannot be read: {bad[0]}")
    return np.array(keys, np.uint64), total


def _images(split, indices, unreadable):
    """(index, image (C, H, W)) of each; the image is None, and the reason added to `unreadable`,
    if it cannot be read."""
    try:
        yield from zip(indices, split.read(indices), strict=True)
    except DataError:  # at least one of them: which?
        for index in indices:
            try:
                yield index, split.read([index])[0]
            except DataError as error:
                unreadable.append(str(error))
                yield index, None


def _copies(dataset, hashes, findings):
    """Images that are the same to the last pixel, each counted against the first of its kind."""
    names = list(dataset.splits)  # the training set first
    keys, part = np.concatenate(hashes), np.repeat(np.arange(len(names)), [len(h) for h in hashes])
    index = np.concatenate([np.arange(len(h)) for h in hashes])
    labels = np.concatenate([split.labels for split in dataset.splits.values()])
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    first = first[group]  # of each image, where its like is seen first
    copies = first != np.arange(len(keys))
    for later, name in enumerate(names):
        for earlier, other in enumerate(names[:later + 1]):
            found = np.flatnonzero(copies & (part == later) & (part[first] == earlier))
            if len(found):
                one, like = found[0], first[found[0]]
                elsewhere = int((labels[found] != labels[first[found]]).sum())
                findings.warnings.append(
                    f"{len(found):,} of {len(hashes[later]):,} images of '{name}' are copies of "
                    + (f"others in '{name}'" if later == earlier else f"images of '{other}'")
                    + f", {elsewhere:,} of them in another class; the first: {name} {index[one]} is {other} "
                      f"{index[like]}")
    findings.facts.append(f"copies: {copies.sum():,} of {len(keys):,} images, compared by a hash of their "
                          "pixels")


def _statistics(dataset, moments, findings):
    """The stored mean image and principal components against those of the sample."""
    n, size = moments.count, len(dataset.split("train"))
    if n == 0:
        return  # none could be read, which has been said
    error_scale = SIGMAS * np.sqrt((1 - n / size) / n)
    of = f"of all {n:,} training images" if n == size else f"of {n:,} of {size:,} training images"
    mean, mean_slack, colour_slack = moments.total / n, MEAN_SLACK, COLOUR_SLACK
    if isinstance(dataset.split("train").pixels, JpegPixels):
        mean_slack, colour_slack = JPEG_MEAN_SLACK, JPEG_COLOUR_SLACK
    difference = np.sqrt(np.mean((mean - dataset.mean) ** 2))
    allowed = mean_slack + error_scale * np.sqrt(np.mean(moments.squares / n - mean**2).clip(0))
    _compare(findings, f"mean image {of}", difference, allowed, "grey levels (root mean square)")
    if dataset.pca is None:
        return
    std, vectors = dataset.pca
    off = np.abs(vectors.T @ vectors - np.eye(3)).max()
    if not off <= 1e-6 or not (np.isfinite(std).all() and (std >= 0).all() and (np.diff(std) <= 0).all()):
        findings.errors.append("/pca must hold orthonormal vectors and descending std, not "
                               f"{vectors.tolist()}, {std.tolist()}")
        return
    second = moments.second / n
    spread = np.sqrt((moments.fourth / n - second**2).clip(0))
    difference = np.abs(second - (vectors * std**2) @ vectors.T)
    allowed = colour_slack * np.diag(second).max() + error_scale * spread
    worst = np.unravel_index((difference - allowed).argmax(), difference.shape)
    _compare(findings, f"covariance of colours {of}", difference[worst], allowed[worst],
             f"at worst, of variances up to {np.diag(second).max():.0f}")


def _compare(findings, what, difference, allowed, unit):
    line = f"{what}: differs from the stored one by {difference:.4g} {unit}; allowed {allowed:.4g}"
    if difference <= allowed:
        findings.facts.append(line)
    else:
        findings.errors.append(line)

"""A seeded, stratified choice of validation images."""

import numpy as np

from data.errors import DataError


def stratified_split(labels, count, seed=0):
    """Choose `count` of the N images so that every class keeps its share.
    Returns (rest, chosen), both sorted int64.

    labels: int (N,). A class's share is rounded by largest remainder, and every class keeps one image in
    `rest`. The choice depends on labels, count and seed only. Raises DataError if count does not leave that.
    """
    labels = np.asarray(labels)
    present, sizes = np.unique(labels, return_counts=True)
    if not 0 < count <= len(labels) - len(present):
        raise DataError(f"cannot take {count} of {len(labels)} images in {len(present)} classes for "
                        "validation: take at least 1 and leave one of each class for training")
    exact = count * sizes / len(labels)
    # rounded down: below a class's size, as count is below the number of images
    take = exact.astype(np.int64)
    order = np.argsort(take - exact, kind="stable")  # most short-changed class first
    while take.sum() < count:
        for k in order:
            if take.sum() < count and take[k] < sizes[k] - 1:
                take[k] += 1
    generator = np.random.Generator(np.random.Philox(key=seed))
    chosen = [generator.permutation(np.flatnonzero(labels == c))[:n]
              for c, n in zip(present, take, strict=True)]
    chosen = np.sort(np.concatenate(chosen))
    return np.setdiff1d(np.arange(len(labels)), chosen), chosen

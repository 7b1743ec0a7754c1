"""The error on a part of the training images, always the same ones:
a measure of training finer than an epoch (figure 1)."""
import numpy as np

from cpnet.evaluate import probabilities
from data.loading.augment import central_crops

IMAGES = 1000


class Probe:
    """Calling it gives the error of `network`, as a fraction, on IMAGES of the training images, evenly spread
    over the file, which may have them by class. They are seen as in testing: the central crop, no dropout.
    It draws nothing at random."""

    def __init__(self, network, dataset, batch):
        split = dataset.split("train")
        indices = np.linspace(0, len(split) - 1, min(IMAGES, len(split))).astype(np.int64)
        self.network, self.mean, self.batch = network, dataset.mean, batch
        self.raw, self.labels = split.read(indices), split.labels[indices]

    def __call__(self):
        wrong = 0
        for start in range(0, len(self.raw), self.batch):
            raw, labels = self.raw[start:start + self.batch], self.labels[start:start + self.batch]
            images = central_crops(raw, self.mean, self.network.table.image[1], self.network.dtype)
            # Of classes that are equally probable the first:
            # then a net that tells nothing apart is as wrong as guessing.
            wrong += int((probabilities(self.network, images).argmax(axis=0) != labels).sum())
        return wrong / len(self.raw)

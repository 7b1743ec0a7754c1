"""From probabilities to errors, tables and a picture;
averages of several nets (sections 4.1 and 6, tables 1 and 2)."""
import io
from dataclasses import dataclass

import numpy as np

from cpnet.errors import CpnetError
from cpnet.files import write_atomically
from cpnet.ops import softmax
from data.store import hdf5

FORMAT, VERSION = "cpnet-probabilities", 1
TOP = 5

# The published rows: model, top-1 and top-5 error (None: not given), and where the figure stands.
PUBLISHED = {
    "ILSVRC-2010 test": [("Sparse coding", 0.471, 0.282), ("SIFT + FVs", 0.457, 0.257), ("CNN", 0.375, 0.170),
                         ("CNN, centre crop", 0.390, 0.183)],
    "ILSVRC-2012 validation": [("1 CNN", 0.407, 0.182), ("5 CNNs", 0.381, 0.164), ("1 CNN*", 0.390, 0.166),
                               ("7 CNNs*", 0.367, 0.154)],
    "ILSVRC-2012 test": [("SIFT + FVs", None, 0.262), ("5 CNNs", None, 0.164), ("7 CNNs*", None, 0.153)],
}


def scores(probabilities, labels):
    """probabilities (N, classes), labels int (N) → {"loss", "top1", "top5", "images"}: errors as fractions;
    loss the mean of −log p[label]. A label is among the first k where fewer than k
    classes are more probable."""
    count, classes = probabilities.shape
    right = probabilities[np.arange(count), labels]
    rank = softmax.label_rank(probabilities.T, labels)
    loss = -np.log(np.maximum(right, np.finfo(probabilities.dtype).tiny), dtype=np.float64).mean()
    return {"loss": float(loss), "top1": float((rank >= 1).mean()),
            "top5": float((rank >= min(TOP, classes)).mean()),
            "images": count}


@dataclass
class Confusion:
    """Which classes were taken for which: images of class labels[m] were taken for taken[m] times[m] times.
    It holds what occurred, not a table: of 20,000 classes that would have 400 million numbers."""
    classes: int
    labels: np.ndarray
    taken: np.ndarray
    times: np.ndarray

    def table(self, most=None):
        """int64 (rows, rows): how many images of class i were taken for class j; with more classes than
        `most`, for as many neighbouring classes together as it takes."""
        together = 1 if most is None else -(-self.classes // most)
        size = -(-self.classes // together)
        found = np.zeros((size, size), np.int64)
        np.add.at(found, (self.labels // together, self.taken // together), self.times)
        return found

    @property
    def error(self):
        """The share of images that were taken for another class."""
        wrong = self.labels != self.taken
        return self.times[wrong].sum() / max(self.times.sum(), 1)


def confusion(probabilities, labels):
    """The Confusion of probabilities (N, classes) of images with these labels, int (N)."""
    classes = probabilities.shape[1]
    pairs, times = np.unique(labels.astype(np.int64) * classes + probabilities.argmax(axis=1),
                             return_counts=True)
    return Confusion(classes, pairs // classes, pairs % classes, times)


def by_class(probabilities, labels, names):
    """A line for each class, the worst first: its error and what its images are most often taken for."""
    return "\n".join(f"{error:8.2%} of {count:>6,} {names[k]}"
                     + f", most often taken for {names[other]} ({times})" * (times > 0)
                     for k, error, count, other, times in class_errors(confusion(probabilities, labels)))


def class_errors(found):
    """Of a Confusion, for each class that has images, the worst first: (class, its error, how many images
    it has, the other class that they are most often taken for, how many of them are); 0 and 0 if none."""
    counts = np.bincount(found.labels, found.times, found.classes).astype(np.int64)
    wrong = found.labels != found.taken
    mistakes = np.bincount(found.labels[wrong], found.times[wrong], found.classes).astype(np.int64)
    worst = {}
    for label, other, times in zip(found.labels[wrong].tolist(), found.taken[wrong].tolist(),
                                   found.times[wrong].tolist(), strict=True):
        if times > worst.get(label, (0, 0))[1]:
            worst[label] = other, times
    errors = mistakes / np.maximum(counts, 1)
    return [(int(k), float(errors[k]), int(counts[k]), *worst.get(int(k), (0, 0)))
            for k in np.argsort(-errors, kind="stable") if counts[k]]


def tables(rows):
    """rows [(model, top-1, top-5)] on one's own images, in the form of the paper's tables 1 and 2,
    below what it published."""
    lines = []
    for title, published in (*PUBLISHED.items(), ("these images", rows)):
        lines.append(f"{title:<34} {'top-1':>7} {'top-5':>7}")
        for model, *errors in published:
            cells = " ".join("      –" if error is None else f"{error:7.1%}" for error in errors)
            lines.append(f"  {model:<32.32} {cells}{'  published' * (published is not rows)}")
    lines.append("*: pre-trained on ImageNet 2011 Fall. Other images have other errors: compare with care.")
    return "\n".join(lines)


@dataclass
class Saved:
    """Probabilities that were saved: (N, classes), for the images of a split with these labels int (N).
    `classes`: their names; None in files of the first versions, which lack them."""
    probabilities: np.ndarray
    labels: np.ndarray
    split: str
    classes: list | None


def save(path, probabilities, labels, *, split, classes, data, made_from):
    """Write probabilities (N, classes) of a split to an HDF5 file, to be scored or averaged later."""
    image = io.BytesIO()
    with hdf5.new(image) as file:
        file.attrs.update(format=hdf5.fixed(FORMAT), version=VERSION, split=hdf5.fixed(split),
                          data=hdf5.fixed(str(data)), made_from=hdf5.fixed(made_from))
        file["probabilities"], file["labels"] = probabilities, labels
        file["classes"] = hdf5.fixed_list(classes)
    write_atomically(path, image.getbuffer())


def load(path):
    """The Saved of such a file, or None where `path` is an HDF5 file of another kind.

    Raises CpnetError for what cannot be read.
    """
    with hdf5.reading(path, "checkpoint", CpnetError) as file:
        if hdf5.kind(file) != FORMAT:
            return None
        if file.attrs["version"] != VERSION:
            raise CpnetError(f"{path}: has version {file.attrs['version']}, this program reads version "
                             f"{VERSION}")
        values, labels = (np.asarray(file[name][()]) for name in ("probabilities", "labels"))
        found = Saved(values, labels, hdf5.text(file.attrs["split"]),
                      hdf5.texts(file["classes"]) if "classes" in file else None)
    if not (values.ndim == 2 and values.dtype.kind == "f" and labels.shape == values.shape[:1]
            and labels.dtype.kind in "iu" and np.isfinite(values).all() and (values >= 0).all()
            and (found.classes is None or len(found.classes) == values.shape[1])):
        raise CpnetError(f"{path}: does not hold probabilities (images, classes) with their labels; is it "
                         "whole?")
    return found


def mean(probabilities):
    """The average of several nets' probabilities, each (N, classes): an ensemble's."""
    return sum(each / len(probabilities) for each in probabilities)

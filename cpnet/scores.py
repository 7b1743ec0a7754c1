"""From probabilities to errors, tables and a picture;
averages of several nets (sections 4.1 and 6, tables 1 and 2)."""
import io

import h5py
import numpy as np

from cpnet.errors import CpnetError
from cpnet.files import write_atomically
from cpnet.ops import softmax

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


def confusion(probabilities, labels):
    """int64 (classes, classes): how many images of class i were taken for class j."""
    classes = probabilities.shape[1]
    return np.bincount(labels * classes + probabilities.argmax(axis=1),
                       minlength=classes**2).reshape(classes, classes)


def by_class(probabilities, labels, names):
    """A line for each class, the worst first: its error and what its images are most often taken for."""
    return "\n".join(f"{error:8.2%} of {count:>6,} {names[k]}"
                     + f", most often taken for {names[other]} ({times})" * (times > 0)
                     for k, error, count, other, times in class_errors(confusion(probabilities, labels)))


def class_errors(table):
    """Of a confusion table, for each class that has images, the worst first: (class, its error, how many
    images it has, the other class that they are most often taken for, how many of them are)."""
    counts, others = table.sum(axis=1), table - np.diag(table.diagonal())
    errors = 1 - table.diagonal() / np.maximum(counts, 1)
    return [(int(k), float(errors[k]), int(counts[k]), int(others[k].argmax()), int(others[k].max()))
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


def save(path, probabilities, labels, *, split, data, made_from):
    """Write probabilities (N, classes) of a split to an HDF5 file, to be scored or averaged later."""
    image = io.BytesIO()
    with h5py.File(image, "w") as file:
        file.attrs.update(format=FORMAT, version=VERSION, split=split, data=str(data), made_from=made_from)
        file["probabilities"], file["labels"] = probabilities, labels
    write_atomically(path, image.getbuffer())


def load(path):
    """(probabilities, labels, split) of such a file, or None where `path` is an HDF5 file of another kind.

    Raises CpnetError for what cannot be read.
    """
    try:
        with h5py.File(path) as file:
            if file.attrs.get("format") != FORMAT:
                return None
            if file.attrs["version"] != VERSION:
                raise CpnetError(f"{path}: has version {file.attrs['version']}, this program reads version "
                                 f"{VERSION}")
            return file["probabilities"][()], file["labels"][()], str(file.attrs["split"])
    except FileNotFoundError:
        raise CpnetError(f"{path}: there is no such checkpoint") from None
    except (OSError, KeyError) as error:
        raise CpnetError(f"{path}: cannot be read ({error}); is it whole?") from error


def mean(probabilities):
    """The average of several nets' probabilities, each (N, classes): an ensemble's."""
    return sum(each / len(probabilities) for each in probabilities)

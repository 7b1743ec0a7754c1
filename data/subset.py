"""Some of the classes of a data set, as a data set of its own."""
import os
import re

import numpy as np
from tqdm import tqdm

from data.errors import DataError
from data.store.moments import Statistics
from data.store.writer import Writer

PIECE_BYTES = 16 << 20  # pixels in memory at a time


def choose_classes(dataset, text):
    """The labels, ascending, of the classes that `text` names:
    "0-4", "3,7-9", "Bag,Coat", or WNIDs where there are some.

    What is no class's whole name is a number or a range of numbers.
    Raises DataError for a class that is not there.
    """
    names, last = [*enumerate(dataset.classes), *enumerate(dataset.synsets or ())], len(dataset.classes) - 1
    chosen = set()
    for part in (part.strip() for part in text.split(",")):
        labels = [label for label, name in names if name == part]
        span = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        if len(labels) > 1:
            raise DataError(f"{dataset.path}: {part} is the name of classes {labels[0]} and {labels[1]}; "
                            "give the number")
        if not labels and span:
            labels = range(int(span[1]), int(span[2] or span[1]) + 1)
        if not labels or labels[-1] > last:
            raise DataError(f"{dataset.path}: has no class {part!r}; its classes are 0-{last}: "
                            + ", ".join(dataset.classes[:10]) + ", …" * (last > 9))
        chosen.update(labels)
    return sorted(chosen)


def subset(dataset, out, classes):
    """Write the images of `classes` (labels, ascending) of an open Dataset to `out`, every split's,
    labels renumbered.

    The pixels are stored raw, JPEGs decoded; mean image and colours are exactly those of the new training
    set. Returns how many images there are.
    Raises DataError where `out` exists or a split has no image of these classes.
    """
    if os.path.exists(out):
        raise DataError(f"{out}: exists already; delete it, or name another file")
    new = np.full(len(dataset.classes), -1, np.int32)
    new[classes] = np.arange(len(classes))
    chosen = {name: np.flatnonzero(new[split.labels] >= 0) for name, split in dataset.splits.items()}
    for name, indices in chosen.items():
        if not len(indices):
            raise DataError(f"{dataset.path}: '{name}' has no images of the classes chosen")
    wnids, statistics = dataset.synsets, Statistics()
    source = f"{dataset.source}; classes {', '.join(map(str, classes))} of {os.path.basename(dataset.path)}"
    with Writer(out, [dataset.classes[k] for k in classes], dataset.mean.shape, source=source,
                synsets=wnids and [wnids[k] for k in classes]) as writer:
        step = max(1, PIECE_BYTES // dataset.mean.size)
        for name, indices in chosen.items():
            split = dataset.split(name)
            writer.add_split(name, new[split.labels[indices]])
            for start in tqdm(range(0, len(indices), step), desc=name, unit="piece", leave=False):
                images = split.read(indices[start:start + step])
                writer.write(name, start, images)
                if name == "train":
                    statistics += Statistics(images)
        writer.set_statistics(statistics)
    return sum(map(len, chosen.values()))

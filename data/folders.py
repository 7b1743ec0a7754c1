"""Which images a folder of class folders holds."""

import os
import sys

import numpy as np

from data.dataset import SPLITS, DataError
from data.image import SUFFIXES


def list_folder(source):
    """The images under `source`: (classes, {split: (paths, labels int32)}), in the order of classes and sorted paths.

    Either source/train/CLASS/… with source/val and source/test alike where they exist, or source/CLASS/…, which is all
    "train". Images may lie deeper inside their class folder. Classes are the sorted folder names of the training set.
    Files whose names are not those of images are left out and counted on stderr; hidden files are left out.
    Raises DataError for missing, empty or surplus classes.
    """
    if _class_folders(os.path.join(source, "train")):
        roots = {name: os.path.join(source, name) for name in SPLITS if os.path.isdir(os.path.join(source, name))}
    else:
        roots = {"train": source}
    classes = _class_folders(roots["train"])
    if len(classes) < 2:
        raise DataError(f"{roots['train']}: needs a folder of images for each of at least two classes, "
                        + (f"there is only '{classes[0]}'" if classes else "there are no folders in it"))
    left_out = []
    parts = {name: _list_split(root, classes, left_out) for name, root in roots.items()}
    empty = np.flatnonzero(np.bincount(parts["train"][1], minlength=len(classes)) == 0)
    if len(empty):
        raise DataError(f"{os.path.join(roots['train'], classes[empty[0]])}: holds no images; fill or remove it")
    if left_out:
        print(f"{source}: left out {len(left_out)} files not named like images, first {left_out[0]}", file=sys.stderr)
    return classes, parts


def _class_folders(root):
    if not os.path.isdir(root):
        return []
    return sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))


def _list_split(root, classes, left_out):
    surplus = sorted(set(_class_folders(root)) - set(classes))
    if surplus:
        raise DataError(f"{os.path.join(root, surplus[0])}: is a class that the training set does not have")
    paths, labels = [], []
    for label, name in enumerate(classes):
        found = _list_images(os.path.join(root, name), left_out)
        paths += found
        labels += [label] * len(found)
    if not paths:
        raise DataError(f"{root}: holds no images ({', '.join(SUFFIXES)}) in class folders")
    return paths, np.array(labels, np.int32)


def _list_images(folder, left_out):
    images = []
    for place, _, names in os.walk(folder):
        for name in names:
            if name.lower().endswith(SUFFIXES):
                images.append(os.path.join(place, name))
            elif not name.startswith("."):
                left_out.append(os.path.join(place, name))
    return sorted(path for path in images if not os.path.basename(path).startswith("."))

"""What a folder holds, recognised by looking: class folders or tars of images, ILSVRC as downloaded,
ground truths."""

import os
import re
import sys
from collections import namedtuple

import numpy as np

from data.errors import DataError
from data.sources.devkit import NAME as DEVKIT
from data.sources.devkit import find_devkit, read_labels
from data.sources.encoded import join
from data.sources.folders import class_folders, list_images
from data.sources.split import stratified_split
from data.sources.tars import apply_patches, index_tar
from data.store.dataset import SPLITS

ARCHIVE = re.compile(r"ILSVRC(\d{4})_(?:img|images)_(train|val|test)\.tar$")
PATCHES = "patch_images.tar"  # of ILSVRC-2010: images that replace others

Listing = namedtuple("Listing", "classes synsets parts how")
Listing.__doc__ = """classes: names, a label is a place among them; synsets: their WNIDs, or None where there
is no devkit; parts: {split: (Encoded, labels int32 (N,))}; how:
text, what it was made from and how the classes are ordered."""


def list_source(source, val_fraction=0.1, seed=0):
    """The images in the folder `source`, with their classes and splits:
    Listing, in the order of classes and names.

    Each of the splits train, val and test is a tar named as ILSVRC's, or a folder source/<split> of class
    folders, of class tars, or of loose images with a ground truth. Without train/, the class folders or tars
    lie in `source` itself. Classes are sorted by folder or tar name; a development kit beside them gives them
    words and translates its ids. Without a labelled val, val_fraction of the training images becomes it,
    stratified and seeded. Raises DataError for missing,
    empty or surplus classes and whatever else does not fit together.
    """
    devkit, archives, left_out = find_devkit(source), _archives(source), []
    train, _ = _find(source, "train", archives, left_out)
    if not train:
        train = _classes_in(source, "", left_out)
        if train and set(train) <= set(SPLITS):
            raise DataError(f"{os.path.join(source, min(train))}: holds images, but not in a folder for each "
                            "class")
    classes = _check_classes(source, train, devkit)
    parts = {"train": _labelled(train, classes)}
    for split in SPLITS[1:]:
        classed, loose = _find(source, split, archives, left_out)
        if classed:
            if surplus := sorted(set(classed) - set(classes)):
                raise DataError(f"{source}: '{split}' has a class {surplus[0]} that the training set does "
                                "not have")
            parts[split] = _labelled(classed, classes)
        elif loose is not None and len(loose):
            labels = read_labels(source, split, len(loose), classes, devkit)
            if labels is None and split == "val":
                raise DataError(f"{source}: '{split}' has {len(loose)} images without classes; put the "
                                "development kit or a *val_ground_truth.txt beside them")
            if labels is None:
                print(f"{source}: the {len(loose)} images of '{split}' are left out: no labels are there",
                      file=sys.stderr)
            else:
                parts[split] = loose, labels
        if split in parts and not len(parts[split][0]):
            raise DataError(f"{os.path.join(source, split)}: holds no images")
    parts = _patched(source, parts)
    if left_out:
        print(f"{source}: left out {len(left_out)} files not named like images, first {left_out[0]}",
              file=sys.stderr)
    how = os.path.basename(os.path.abspath(source)) + "; classes in the order of their sorted " + (
        f"synsets (WNIDs), words from {os.path.basename(devkit.path)}" if devkit else "names")
    if "val" not in parts:
        parts, how = _split_off(source, parts, val_fraction,
                                seed), f"{how}; val: {val_fraction:g} of train, seed {seed}"
    names = [devkit.words[name] for name in classes] if devkit else classes
    return Listing(names, classes if devkit else None,
                   {name: parts[name] for name in SPLITS if name in parts}, how)


def _archives(source):
    found = {name: match for name in sorted(os.listdir(source)) if (match := ARCHIVE.match(name))}
    if len({match[1] for match in found.values()}) > 1:
        raise DataError(f"{source}: holds archives of two years, {min(found)} and {max(found)}; keep one "
                        "year")
    return {match[2]: os.path.join(source, name) for name, match in found.items()}


def _find(source, split, archives, left_out):
    """({class: Encoded}, loose Encoded or None) of a split; the first is empty if it is not in classes."""
    if split in archives:
        return index_tar(archives[split], source)
    if not os.path.isdir(os.path.join(source, split)):
        return {}, None
    classed = _classes_in(source, split, left_out)
    return classed, None if classed else list_images(source, split, left_out, deep=False)


def _classes_in(source, folder, left_out):
    """{class: Encoded} of the class folders, or else the class tars, in source/folder."""
    root = os.path.join(source, folder)
    names = [name for name in class_folders(root) if not DEVKIT.match(name)]
    if names:
        return {name: list_images(source, os.path.join(folder, name), left_out) for name in names}
    tars = sorted(name for name in os.listdir(root) if name.endswith(".tar") and name != PATCHES)
    return {name[:-len(".tar")]: index_tar(os.path.join(root, name), source)[1] for name in tars}


def _check_classes(source, train, devkit):
    classes = sorted(train)
    if len(classes) < 2:
        raise DataError(f"{source}: needs a folder of images for each of at least two classes, "
                        + (f"there is only '{classes[0]}'" if classes else "there are no folders in it"))
    for name in classes:
        if not len(train[name]):
            raise DataError(f"{source}: the class {name} holds no images; fill or remove it")
    if devkit and (odd := sorted(set(classes) ^ set(devkit.words))):
        raise DataError(f"{source}: the training set has {'a' if odd[0] in train else 'no'} class {odd[0]}, "
                        f"unlike {devkit.path}; the two do not belong together, or one is not whole")
    return classes


def _labelled(classed, classes):
    present = [name for name in classes if name in classed]
    label = {name: np.int32(k) for k, name in enumerate(classes)}
    counts = [len(classed[name]) for name in present]
    return join([classed[name] for name in present]), np.repeat([label[name] for name in present], counts)


def _patched(source, parts):
    path = os.path.join(source, PATCHES)
    if not os.path.isfile(path):
        return parts
    _, patches = index_tar(path, source)
    return {split: (apply_patches(images, patches) if images.archives else images, labels)
            for split, (images, labels) in parts.items()}


def _split_off(source, parts, val_fraction, seed):
    if not 0 < val_fraction < 1:
        raise DataError(f"{source}: has no val/, so val_fraction must lie between 0 and 1, not "
                        f"{val_fraction}")
    images, labels = parts["train"]
    rest, chosen = stratified_split(labels, max(1, round(val_fraction * len(labels))), seed)
    return {**parts, "train": (images.take(rest), labels[rest]), "val": (images.take(chosen), labels[chosen])}

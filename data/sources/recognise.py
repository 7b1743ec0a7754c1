"""What a folder holds, recognised by looking: class folders or tars of images, ILSVRC as downloaded,
ground truths; and a list of all in it that is none of these."""

import os
import re
from collections import namedtuple

import numpy as np

from data.errors import DataError
from data.sources.devkit import NAME as DEVKIT
from data.sources.devkit import TRUTH, find_devkit, read_labels
from data.sources.encoded import as_text, join
from data.sources.folders import by_reason, leave_out, list_images, look, why_left_out
from data.sources.image import SUFFIXES
from data.sources.split import stratified_split
from data.sources.tars import apply_patches, index_tar
from data.store.dataset import SPLITS

ARCHIVE = re.compile(r"ILSVRC(\d{4})_(?:img|images)_(train|val|test)\.tar$")
PATCHES = "patch_images.tar"  # of ILSVRC-2010: images that replace others
FOLDERS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val",
           "test": "test", "testing": "test"}  # names of splits' folders, in any case

Listing = namedtuple("Listing", "classes synsets parts how left_out")
Listing.__doc__ = """classes: names, a label is a place among them; synsets: their WNIDs, or None where there
is no devkit; parts: {split: (Encoded, labels int32 (N,))}; how:
text, what it was made from and how the classes are ordered; left_out: [(path below the source, reason)] of
all that is in none of the parts."""


def list_source(source, val_fraction=0.1, seed=0):
    """The images in the folder `source`, with their classes and splits:
    Listing, in the order of classes and names.

    Each of the splits train, val and test is a tar named as ILSVRC's, or a folder (FOLDERS) of class
    folders, of class tars, or of loose images with a ground truth. Without one for training, the class
    folders or tars lie in `source` itself. Classes are sorted by folder or tar name; a development kit beside
    them gives them words and translates its ids. Without a labelled val, val_fraction of the training images
    becomes it, stratified and seeded. Raises DataError for missing,
    empty or surplus classes and whatever else does not fit together.
    """
    devkit, archives, left_out = find_devkit(source), _archives(source), []
    folders, files = _look(source, "", left_out)
    splits = _split_folders(source, folders, archives)
    train, _ = _find(source, "train", archives, splits, left_out)
    if train:
        for name in {*folders, *files} - set(splits.values()):
            leave_out(source, name, "is in no split", left_out)
    else:
        left_out = [(os.path.basename(path), "holds no class's tar")
                    for split, path in archives.items() if split == "train"]  # `source` is looked at again
        _check_no_split(source, splits, files)
        train, splits = _classes_in(source, "", left_out), {}
        if train and {name.lower() for name in train} <= set(FOLDERS):
            raise DataError(f"{os.path.join(source, min(train))}: holds images, but not in a folder for each "
                            "class")
    classes = _check_classes(source, train, devkit, left_out)
    parts = {"train": _labelled(train, classes)}
    for split in SPLITS[1:]:
        folder = splits.get(split, split)
        classed, loose = _find(source, split, archives, splits, left_out)
        if classed:
            if surplus := sorted(set(classed) - set(classes)):
                raise DataError(f"{source}: '{split}' has a class {surplus[0]} that the training set does "
                                "not have")
            parts[split] = _labelled(classed, classes)
        elif loose is not None and len(loose):
            labels = read_labels(source, folder, split, len(loose), classes, devkit,
                                 _of_these(left_out, folder))
            if labels is None and split == "val":
                raise DataError(f"{source}: '{split}' has {len(loose)} images without classes; put the "
                                "development kit or a *val_ground_truth.txt beside them")
            if labels is None:
                _leave_images_out(loose, "has no label", left_out)
            else:
                parts[split] = loose, labels
        if split in parts and not len(parts[split][0]):
            raise DataError(f"{os.path.join(source, folder)}: holds no images{_of_these(left_out, folder)}")
    parts = _patched(source, parts, left_out)
    left_out = sorted((path, reason) for path, reason in left_out
                      if reason == "is hidden" or not TRUTH.search(path))
    how = as_text(os.path.basename(os.path.abspath(source))) + "; classes in the order of their sorted " + (
        f"synsets (WNIDs), words from {os.path.basename(devkit.path)}" if devkit else "names")
    if "val" not in parts:
        parts, how = _split_off(source, parts, val_fraction,
                                seed), f"{how}; val: {val_fraction:g} of train, seed {seed}"
    names = [devkit.words[name] for name in classes] if devkit else classes
    return Listing(names, classes if devkit else None,
                   {name: parts[name] for name in SPLITS if name in parts}, how, left_out)


def _archives(source):
    found = {name: match for name in sorted(os.listdir(source)) if (match := ARCHIVE.match(name))}
    if len({match[1] for match in found.values()}) > 1:
        raise DataError(f"{source}: holds archives of two years, {min(found)} and {max(found)}; keep one "
                        "year")
    return {match[2]: os.path.join(source, name) for name, match in found.items()}


def _look(source, folder, left_out):
    """As `look` does, but without what in `source` itself is read as a split or describes one."""
    def is_known(path):
        return path == PATCHES or any(pattern.match(path) for pattern in (ARCHIVE, DEVKIT))

    folders, files = look(source, folder, left_out)
    return ([path for path in folders if not is_known(path)],
            {path: status for path, status in files.items() if not is_known(path)})


def _split_folders(source, folders, archives):
    """{split: name of its folder} of those among `folders` whose names say so and that are in no archive."""
    found = {}
    for name in folders:
        split = FOLDERS.get(name.lower())
        if split in found:
            raise DataError(f"{source}: holds two folders of '{split}', {found[split]} and {name}; move one "
                            "of them elsewhere")
        if split and split not in archives:
            found[split] = name
    return found


def _check_no_split(source, splits, files):
    """DataError if one of the folders in `source`, which has no folder train/, is a split and no class."""
    for split, name in splits.items():
        below, inside = look(source, name, [])
        truths = [match[1] for path in (*files, *inside) if (match := TRUTH.search(path))]
        if below or split in truths:
            raise DataError(f"{os.path.join(source, name)}: lies beside the class folders; put these into a "
                            "folder train beside it")


def _leave_images_out(images, reason, left_out):
    place = f"{as_text(os.path.relpath(images.archives[0], images.root))}/" if images.archives else ""
    left_out += [(f"{place}{name}", reason) for name in images.names]


def _of_these(left_out, below):
    """What was left out in a class or folder, as the end of a sentence."""
    counts = by_reason(reason for path, reason in left_out
                       if f"/{below}/" in f"/{path}".replace(".tar/", "/"))
    return "".join(f"; {count:,} files in it are left out, as each {reason}"
                   for reason, count in counts.items())


def _find(source, split, archives, splits, left_out):
    """({class: Encoded}, loose Encoded or None) of a split; the first is empty if it is not in classes."""
    if split in archives:
        classes, loose = index_tar(archives[split], source, left_out)
        if classes:
            _leave_images_out(loose, "lies beside class tars", left_out)
        return classes, loose
    if split not in splits:
        return {}, None
    classed = _classes_in(source, splits[split], left_out)
    return classed, None if classed else list_images(source, splits[split], left_out)


def _classes_in(source, folder, left_out):
    """{class: Encoded} of the class folders, or else the class tars, in source/folder.
    If there are none, nothing is appended to left_out."""
    folders, files = _look(source, folder, beside := [])
    classes = {}
    for path in folders:
        if path.endswith(".h5.part"):
            leave_out(source, path, "is of a data set in the making", beside)
        else:
            classes[as_text(os.path.basename(path))] = list_images(source, path, beside)
    kind = "folders" if classes else "tars"
    tars = [] if classes else [path for path in files if path.endswith(".tar")]
    for path in tars:
        inner, classes[as_text(os.path.basename(path)[:-len(".tar")])] = index_tar(
            os.path.join(source, path), source, beside)
        for images in inner.values():
            _leave_images_out(images, "is in a tar in a class's tar", beside)
    if not classes:
        return {}
    for path in files.keys() - set(tars):
        reason = why_left_out(os.path.basename(path), (*SUFFIXES, ".tar"))
        leave_out(source, path, reason or f"lies beside class {kind}", beside)
    left_out += beside
    return classes


def _check_classes(source, train, devkit, left_out):
    classes = sorted(train)
    if len(classes) < 2:
        reasons = by_reason(why_left_out(name) or "is in no class's folder"
                            for name in _look(source, "", [])[1])
        raise DataError(f"{source}: needs a folder of images for each of at least two classes, "
                        + (f"there is only '{classes[0]}'" if classes else "there are no folders in it")
                        + "".join(f"; {count:,} files in it are left out, as each {reason}"
                                  for reason, count in reasons.items()))
    for name in classes:
        if not len(train[name]):
            raise DataError(f"{source}: the class {name} holds no images{_of_these(left_out, name)}; fill or "
                            "remove it")
    if devkit and (odd := sorted(set(classes) ^ set(devkit.words))):
        raise DataError(f"{source}: the training set has {'a' if odd[0] in train else 'no'} class {odd[0]}, "
                        f"unlike {devkit.path}; the two do not belong together, or one is not whole")
    return classes


def _labelled(classed, classes):
    present = [name for name in classes if name in classed]
    label = {name: np.int32(k) for k, name in enumerate(classes)}
    counts = [len(classed[name]) for name in present]
    return join([classed[name] for name in present]), np.repeat([label[name] for name in present], counts)


def _patched(source, parts, left_out):
    path = os.path.join(source, PATCHES)
    if not os.path.isfile(path):
        return parts
    if not any(images.archives for images, _ in parts.values()):
        left_out.append((PATCHES, "replaces images of tars only"))
        return parts
    _, patches = index_tar(path, source, left_out)
    used, patched = set(), {}
    for split, (images, labels) in parts.items():
        if images.archives:
            images, places = apply_patches(images, patches)
            used |= places
        patched[split] = images, labels
    _leave_images_out(patches.take(sorted({*range(len(patches))} - used)), "replaces no image", left_out)
    return patched


def _split_off(source, parts, val_fraction, seed):
    if not 0 < val_fraction < 1:
        raise DataError(f"{source}: has no val/, so val_fraction must lie between 0 and 1, not "
                        f"{val_fraction}")
    images, labels = parts["train"]
    rest, chosen = stratified_split(labels, max(1, round(val_fraction * len(labels))), seed)
    return {**parts, "train": (images.take(rest), labels[rest]), "val": (images.take(chosen), labels[chosen])}

"""Whether a data set is the one that a run, features or codes were made from."""
import hashlib
import re

import numpy as np


def fingerprint(dataset):
    """What tells a Dataset from others, as a dict that JSON can hold. It reads no images: the mean image
    changes with any of the training images, and the labels with any change of order or number."""
    content = hashlib.sha256(np.ascontiguousarray(dataset.mean).tobytes())
    for split in dataset.splits.values():
        content.update(split.labels.tobytes())
    return {"image": [dataset.channels, dataset.height, dataset.width],
            "classes": hashlib.sha256("\0".join(dataset.classes).encode()).hexdigest()[:16],
            "images": {name: len(split) for name, split in dataset.splits.items()},
            "content": content.hexdigest()[:16]}


def difference(expected, found):
    """In which way the fingerprint `found` differs from the `expected` one, in words; "" if it does not."""
    if found == expected:
        return ""
    sizes = ["×".join(map(str, each.get("image", []))) for each in (found, expected)]
    if sizes[0] != sizes[1]:
        return f"its images are {sizes[0]}, not {sizes[1]}"
    counts = [", ".join(f"{count:,} {name}" for name, count in each.get("images", {}).items())
              for each in (found, expected)]
    if counts[0] != counts[1]:
        return f"it has {counts[0]} images, not {counts[1]}"
    if found.get("classes") != expected.get("classes"):
        return "its classes have other names, or another order"
    return "its labels or its mean image are others"


def class_difference(found, expected):
    """Where two lists of class names differ first, in words; "" if they name the same classes in one order.

    Names of ImageNet's classes may begin with WordNet's identifier, as in "n01440764 tench, Tinca tinca".
    They are compared by it, and with names that lack it, by the rest.
    """
    if len(found) != len(expected):
        return f"it has {len(found)} classes, not {len(expected)}"
    for k, (one, other) in enumerate(zip(found, expected, strict=True)):
        (our_id, ours), (their_id, theirs) = _parts(one), _parts(other)
        if our_id != their_id if our_id and their_id else ours != theirs:
            return f"its class {k} is {one!r}, not {other!r}"
    return ""


def reorder(dataset, classes):
    """Number the classes of a Dataset as in the list `classes`, by their names.

    Raises ValueError unless those are the same names in another order.
    """
    number = {name: k for k, name in enumerate(classes)}
    if sorted(number) != sorted(dataset.classes):
        raise ValueError("the names of the classes are not the same in another order")
    place = np.array([number[name] for name in dataset.classes], np.int32)
    for split in dataset.splits.values():
        split.labels = place[split.labels]
    dataset.classes = list(classes)


def _parts(name):
    """(WordNet's identifier or "", the rest) of a class's name."""
    found = re.match(r"(n\d{8})\b[ ,]*(.*)", name)
    return found.groups() if found else ("", name)

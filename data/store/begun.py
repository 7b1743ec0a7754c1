"""The images that a data set was begun with, kept beside its pixels (part.py): that some of them vanish
before it is complete does not keep it from going on."""

import os

import numpy as np

from data.errors import DataError
from data.sources.encoded import NAMES, Encoded

NAME = "listing.npz"


def keep_listing(part, listing, identity):
    """Save the images of a Listing in the folder of `part`; identity: text that tells them from others.
    Those in archives do not vanish one by one, and are not saved."""
    if any(images.archives for images, _ in listing.parts.values()):
        return
    arrays = {"identity": np.array(identity), "how": np.array(listing.how),
              "classes": _bytes(listing.classes)}
    for split, (images, labels) in listing.parts.items():
        arrays |= {f"{split}/names": _bytes(images.names), f"{split}/sizes": images.sizes,
                   f"{split}/stamps": images.stamps, f"{split}/labels": labels}
    part.keep(NAME, arrays)


def as_begun(folder, listing, identity):
    """The Listing that the data set in the making in `folder` was begun with, if all that `listing` lacks of
    it are some images; otherwise `listing`. Raises DataError if what was kept cannot be read."""
    path = os.path.join(folder, NAME)
    if not os.path.exists(os.path.join(folder, "state.npz")) or not os.path.exists(path):
        return listing
    root = next(images.root for images, _ in listing.parts.values())
    raw = {name: place for images, _ in listing.parts.values() for name, place in images.raw.items()}
    try:
        with np.load(path) as arrays:  # which unpickles nothing
            # Another `how` has other splits of the same images.
            if (str(arrays["identity"]) == identity or str(arrays["how"]) != listing.how
                    or _texts(arrays["classes"]) != list(listing.classes)):
                return listing
            parts = {split: (Encoded(root, np.array(_texts(arrays[f"{split}/names"]), NAMES),
                                     arrays[f"{split}/sizes"], arrays[f"{split}/stamps"], raw=raw),
                             arrays[f"{split}/labels"]) for split in listing.parts}
    except Exception as error:  # NumPy and zipfile raise nearly anything for a damaged file
        raise DataError(f"{path}: cannot be read: {error}; delete {folder} to start anew") from error
    return listing._replace(parts=parts) if _files(listing.parts) <= _files(parts) else listing


def _bytes(texts):
    return np.frombuffer("\0".join(texts).encode(), np.uint8)


def _texts(array):
    return array.tobytes().decode().split("\0")


def _files(parts):
    """What tells each file from others: a view of (name, (label, size, stamp)). The split is not in it, as
    validation images that are drawn from the others depend on how many there are."""
    rows = ((images.names, labels.tolist(), images.sizes.tolist(), images.stamps.tolist())
            for images, labels in parts.values())
    return {str(name): about for columns in rows for name, *about in zip(*columns, strict=True)}.items()

"""Which images a folder holds."""

import os
import stat

import numpy as np

from data.sources.encoded import NAMES, Encoded
from data.sources.image import SUFFIXES


def class_folders(root):
    """The sorted names of the folders in `root`, but for hidden ones and a data set in the making;
    none if it is no folder."""
    if not os.path.isdir(root):
        return []
    with os.scandir(root) as entries:
        return sorted(entry.name for entry in entries
                      if entry.is_dir() and not entry.name.startswith(".")
                      and not entry.name.endswith(".h5.part"))


def list_images(source, folder, left_out, deep=True):
    """The images in source/folder (`deep`: and below), Encoded, sorted by their paths.

    Files not named like images, and what is no plain file (a broken link), are appended to left_out;
    hidden files are not. Raises OSError for a folder that cannot be read.
    """
    def refuse(error):  # os.walk would pass over a folder that it may not read
        raise error

    rows = []
    for place, below, names in os.walk(os.path.join(source, folder), onerror=refuse):
        if not deep:
            below.clear()
        for name in names:
            if name.startswith("."):
                continue
            path = os.path.join(place, name)
            try:
                path.encode()  # a name that is no text could not be stored
                status = os.stat(path)
            except (OSError, UnicodeEncodeError):
                status = None
            if status is None or not stat.S_ISREG(status.st_mode) or not name.lower().endswith(SUFFIXES):
                left_out.append(path)
            else:
                rows.append((os.path.relpath(path, source), status.st_size, status.st_mtime_ns))
    names, sizes, stamps = zip(*sorted(rows), strict=True) if rows else ((), (), ())
    return Encoded(os.fspath(source), np.array(names, NAMES), np.array(sizes, np.int64),
                   np.array(stamps, np.int64))

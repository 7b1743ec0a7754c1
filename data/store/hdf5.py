"""HDF5 files: written so that damage is noticed, read so that whatever is wrong with one is a single error.

Files are written in the format of HDF5 1.8, whose structure has checksums, and with texts of fixed length. Of
3,000 small files with flipped bits none kept the library busy for ever; of files in the oldest format, with
texts of variable length, one did. Those can still be read.
"""
import json
import os
import stat
from contextlib import contextmanager

import h5py
import numpy as np

FORMAT_1_8 = "v108", "v108"


def new(file):
    """An h5py file to write, at a path or in an io.BytesIO."""
    return h5py.File(file, "w", libver=FORMAT_1_8)


def fixed(text):
    """A text as HDF5 stores it with a fixed length."""
    return np.bytes_(text.encode())


def fixed_list(texts):
    """Several texts, of one fixed length. Shorter ones end with zero bytes, which are not read."""
    return np.array([text.encode() for text in texts], "S" if texts else "S1")


def text(value):
    """The text of an attribute, fixed or variable. Raises ValueError for anything else."""
    if isinstance(value, bytes):
        return value.decode()
    if not isinstance(value, str):
        raise ValueError(f"a text was expected, not {type(value).__name__}")
    return value


def kind(file):
    """What the attribute "format" of an open file says that it is; "" if it says nothing."""
    return text(file.attrs.get("format", ""))


def texts(dataset):
    """The list of texts in a dataset (n,), fixed or variable. Raises ValueError for anything else."""
    found = dataset[()]
    if not isinstance(found, np.ndarray) or found.ndim != 1:
        raise ValueError("a list of texts was expected")
    return [text(value) for value in found.tolist()]


def json_object(value):
    """The dict that the text of an attribute describes. Raises ValueError for anything else."""
    found = json.loads(text(value))
    if not isinstance(found, dict):
        raise ValueError("an object was expected")
    return found


def check_input(path, what, error):
    """Raises `error` unless `path` is a regular file that can be read:
    a pipe would keep the program waiting."""
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            kind = "a folder" if stat.S_ISDIR(mode) else "no regular file"
            raise error(f"{path}: is {kind}; name a {what}")
        with open(path, "rb"):
            pass
    except FileNotFoundError:
        raise error(f"{path}: there is no such {what}") from None
    except (OSError, ValueError) as found:
        raise error(f"{path}: cannot be opened ({getattr(found, 'strerror', None) or found})") from found


@contextmanager
def reading(path, what, error):
    """In its `with` block, the open h5py file at `path`. `what` is in words what it should be.

    Whatever is wrong with the file becomes `error`, a class of exceptions, with one line that names the file:
    h5py raises nearly anything for damaged ones.
    """
    check_input(path, what, error)
    try:
        with h5py.File(path, "r") as file:
            yield file
    except error:
        raise
    except Exception as found:
        reason = " ".join(str(found).split()) or type(found).__name__
        if "unable to lock" in reason:
            raise error(f"{path}: cannot be locked ({reason}): another program may be writing it; on a "
                        "network file system set HDF5_USE_FILE_LOCKING=FALSE") from found
        raise error(f"{path}: cannot be read as a {what} ({reason}); is it whole?") from found

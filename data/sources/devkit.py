"""ILSVRC's development kit: which number is which synset, its words,
and the labels of the validation images."""

import io
import os
import re
import tarfile
import zlib
from collections import namedtuple

import numpy as np

from data.errors import DataError
from data.sources.folders import HIDDEN

NAME = re.compile(r"ILSVRC\d{4}_devkit.*(\.tar\.gz|\.tgz|\.tar)$|"
                  r"devkit-1\.0(\.tar\.gz)?$|ILSVRC\d{4}_devkit[^.]*$")
TRUTH = re.compile(r"(val|test)[a-z]*_ground_truth\.txt$")
LIMIT = 64 << 20  # bytes of any file in it that is read

Devkit = namedtuple("Devkit", "path synsets words truth")
Devkit.__doc__ = """synsets: {id: WNID} of the classes, ids counting from 1 in an order of the organisers'
own; words: {WNID: its words}; truth: {"val" or "test": (name of the file, its lines)}."""


def find_devkit(source):
    """The Devkit in the folder `source`, an archive or unpacked; None if there is none."""
    found = sorted(name for name in os.listdir(source) if NAME.match(name))
    if not found:
        return None
    if len({name[:len("ILSVRC2012")] for name in found if name.startswith("ILSVRC")}) > 1:
        raise DataError(f"{source}: holds development kits of two years, {found[0]} and {found[-1]}; keep "
                        "one of them")
    path = os.path.join(source, found[0])
    files = _read_files(path)
    if "meta.mat" not in files:
        raise DataError(f"{path}: holds no meta.mat; download the development kit again")
    synsets, words = _read_meta(f"{path}, meta.mat", files.pop("meta.mat"))
    truth = {TRUTH.search(name)[1]: (f"{path}, {name}", data.decode("ascii", "replace").split())
             for name, data in files.items()}
    return Devkit(path, synsets, words, truth)


def _read_files(path):
    """{base name: bytes} of meta.mat and the ground truths. Nothing is unpacked to disk."""
    files = {}

    def keep(name, size, read):
        base = os.path.basename(name)
        if base == "meta.mat" or TRUTH.search(base) and not HIDDEN.match(base):
            if size > LIMIT:
                raise DataError(f"{path}, {name}: is {size >> 20} MiB large; this is no ILSVRC development "
                                "kit")
            files[base] = read()

    try:
        if os.path.isdir(path):
            for place, _, names in os.walk(path):
                for full in (os.path.join(place, name) for name in names):
                    keep(full, os.path.getsize(full), lambda full=full: _read(full))
        else:
            with tarfile.open(path, "r:" if path.endswith(".tar") else "r:gz") as tar:
                for member in tar:
                    if member.isreg():
                        keep(member.name, member.size, lambda member=member: tar.extractfile(member).read())
    except (OSError, EOFError, tarfile.TarError, zlib.error, ValueError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: cannot be read: {reason}; download it again") from error
    return files


def _read(path):
    with open(path, "rb") as file:
        return file.read()


def _read_meta(where, data):
    """({id: WNID}, {WNID: words}) of the synsets that are classes: those without children."""
    try:
        from scipy.io import loadmat  # here, as nothing else needs it
    except ImportError as error:
        raise DataError(f"{where}: is read by SciPy, which is not installed: pip install scipy") from error
    try:
        table = np.atleast_1d(loadmat(io.BytesIO(data), squeeze_me=True,
                                      variable_names=["synsets"])["synsets"])
        number = next(name for name in table.dtype.names if re.fullmatch(r"ILSVRC\d{4}_ID", name))
        leaves = [row for row in table if int(row["num_children"]) == 0]
        synsets = {int(row[number]): str(row["WNID"]) for row in leaves}
        words = {str(row["WNID"]): str(row["words"]) for row in leaves}
    except Exception as error:  # loadmat raises nearly anything on a damaged file
        raise DataError(f"{where}: is not the synsets of ILSVRC: {type(error).__name__} "
                        + " ".join(str(error).split())) from error
    return synsets, words


def read_labels(source, folder, split, count, classes, devkit, note):
    """Labels int32 (count,) of a split's loose images, in the order of their names;
    None if no ground truth is there.

    The ground truth is a text file, *val…_ground_truth.txt, in `source`, source/folder or the devkit:
    one line an image, a class or a devkit's id. classes: the sorted classes; note: said of a wrong number.
    Raises DataError if a line is neither or the number is wrong.
    """
    where, lines = (devkit.truth if devkit else {}).get(split, (None, None))
    for place in (os.path.join(source, folder), source):
        for name in sorted(os.listdir(place)) if os.path.isdir(place) else ():
            if (match := TRUTH.search(name)) and match[1] == split and not HIDDEN.match(name):
                where = os.path.join(place, name)
                lines = _read(where).decode("utf-8", "replace").split("\n")
                lines = [line.strip() for line in lines if line.strip()]
    if lines is None:
        return None
    if len(lines) != count:
        raise DataError(f"{where}: has {len(lines)} lines for {count} images of '{split}'; one of them is "
                        f"not whole{note}")
    label = {name: k for k, name in enumerate(classes)}
    if devkit:
        label |= {str(number): label[synset] for number, synset in devkit.synsets.items() if synset in label}
    for i, line in enumerate(lines):
        if line not in label:
            hint = "" if devkit or not line.isdigit() else "; numbers need the development kit beside it"
            raise DataError(f"{where}: line {i + 1}, '{line}', names no class of the training set{hint}")
    return np.array([label[line] for line in lines], np.int32)

"""CIFAR-10 as its authors' binary archive holds it: per image a byte for the label and 3×32×32 of pixels."""

import os
import tarfile
import zlib

import numpy as np

from data.errors import DataError

ARCHIVE, FOLDER = "cifar-10-binary.tar.gz", "cifar-10-batches-bin"
TRAIN, TEST, NAMES = tuple(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin", "batches.meta.txt"
PICKLED = "cifar-10-python.tar.gz", "cifar-10-batches-py", "batches.meta"
SHAPE = 3, 32, 32


def find_cifar(source):
    """The binary CIFAR-10 at `source`: the archive or the folder of its files, or a folder with one of them.
    None if there is none. Raises DataError for the python version, which is a pickle:
    reading it would run what it holds."""
    inside = {name: os.path.join(source, name) for name in (ARCHIVE, FOLDER, TRAIN[0], *PICKLED)}
    inside = {name: path for name, path in inside.items() if os.path.exists(path)}
    if os.path.basename(source) == ARCHIVE:
        return source
    if TRAIN[0] in inside:
        return source
    if found := inside.get(FOLDER) or inside.get(ARCHIVE):
        return found
    if os.path.basename(os.path.abspath(source)) in PICKLED or inside:
        raise DataError(f"{source}: is CIFAR-10's python version, a pickle, which could run any program as "
                        f"it is read; get the binary version, {ARCHIVE}: python run.py fetch cifar-10 FOLDER")
    return None


def read_cifar(path):
    """The archive or folder at `path`: ({"train", "test": (images uint8 (N, 3, 32, 32), labels
    uint8 (N,))}, names of the classes, names of the other files there)."""
    files, others = _read_files(path)
    names = files.pop(NAMES).decode("ascii", "replace").split()
    arrays = {name: _array(f"{path}, {name}", data, len(names)) for name, data in files.items()}
    train = [np.concatenate(columns) for columns in zip(*(arrays[name] for name in TRAIN), strict=True)]
    return {"train": tuple(train), "test": arrays[TEST]}, names, others


def _read_files(path):
    wanted = (*TRAIN, TEST, NAMES)
    files, others = {}, []
    try:
        if os.path.isdir(path):
            others = sorted(set(os.listdir(path)) - set(wanted))
            for name in wanted:
                if os.path.isfile(full := os.path.join(path, name)):
                    with open(full, "rb") as file:
                        files[name] = file.read()
        else:
            with tarfile.open(path, "r:gz") as tar:
                for member in tar:
                    name = os.path.basename(member.name)
                    if member.isreg() and name in wanted:
                        files[name] = tar.extractfile(member).read()
                    elif not member.isdir():
                        others.append(name)
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}; download it again") from error
    if missing := [name for name in wanted if name not in files]:
        raise DataError(f"{path}: holds no {missing[0]}; download it again")
    return files, others


def _array(where, data, classes):
    record = 1 + int(np.prod(SHAPE))
    if not data or len(data) % record:
        raise DataError(f"{where}: has {len(data)} bytes, not a multiple of {record}; download it again")
    rows = np.frombuffer(data, np.uint8).reshape(-1, record)
    if rows[:, 0].max() >= classes:
        raise DataError(f"{where}: has a label {rows[:, 0].max()}, but there are {classes} classes; download "
                        "it again")
    return rows[:, 1:].reshape(-1, *SHAPE), rows[:, 0]

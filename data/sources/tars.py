"""Tar archives as indices: where in the file each image lies, also in tars within the tar.
Nothing is ever unpacked.

A member is read by its place, so its name cannot lead anywhere. Links, devices, sparse files and members
whose names are absolute or climb out with '..' are left out.
"""

import os
import sys
import tarfile

import numpy as np
from tqdm import tqdm

from data.errors import DataError
from data.sources.encoded import NAMES, Encoded

BLOCK = 512  # bytes; a tar is made of them


def index_tar(path, root):
    """The images in the tar at `path`: (classes, loose).

    classes: {name: Encoded} of the tars in it, such as n01440764.tar, without the suffix; loose: Encoded of
    the images that lie in it directly, in the order of their names.
    Raises DataError if it is compressed, damaged or cut short.
    """
    classes, loose, left_out = {}, [], []
    try:
        with open(path, "rb") as file:
            stat = os.fstat(file.fileno())
            with tqdm(desc=f"index of {os.path.basename(path)}", unit=" members") as progress:
                for outer, member in _members(file, path, 0, stat.st_size, left_out):
                    progress.update()
                    if not member.name.endswith(".tar"):
                        loose.append((member.name, member.offset_data, member.size))
                        continue
                    name = os.path.basename(member.name)[:-len(".tar")]
                    if name in classes:
                        raise DataError(f"{path}: holds two tars of class {name}")
                    where = f"{path}, {member.name}"
                    inner = _members(outer.extractfile(member), where, member.offset_data,
                                     member.size, left_out)
                    rows = [(f"{name}.tar/{m.name}", member.offset_data + m.offset_data, m.size)
                            for _, m in inner]
                    classes[name] = _encoded(rows, path, root, stat.st_mtime_ns)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    if left_out:
        print(f"{path}: left out {len(left_out)} members that are no plain files or have unsafe names, first "
              f"{left_out[0]}",
              file=sys.stderr)
    return classes, _encoded(loose, path, root, stat.st_mtime_ns)


def _encoded(rows, path, root, stamp):
    names, offsets, sizes = zip(*rows, strict=True) if rows else ((), (), ())
    names = [name.encode(errors="replace").decode() for name in names]  # a name may be no text
    return Encoded(root, np.array(names, NAMES), np.array(sizes, np.int64),
                   np.full(len(rows), stamp, np.int64),
                   np.array(offsets, np.int64), np.zeros(len(rows), np.int32), (path,)).sorted()


def _members(file, where, start, size, left_out):
    """(tar, member) for each plain file in the tar that the binary file `file` is, `size` bytes from byte
    `start` of the file on disk. Names of other members than folders are appended to left_out."""
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # tarfile would keep all of them in memory
                if member.isdir():
                    continue
                unsafe = member.name.startswith("/") or ".." in member.name.split("/")
                if not member.isreg() or member.issparse() or unsafe:
                    left_out.append(member.name)
                elif not 0 <= member.size <= size - member.offset_data:
                    raise DataError(f"{where}: is cut short in member {member.name}; download it again")
                else:
                    yield tar, member
            file.seek(tar.offset)
            if file.read(BLOCK).strip(b"\0"):  # tarfile takes a damaged header for the end
                raise DataError(f"{where}: is damaged at byte {start + tar.offset}; download it again")
    except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{where}: is not a whole, uncompressed tar: {reason}") from error


def apply_patches(images, patches):
    """The images with those replaced that have a namesake in `patches`,
    as ILSVRC-2010's patch_images.tar holds them."""
    places = {os.path.basename(name): i for i, name in enumerate(patches.names)}
    pairs = [(i, places[base]) for i, name in enumerate(images.names)
             if (base := os.path.basename(name)) in places]
    if not pairs:
        return images
    old, new = np.array(pairs).T
    images = images.take(slice(None))
    images.which = images.which.copy()
    for name in ("names", "sizes", "stamps", "offsets"):
        column = getattr(images, name).copy()
        column[old] = getattr(patches, name)[new]
        setattr(images, name, column)
    images.which[old] = len(images.archives)
    images.archives = (*images.archives, *patches.archives)
    return images

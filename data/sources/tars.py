"""Tar archives as indices: where in the file each image lies, also in tars within the tar.
Nothing is ever unpacked.

A member is read by its place, so its name cannot lead anywhere. Links, devices, sparse files and members
whose names are absolute or climb out with '..' are left out, as are those that no folder's images would be.
"""

import os
import tarfile

import numpy as np
from tqdm import tqdm

from data.errors import DataError
from data.sources.encoded import NAMES, Encoded, as_text
from data.sources.folders import why_left_out
from data.sources.image import SUFFIXES

BLOCK = 512  # bytes; a tar is made of them


def index_tar(path, root, left_out):
    """The images in the tar at `path`: (classes, loose).

    classes: {name: Encoded} of the tars in it, such as n01440764.tar, without the suffix; loose: Encoded of
    the images that lie in it directly, in the order of their names. What else is in it is appended to
    left_out, as (path below `root`, reason).
    Raises DataError if it is compressed, damaged or cut short.
    """
    classes, loose, below = {}, [], as_text(os.path.relpath(path, root))
    try:
        with open(path, "rb") as file:
            stat = os.fstat(file.fileno())
            with tqdm(desc=f"index of {os.path.basename(path)}", unit=" members") as progress:
                for outer, member in _members(file, path, below, 0, stat.st_size, left_out):
                    progress.update()
                    if not member.name.endswith(".tar"):
                        loose.append((member.name, member.offset_data, member.size))
                        continue
                    name = as_text(os.path.basename(member.name)[:-len(".tar")])
                    if name in classes:
                        raise DataError(f"{path}: holds two tars of class {name}")
                    where = f"{path}, {member.name}"
                    inner = _members(outer.extractfile(member), where, f"{below}/{name}.tar",
                                     member.offset_data, member.size, left_out)
                    rows = []
                    for _, m in inner:
                        if m.name.endswith(".tar"):
                            left_out.append((f"{below}/{name}.tar/{as_text(m.name)}",
                                             "is a tar in a class's tar"))
                        else:
                            rows.append((f"{name}.tar/{m.name}", member.offset_data + m.offset_data, m.size))
                    classes[name] = _encoded(rows, path, root, stat.st_mtime_ns)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    return classes, _encoded(loose, path, root, stat.st_mtime_ns)


def _encoded(rows, path, root, stamp):
    names, offsets, sizes = zip(*rows, strict=True) if rows else ((), (), ())
    return Encoded(root, np.array([as_text(name) for name in names], NAMES), np.array(sizes, np.int64),
                   np.full(len(rows), stamp, np.int64),
                   np.array(offsets, np.int64), np.zeros(len(rows), np.int32), (path,)).sorted()


def _members(file, where, below, start, size, left_out):
    """(tar, member) for each image and tar in the tar that the binary file `file` is, `size` bytes from byte
    `start` of the file on disk. Other members than folders are appended to left_out,
    as (`below`/name, reason)."""
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # tarfile would keep all of them in memory
                if member.isdir():
                    continue
                reason = _why_left_out(member)
                if reason:
                    left_out.append((f"{below}/{as_text(member.name)}", reason))
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


def _why_left_out(member):
    """The reason why a tar's member is neither an image nor a tar to read, or None."""
    if not member.isreg() or member.issparse():
        return "is no plain file in a tar"
    if member.name.startswith("/") or ".." in member.name.split("/"):
        return "has a name that leads out of its tar"
    return why_left_out(member.name, (*SUFFIXES, ".tar"))


def apply_patches(images, patches):
    """The images with those replaced that have a namesake in `patches`,
    as ILSVRC-2010's patch_images.tar holds them, and which of the patches do so, a set."""
    places = {os.path.basename(name): i for i, name in enumerate(patches.names)}
    pairs = [(i, places[base]) for i, name in enumerate(images.names)
             if (base := os.path.basename(name)) in places]
    if not pairs:
        return images, set()
    old, new = np.array(pairs).T
    images = images.take(slice(None))
    images.which = images.which.copy()
    for name in ("names", "sizes", "stamps", "offsets"):
        column = getattr(images, name).copy()
        column[old] = getattr(patches, name)[new]
        setattr(images, name, column)
    images.which[old] = len(images.archives)
    images.archives = (*images.archives, *patches.archives)
    return images, set(new.tolist())

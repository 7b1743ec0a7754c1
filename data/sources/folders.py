"""What a folder holds: images, folders, and what is left out of a data set, with the reason."""

import os
import re
import stat
from collections import Counter
from pathlib import Path

import numpy as np

from data.sources.encoded import NAMES, VANISHED, Encoded, as_text
from data.sources.image import SUFFIXES

# Of notebooks, file managers and operating systems: copies, previews and lists of images, but no data.
HIDDEN = re.compile(r"\.(?!\.?$)|(__MACOSX|@eaDir|\$RECYCLE\.BIN|System Volume Information|lost\+found|"
                    r"Icon\r|desktop\.ini|(eh)?thumbs(_vista)?\.db)$", re.IGNORECASE)
OTHER = "is no part of the data set"


def why_left_out(name, suffixes=SUFFIXES):
    """The reason why a file of this name, a path in a tar for instance, is not read, or None."""
    if any(HIDDEN.match(part) for part in name.split("/")):
        return "is hidden"
    suffix = os.path.splitext(name)[1].lower()
    return None if suffix in suffixes else f"is of a kind that is not read ({as_text(suffix) or 'no suffix'})"


def by_reason(reasons):
    """{reason: how many}, the most frequent first. What follows a reason's colon is left away, as it is of
    one file only."""
    return dict(Counter(reason.partition(":")[0] for reason in reasons).most_common())


def leave_out(source, path, reason, left_out):
    """Append to left_out, as (path, reason), the file at `path` below `source`,
    or every file that is in the folder there. Of hidden ones the reason is that."""
    def add(*places):
        name = os.path.relpath(os.path.join(*places), source)
        hidden = any(HIDDEN.match(part) for part in name.split("/"))
        left_out.append((as_text(name), "is hidden" if hidden else reason))

    top = os.path.join(source, path)
    if not os.path.isdir(top) or os.path.islink(top):
        return add(top)
    for place, below, names in os.walk(top, onerror=lambda error: add(error.filename)):
        for name in names + [name for name in below if os.path.islink(os.path.join(place, name))]:
            add(place, name)


def list_beside(source, used):
    """[(path, reason)] of every file in `source` but those at and in the paths `used`."""
    left_out, used = [], [os.path.relpath(path, source) for path in used]
    for name in sorted(set(os.listdir(source)) - set(used)):
        leave_out(source, name, OTHER, left_out)
    return left_out


def look(source, folder, left_out):
    """What is in source/folder: (folders, {file: os.stat_result}), by paths below `source`, sorted.

    Links count as what they lead to. Hidden files, links that lead nowhere or back to a folder that they lie
    in, pipes and devices are appended to left_out, as (path, reason). Raises OSError for a folder or a
    disk that cannot be read.
    """
    folders, files = [], {}
    with os.scandir(os.path.join(source, folder)) as entries:
        entries = sorted(entries, key=lambda entry: entry.name)
    for entry in entries:
        path = os.path.join(folder, entry.name)
        if HIDDEN.match(entry.name):
            leave_out(source, path, "is hidden", left_out)
            continue
        try:
            status = os.stat(entry.path)
        except OSError as error:
            link = entry.is_symlink()
            if not link and not isinstance(error, FileNotFoundError):
                raise
            leave_out(source, path, "is a link that leads nowhere" if link else VANISHED, left_out)
            continue
        if stat.S_ISREG(status.st_mode):
            files[path] = status
        elif not stat.S_ISDIR(status.st_mode):
            leave_out(source, path, "is no plain file", left_out)
        elif any(os.path.samestat(parent.stat(), status)
                 for parent in Path(os.path.realpath(source), path).parents):
            leave_out(source, path, "is a link that leads back to a folder around it", left_out)
        else:
            folders.append(path)
    return folders, files


def list_images(source, folder, left_out):
    """The images in source/folder and below it, Encoded, sorted by their paths.
    What else is there is appended to left_out, as (path, reason)."""
    rows, waiting = [], [folder]
    while waiting:
        folders, files = look(source, waiting.pop(), left_out)
        waiting += folders
        for path, status in files.items():
            if reason := why_left_out(os.path.basename(path)):
                leave_out(source, path, reason, left_out)
            else:
                rows.append((path, status.st_size, status.st_mtime_ns))
    paths, sizes, stamps = zip(*sorted(rows), strict=True) if rows else ((), (), ())
    names = [as_text(path) for path in paths]
    raw = {name: path for name, path in zip(names, paths, strict=True) if name != path}
    return Encoded(os.fspath(source), np.array(names, NAMES), np.array(sizes, np.int64),
                   np.array(stamps, np.int64), raw=raw)

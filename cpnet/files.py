"""Files that are whole, or as they were before; and that one process at a time makes."""
import errno
import fcntl
import os
import stat
from contextlib import contextmanager

from cpnet.errors import CpnetError

NO_LOCKS = errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS  # where there are none, a file matters more than a lock


def check_output(path):
    """Where a file called `path` will be, links followed.

    Raises CpnetError unless that is a new name or a regular file, in a folder that exists: a device or a pipe
    is not ours to replace.
    """
    try:
        place = os.path.realpath(path)
        if not os.path.isdir(os.path.dirname(place)):
            raise CpnetError(f"{path}: could not be written: there is no folder {os.path.dirname(place)}")
        if os.path.lexists(place):
            mode = os.lstat(place).st_mode
            if not stat.S_ISREG(mode):
                kind = "a folder" if stat.S_ISDIR(mode) else "no regular file"
                raise CpnetError(f"{path}: could not be written: it is {kind}; choose another name")
        elif not os.access(os.path.dirname(place), os.W_OK):
            raise CpnetError(f"{path}: could not be written: its folder may not be written to")
    except (OSError, ValueError) as error:
        raise CpnetError(f"{path}: could not be written ({getattr(error, 'strerror', None) or error})"
                         ) from error
    return place


def write_atomically(path, content):
    """Write bytes or text to `path` by way of the file PATH.partial.
    Raises CpnetError, leaving the old file, if it cannot."""
    place = check_output(path)
    temporary = f"{place}.partial"
    try:
        with open(_locked(temporary, wait=True), "wb") as file:
            try:
                file.truncate()
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
                os.replace(temporary, place)
            except BaseException:
                os.remove(temporary)
                raise
    except OSError as error:
        raise CpnetError(f"{path}: could not be written ({error.strerror}); what was there before is "
                         "untouched") from error


@contextmanager
def owned(path):
    """In its `with` block, no other process makes `path`, a file or a folder.
    Raises CpnetError if one does already.

    The lock is on the file PATH.lock, and ends with the process, however that ends.
    """
    place = f"{os.path.realpath(path)}.lock"
    try:
        fd = _locked(place, wait=False)
    except BlockingIOError:
        raise CpnetError(f"{path}: another process is writing it; wait for that one, or choose another name"
                         ) from None
    except OSError as error:
        raise CpnetError(f"{path}: could not be written ({error.strerror})") from error
    try:
        yield
    finally:
        os.remove(place)
        os.close(fd)


def _locked(place, wait):
    """A descriptor of the file `place`, made if it is not there, which this process has locked.

    Raises BlockingIOError where another process has, unless it is to wait for that one.
    """
    while True:
        fd = os.open(place, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            if error.errno not in NO_LOCKS:
                os.close(fd)
                raise
        try:
            if os.path.samestat(os.fstat(fd), os.stat(place)):
                return fd
        except FileNotFoundError:
            pass  # the process that had locked it has removed or renamed it: begin again
        os.close(fd)

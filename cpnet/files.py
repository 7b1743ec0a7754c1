"""Files that are whole, or as they were before."""
import os

from cpnet.errors import CpnetError


def write_atomically(path, content):
    """Write bytes or text to `path` by way of a temporary file.
    Raises CpnetError, leaving the old file, if it cannot."""
    temporary = f"{path}.partial"
    try:
        with open(temporary, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if os.path.exists(temporary):
            os.remove(temporary)
        raise CpnetError(f"{path}: could not be written ({error.strerror}); what was there before is "
                         "untouched") from error

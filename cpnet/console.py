"""The program's own streams and exit code, whatever they are connected to."""
import os
import sys

from cpnet.errors import fail


class Output:
    """A standard stream that never stops the work: what cannot be written is lost, `lost` is the error."""

    def __init__(self, stream):
        self.stream, self.lost = stream, None
        stream.reconfigure(errors="replace")  # an ASCII terminal shows × as ?

    def write(self, text):
        self._try(self.stream.write, text)
        return len(text)

    def flush(self):
        self._try(self.stream.flush)

    def _try(self, action, *arguments):
        if self.lost is None:
            try:
                action(*arguments)
            except (OSError, ValueError) as error:  # a full disk, a pipe that nobody reads, a closed stream
                self.lost = error

    def __getattr__(self, name):
        return getattr(self.stream, name)


def run(main, words):
    """The exit code of main(words), for which errors that a person can mend are one line on stderr."""
    for descriptor in 0, 1, 2:  # a closed one would become that of the next file that is opened
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name in "stdout", "stderr":
        setattr(sys, name, Output(getattr(sys, name) or open(os.devnull, "w")))
    try:
        code = main(words)
    except SystemExit as ended:
        code = ended.code
    except MemoryError as error:
        code = fail(f"out of memory ({error or 'of unknown size'}); smaller numbers need less, such as a "
                    "smaller --batch")
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        code = fail(f"{where}{error.strerror or error}")
    sys.stdout.flush()
    lost = sys.stdout.lost
    if lost is not None:
        if not isinstance(lost, BrokenPipeError):  # a reader such as `head` has seen enough
            fail(f"standard output could not be written ({getattr(lost, 'strerror', None) or lost})")
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = code or 1
    return code

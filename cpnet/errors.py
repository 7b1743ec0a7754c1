"""The errors that are a person's to mend: one line, what was wrong and the way out. The command line prints just that."""
import sys


class CpnetError(Exception):
    """A setting, file or run that cannot be used; the message names it and says what to do."""


class Diverged(CpnetError):
    """A run's loss or weights are not finite any more: its learning rate is too large."""


class Stopped(Exception):
    """Somebody asked the program to stop; what had to be saved is."""


def fail(message, code=1):
    """Print an error as one line; returns the exit code."""
    print("error: " + " ".join(str(message).split()), file=sys.stderr)
    return code

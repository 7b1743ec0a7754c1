"""The errors that a person can mend. The command line prints one line: what was wrong, and the way out."""
import sys


class CpnetError(Exception):
    """A setting, file or run that cannot be used. The message names it and says what to do."""


class Diverged(CpnetError):
    """A run's loss or weights are no longer finite: its learning rate is too large."""


class Stopped(Exception):
    """A person asked the program to stop. What had to be saved is saved."""


def fail(message, code=1):
    """Print an error as one line. Returns the exit code."""
    print("error: " + " ".join(str(message).split()), file=sys.stderr)
    return code

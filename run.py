"""Command line: `python run.py [options]` trains; `python run.py COMMAND --help` explains the other commands:
evaluate, predict, summary, gradcheck, ablate, figure1, filters, features, codes, neighbours, report, fetch, prepare, subset,
check, synthetic, export, import.
"""
import difflib
import importlib
import sys

from cpnet.errors import CpnetError
from cpnet.options import fail
from data.errors import DataError

COMMANDS = ("evaluate", "predict", "summary", "gradcheck", "ablate", "figure1", "filters", "features", "codes", "neighbours",
            "report", "fetch", "prepare", "subset", "check", "synthetic", "export", "import")  # in cpnet/commands/


def main(words):
    """Run the command line `words`; returns the exit code. What a person can mend is one line on stderr."""
    named = bool(words) and not words[0].startswith("-")
    if named and words[0] not in COMMANDS:
        near = difflib.get_close_matches(words[0], COMMANDS, 1, 0)[0]
        return fail(f"there is no command {words[0]!r}: did you mean {near!r}? There are {', '.join(COMMANDS)}", 2)
    try:
        if named:
            return importlib.import_module(f"cpnet.commands.{words[0]}").main(words[1:]) or 0
        return importlib.import_module("cpnet.commands.train").main(words, __doc__)
    except (CpnetError, DataError) as error:
        return fail(error)
    except KeyboardInterrupt:
        return fail("interrupted; the last checkpoint is untouched", 130)
    except BrokenPipeError:
        sys.stderr.close()
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

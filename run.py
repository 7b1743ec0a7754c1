"""cpnet: the 2012 paper's ImageNet net, written directly on arrays.

    python run.py --epochs 5                             train (what, and how: run.py train --help)
    python run.py --resume                               go on with the newest run
    python run.py evaluate runs/mini-1/checkpoint-best.h5        say its top-1 and top-5 error
    python run.py predict runs/mini-1/checkpoint-best.h5 X.jpg   say what it sees in pictures
    python run.py prepare FOLDER my.h5                   make a data set of a folder of images

data                 prepare, check, subset, fetch, synthetic
nets                 train, evaluate, predict, summary, gradcheck
weights              import, export
the paper's studies  ablate, figure1, filters, features, codes, neighbours
a run as a page      report

`python run.py COMMAND --help` explains a command and its options. Without a command it trains.
`python run.py --version` says what a report of a bug needs. README.md leads on.
"""
import difflib
import importlib
import sys

from cpnet.errors import CpnetError, fail
from data.errors import DataError

COMMANDS = (  # each a module of cpnet/commands/
    "train", "evaluate", "predict", "summary", "gradcheck", "ablate", "figure1", "filters", "features", "codes", "neighbours",
    "report", "fetch", "prepare", "subset", "check", "synthetic", "export", "import")


def main(words):
    """Run the command line `words`; returns the exit code. What a person can mend is one line on stderr."""
    if words[:1] in (["--help"], ["-h"], ["help"]):
        if words[1:2] and words[1] in COMMANDS:
            return main([words[1], "--help"])
        print(__doc__.strip())
        return 0
    if words == ["--version"]:
        print(importlib.import_module("cpnet.machine").versions())
        return 0
    command = "train"
    if words and not words[0].startswith("-"):
        command, *words = words
    if command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, 1, 0)[0]
        return fail(f"there is no command {command!r}: did you mean {near!r}? There are {', '.join(COMMANDS)}", 2)
    try:
        return importlib.import_module(f"cpnet.commands.{command}").main(words) or 0
    except (CpnetError, DataError) as error:
        return fail(error)
    except KeyboardInterrupt:
        return fail("interrupted; the last checkpoint is untouched", 130)
    except BrokenPipeError:
        sys.stderr.close()
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

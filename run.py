"""cpnet: the ImageNet network of 2012 (Krizhevsky, Sutskever, Hinton), written directly on arrays.

usage: python run.py [COMMAND] [options]                without a COMMAND it trains, as `train` does

The five commands that most people need, each with an example:
  train     trains a net; --resume goes on              python run.py train --epochs 5
  evaluate  measures the errors of a trained net        python run.py evaluate CHECKPOINT --crops 10
  predict   says what pictures show                     python run.py predict CHECKPOINT cat.jpg
  prepare   makes a data set from images                python run.py prepare FOLDER my.h5
  report    shows a run as one HTML page                python run.py report runs/mini-1

The other commands:
  data      fetch downloads a public set; check examines one; subset takes some of its classes;
            synthetic makes one of random images
  weights   export writes them for other programs; import reads them, also from Caffe
  studies   figure1 and ablate train the paper's comparisons; filters draws figure 3; features,
            codes and neighbours find images that are alike (figure 4)
  looking   summary prints or draws a net; gradcheck compares all gradients with finite differences

A trained net is a CHECKPOINT, such as runs/mini-1/checkpoint-best.h5. To go deeper:
  python run.py COMMAND --help                          explains a command and its options
  python run.py --version                               prints what a report of a bug needs
"""
import difflib
import importlib
import os
import sys

from cpnet import console
from cpnet.errors import CpnetError, fail
from data.errors import DataError

COMMANDS = (  # each is a module in cpnet/commands/
    "train", "evaluate", "predict", "prepare", "report", "fetch", "check", "subset", "synthetic", "export",
    "import", "figure1", "ablate", "filters", "features", "codes", "neighbours", "summary", "gradcheck")


def main(words):
    """Run the command line `words`; returns the exit code. What a person can mend is one line on stderr."""
    first = words[0] if words else ""
    if first in ("--help", "-h") or words == ["help"]:
        print(__doc__.strip())
        return 0
    if first == "help":
        return main([words[1], "--help"])
    if first == "--version":
        print(importlib.import_module("cpnet.machine").about())
        return 0
    if not first or first.startswith("-"):
        words = ["train", *words]
    elif first not in COMMANDS:
        near = difflib.get_close_matches(first, COMMANDS, 1, 0)[0]
        return fail(f"there is no command {first!r}: did you mean {near!r}? There are {', '.join(COMMANDS)}",
                    2)
    try:
        return importlib.import_module(f"cpnet.commands.{words[0]}").main(words[1:]) or 0
    except (CpnetError, DataError) as error:
        return fail(error)
    except KeyboardInterrupt:
        return fail("interrupted; the last checkpoint is untouched", 130)


if __name__ == "__main__":
    # Before NumPy is loaded: its products run in one thread each (cpnet/threads.py), and more would only take
    # memory, which under a tight limit leaves OpenBLAS waiting for ever.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    sys.exit(console.run(main, sys.argv[1:]))

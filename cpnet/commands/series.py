"""What the commands share that train a series of nets.

Each net is an ordinary run, made by options of `train`, so that one can resume it, look at it and repeat it.
"""
import json
import os
from contextlib import contextmanager
from pathlib import Path

from cpnet.commands import train
from cpnet.errors import CpnetError
from cpnet.files import owned, write_atomically
from cpnet.run_folder import LAST, make_folder, read_object, read_text


@contextmanager
def begun(path, settings):
    """In its `with` block, the folder of `path` belongs to this series, whose settings the file `path` has.

    Raises CpnetError if the file is there and holds others, or while another process trains this series.
    """
    path = Path(path)
    make_folder(path.parent.parent)
    with owned(path.parent):
        if not os.path.lexists(path):
            make_folder(path.parent)
            write_atomically(path, json.dumps(settings, indent=1) + "\n")
        before = read_object(path, read_text(path))
        for key in settings:
            if before.get(key) != settings[key]:
                raise CpnetError(f"{path.parent}: was begun with {key} {before.get(key)}, not "
                                 f"{settings[key]}: give the same options to go on, or another folder with "
                                 "--runs")
        yield


def run(options, name, words, resumed=()):
    """Train the run `name` with the `words` of `train`, or go on with it, with the words `resumed`.

    options: those of the series, of which `runs` and the device's are passed on. Returns the exit code.
    """
    where = ["--runs", options.runs, "--loader-threads", options.loader_threads]
    if options.devices:
        where += ["--devices", options.devices]
    if options.threads:
        where += ["--threads", options.threads]
    if (Path(options.runs) / name / LAST).exists():
        what = ["--resume", name, *resumed]
    else:
        what = ["--name", name, "--overwrite", "--math", options.math, *words]
    return train.main([str(word) for word in where + what])

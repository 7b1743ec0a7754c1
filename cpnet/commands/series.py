"""What the commands share that train a series of nets. Each net is an ordinary run, made by the train command's own options,
so that it can be resumed, looked at and repeated."""
import json
from pathlib import Path

from cpnet.commands import train
from cpnet.errors import CpnetError
from cpnet.files import write_atomically
from cpnet.run_folder import LAST


def begin(path, settings):
    """Write the settings of a series to `path`, or make sure that they are those there. Raises CpnetError where not."""
    path = Path(path)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(settings, indent=1) + "\n")
        return
    before = json.loads(path.read_text())
    for key in settings:
        if before.get(key) != settings[key]:
            raise CpnetError(f"{path.parent}: was begun with {key} {before.get(key)}, not {settings[key]}: "
                             "give the same options to go on, or another --runs")


def run(options, name, words, resumed=()):
    """Train the run `name` with the train command's `words`, or go on with it, with the words `resumed`.

    options: the command's own, of which `runs` and those that say where to compute are passed on. Returns the exit code.
    """
    places = [word for key in ("devices", "threads", "loader_threads") if getattr(options, key)
              for word in (f"--{key.replace('_', '-')}", getattr(options, key))]
    saved = (Path(options.runs) / name / LAST).exists()
    how = ["--resume", name, *resumed] if saved else ["--name", name, "--overwrite", "--math", options.math, *words]
    return train.main([str(word) for word in ["--runs", options.runs, *places, *how]])

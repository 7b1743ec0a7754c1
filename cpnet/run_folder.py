"""What a run leaves behind: the folder runs/<name>/ with its settings, log, curves and checkpoints."""
import io
import json
import os
import shutil
from pathlib import Path

import numpy as np

from cpnet import settings
from cpnet.checkpoint import Checkpoint
from cpnet.errors import CpnetError
from cpnet.figures import curves
from cpnet.files import write_atomically
from cpnet.machine import machine

LAST, BEST = "checkpoint-last.h5", "checkpoint-best.h5"
LOGGED = {"epoch", "step", "lr", "train_loss", "train_top1", "val_loss", "val_top1", "val_top5",
          "images_per_s", "seconds"}


class RunFolder:
    """runs/<name>/: config.json, log.jsonl, probes.jsonl, curves.png, checkpoint-{last,best}.h5, filters/."""

    def __init__(self, path):
        self.path = Path(path)
        self.last, self.best = self.path / LAST, self.path / BEST

    def create(self, chosen, *, overwrite=False):
        """Make the folder, with the settings `chosen`. Raises CpnetError if it exists, unless `overwrite`."""
        if self.path.exists():
            if not overwrite:
                raise CpnetError(f"{self.path}: exists already; go on with it by --resume {self.path.name}, "
                                 f"replace it with --overwrite, or choose another --name")
            foreign = any(entry.suffix != ".partial" for entry in self.path.iterdir())
            if foreign and not (self.path / "config.json").exists():
                raise CpnetError(f"{self.path}: is not the folder of a run and will not be overwritten; "
                                 f"choose another --name")
            shutil.rmtree(self.path)
        try:
            self.path.mkdir(parents=True)
        except OSError as error:
            raise CpnetError(f"{self.path}: could not be made ({error.strerror})") from error
        self.write_settings(chosen)

    def write_settings(self, chosen):
        """Write config.json: the settings, and "started": on which machine, with which versions, and when."""
        path, chosen = self.path / "config.json", dict(chosen)
        before = self._json(path, path.read_text()).get("started", []) if path.exists() else []
        started = [*before, machine(chosen.get("devices") or "cpu")]
        write_atomically(path, json.dumps({**chosen, "started": started}, indent=2) + "\n")

    def write_history(self, history):
        """Write log.jsonl, one object for each epoch, and curves.png, both anew from the whole history."""
        write_atomically(self.path / "log.jsonl", "".join(json.dumps(epoch) + "\n" for epoch in history))
        if history:
            curves(history, self.path / "curves.png")

    def read(self):
        """The run's Settings, the list of its starts, and the log's objects, at any time of the run.

        Raises CpnetError for a folder that is not a run's, and for a file that is damaged.
        """
        path, log = self.path / "config.json", self.path / "log.jsonl"
        try:
            found = self._json(path, path.read_text())
            lines = log.read_text().splitlines() if log.exists() else []  # a run just begun has none
        except FileNotFoundError:
            raise CpnetError(f"{self.path}: is not the folder of a run: there is no {path.name} in it"
                             ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise CpnetError(f"{self.path}: cannot be read as a run ({error})") from error
        history = [self._json(f"{log}, line {number}", line) for number, line in enumerate(lines, 1)]
        for line in history:
            lacking = LOGGED - line.keys()
            if lacking:
                raise CpnetError(f"{log}: has no {min(lacking)!r}: it was not written by this program")
        return settings.read(path, found), found.get("started", []), history

    @staticmethod
    def _json(place, text):
        """The object that a JSON text describes. Raises CpnetError, naming `place`, if it describes none."""
        try:
            found = json.loads(text)
        except ValueError as error:
            raise CpnetError(f"{place}: is damaged ({error})") from error
        if not isinstance(found, dict):
            raise CpnetError(f"{place}: is damaged: it holds no object")
        return found

    def write_probes(self, probes):
        """Write probes.jsonl: one object for each [step, error] in `probes`, if there are any."""
        if probes:
            lines = [json.dumps({"step": step, "error": error}) + "\n" for step, error in probes]
            write_atomically(self.path / "probes.jsonl", "".join(lines))

    def probes(self):
        """What `write_probes` wrote last, or []."""
        path = self.path / "probes.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [[line["step"], line["error"]] for line in map(json.loads, lines)]

    def write_filters(self, epoch, weights):
        """Write filters/NNN.npy: the first layer's weights (F, C, R, S) after this epoch."""
        content = io.BytesIO()
        np.save(content, weights, allow_pickle=False)
        (self.path / "filters").mkdir(exist_ok=True)
        write_atomically(self.path / "filters" / f"{epoch:03}.npy", content.getbuffer())


def first_free(root, net):
    """The first of the names <net>-1, <net>-2, … for which `root` has no folder."""
    k = 1
    while os.path.exists(os.path.join(root, f"{net}-{k}")):
        k += 1
    return f"{net}-{k}"


def find(root, name=None):
    """Folder and checkpoint of the run `name`, or of the newest run. Raises CpnetError if there is none."""
    if name:
        folder = RunFolder(Path(root) / name)
        return folder, Checkpoint(folder.last)
    saved = sorted(Path(root).glob(f"*/{LAST}"), key=lambda path: path.stat().st_mtime)
    if not saved:
        raise CpnetError(f"--resume: there is no run with a checkpoint under {root}")
    return RunFolder(saved[-1].parent), Checkpoint(saved[-1])

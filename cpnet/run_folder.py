"""What a run leaves behind: the folder runs/<name>/ with its settings, log, curves and checkpoints."""
import io
import itertools
import json
import os
import re
from pathlib import Path

import numpy as np

from cpnet import settings, state
from cpnet.errors import CpnetError
from cpnet.figures import curves
from cpnet.files import write_atomically
from cpnet.machine import machine
from data.store.hdf5 import check_input

LAST, BEST = "checkpoint-last.h5", "checkpoint-best.h5"
FILTERS = re.compile(r"\d{3,}\.npy")  # what is in the folder filters/
WRITTEN = {"config.json", "log.jsonl", "probes.jsonl", "curves.png", "report.html", LAST, BEST}


class RunFolder:
    """runs/<name>/: config.json, log.jsonl, probes.jsonl, curves.png, checkpoint-{last,best}.h5, filters/."""

    def __init__(self, path):
        self.path = Path(path)
        self.last, self.best = self.path / LAST, self.path / BEST
        self.filters = self.path / "filters"

    def create(self, chosen, *, overwrite=False):
        """Make the folder, with the settings `chosen`. Raises CpnetError if it exists, unless `overwrite`;
        then only what a run has written is removed, and a folder that holds anything else stays as it is."""
        if os.path.lexists(self.path) and not (self.path.is_dir() and not any(self.path.iterdir())):
            if not overwrite:
                raise CpnetError(f"{self.path}: exists already; go on with it by --resume {self.path.name}, "
                                 f"replace it with --overwrite, or choose another --name")
            self._clear()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CpnetError(f"{self.path}: could not be made ({error.strerror})") from error
        self.write_settings(chosen)

    def _clear(self):
        """Remove what a run has written.
        Raises CpnetError, and removes nothing, if there is anything else."""
        if not self.path.is_dir() or self.path.is_symlink():
            raise CpnetError(f"{self.path}: is not the folder of a run and will not be overwritten; choose "
                             "another --name")
        files = sorted(self.path.iterdir())
        if self.filters.is_dir() and not self.filters.is_symlink():
            files = [path for path in files if path != self.filters] + sorted(self.filters.iterdir())
        for path in files:
            name = path.name.removesuffix(".partial")
            ours = name in WRITTEN if path.parent == self.path else FILTERS.fullmatch(name)
            if not ours or not path.is_file() or path.is_symlink():
                raise CpnetError(f"{self.path}: holds {path.relative_to(self.path)}, which no run has "
                                 "written, and will not be overwritten; choose another --name")
        for path in files:
            path.unlink()

    def write_settings(self, chosen):
        """Write config.json: the settings, and "started": on which machine, with which versions, and when."""
        path, chosen = self.path / "config.json", dict(chosen)
        before = read_object(path, read_text(path)).get("started") if path.exists() else []
        started = [*(before if isinstance(before, list) else []), machine(chosen.get("devices") or "cpu")]
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
        if not path.exists():
            raise CpnetError(f"{self.path}: is not the folder of a run: there is no {path.name} in it")
        found = read_object(path, read_text(path))
        history = [read_object(f"{log}, line {number}", line)  # a run just begun has none
                   for number, line in enumerate(read_lines(log), 1)]
        for line in history:
            state.check_line(log, line)
        started = found.get("started", [])
        if not isinstance(started, list) or not all(isinstance(place, dict) for place in started):
            raise CpnetError(f"{path}: started is {started!r}, not a list of objects")
        return settings.read(path, found), started, history

    def write_probes(self, probes):
        """Write probes.jsonl: one object for each [step, error] in `probes`, if there are any."""
        if probes:
            lines = [json.dumps({"step": step, "error": error}) + "\n" for step, error in probes]
            write_atomically(self.path / "probes.jsonl", "".join(lines))

    def probes(self):
        """What `write_probes` wrote last, or []."""
        path = self.path / "probes.jsonl"
        points = []
        for number, line in enumerate(read_lines(path), 1):
            place = f"{path}, line {number}"
            found = read_object(place, line)
            points.append([found.get("step"), found.get("error")])
            state.check_probe(place, points[-1])
        return points

    def write_filters(self, epoch, weights):
        """Write filters/NNN.npy: the first layer's weights (F, C, R, S) after this epoch."""
        content = io.BytesIO()
        np.save(content, weights, allow_pickle=False)
        self.filters.mkdir(exist_ok=True)
        write_atomically(self.filters / f"{epoch:03}.npy", content.getbuffer())


def read_object(place, text):
    """The object that a JSON text describes. Raises CpnetError, naming `place`, if it describes none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CpnetError(f"{place}: is damaged ({error})") from error
    if not isinstance(found, dict):
        raise CpnetError(f"{place}: is damaged: it holds no object")
    return found


def read_text(path):
    """The text of a file. Raises CpnetError if it is no regular file, or no text."""
    check_input(path, "file", CpnetError)
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise CpnetError(f"{path}: cannot be read ({error})") from error


def read_filters(path):
    """conv1's weights (F, C, R, S) of one file in filters/. Raises CpnetError if it holds anything else."""
    check_input(path, "file of filters", CpnetError)
    try:
        weights = np.load(path, allow_pickle=False)
    except Exception as error:  # of a damaged head, which is read as Python text: SyntaxError, TokenError, …
        raise CpnetError(f"{path}: cannot be read ({error})") from error
    if not isinstance(weights, np.ndarray) or weights.ndim != 4 or weights.dtype.kind != "f" \
            or not weights.size or not np.isfinite(weights).all():
        raise CpnetError(f"{path}: does not hold filters (F, C, R, S) of finite numbers")
    return weights


def read_lines(path):
    """The lines of a file; [] where there is none."""
    return read_text(path).splitlines() if os.path.lexists(path) else []


def claim(root, net):
    """Make a folder with the first of the names <net>-1, <net>-2, … that is free under `root`: its path."""
    try:
        os.makedirs(root, exist_ok=True)
        for k in itertools.count(1):
            path = Path(root) / f"{net}-{k}"
            try:
                path.mkdir()
                return path
            except FileExistsError:
                continue
    except OSError as error:
        raise CpnetError(f"{root}: no folder could be made in it ({error.strerror})") from error


def folder_of(root, name):
    """The folder of the run `name`; that of all runs, `root`, exists then."""
    make_folder(root)
    return Path(root) / name


def make_folder(path):
    """Make a folder, and those above it, where they are not there. Raises CpnetError if that cannot be."""
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise CpnetError(f"{path}: could not be made ({error.strerror})") from error


def find(root, name=None):
    """The RunFolder of the run `name`, or of the newest run. Raises CpnetError if it has no checkpoint."""
    if name:
        folder = RunFolder(Path(root) / name)
        check_input(folder.last, "checkpoint", CpnetError)
        return folder
    saved = sorted(Path(root).glob(f"*/{LAST}"), key=lambda path: path.stat().st_mtime)
    if not saved:
        raise CpnetError(f"--resume: there is no run with a checkpoint under {root}")
    return RunFolder(saved[-1].parent)

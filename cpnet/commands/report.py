"""A run as one HTML page."""
import os
import shlex
import sys
from pathlib import Path

from cpnet import nets
from cpnet.checkpoint import Checkpoint
from cpnet.commands import train
from cpnet.commands.common import load
from cpnet.errors import CpnetError
from cpnet.evaluate import see_as_trained
from cpnet.files import write_atomically
from cpnet.kinds import positive
from cpnet.options import Parser, device_options
from cpnet.report.facts import Run, look, snapshots
from cpnet.report.report import report
from cpnet.run_folder import RunFolder
from data.store.dataset import Dataset

ROOT = Path(__file__).parents[2]
PLACES = "devices", "threads", "loader_threads", "checkpoint_minutes"  # of the machine, not of the run


def main(words):
    parser = Parser(prog="run.py report", description="a run as one HTML page that needs nothing else: curves, filters, "
                                                      "predictions, neighbours, errors")
    parser.add_argument("run", help="a run's folder, such as runs/mini-1; it may be at work still")
    parser.add_argument("out", nargs="?", metavar="OUT.html", help="the page to write (default: report.html in that folder)")
    parser.add_argument("--data", help="where the data set is now, if it is not where it was")
    parser.add_argument("--split", choices=("val", "test"), default="val", help="whose images are looked at")
    parser.add_argument("--sample", type=positive, default=2000, help="training images among which those alike are sought")
    parser.add_argument("--batch", type=positive, default=128, help="images at a time")
    device_options(parser)
    options = parser.parse(words)
    folder = RunFolder(options.run)
    settings, history = folder.read()
    out = Path(options.out or folder.path / "report.html")
    if out.is_dir() or not os.access(out.parent, os.W_OK):
        raise CpnetError(f"{out}: cannot be written: name a file in a folder that there is")  # before the work, not after it
    path = folder.best if folder.best.exists() else folder.last
    checkpoint = Checkpoint(path) if path.exists() else None
    data, missing = options.data or settings["data"], ""
    run = Run(folder.path.resolve().name, {**settings, "data": nearby(data)}, history, checkpoint,
              snapshots(folder.path, checkpoint))
    if not checkpoint:
        missing = "The run has no checkpoint yet: its net cannot be asked."
    elif not options.data and not os.path.exists(data):
        missing = f"{data} is no longer there, so that the net cannot be asked about its images; --data says where it is now."
    if missing:
        print(f"{options.run}: {missing}", file=sys.stderr)
        content = report(run, command(run), None, missing)
    else:
        with Dataset(data) as dataset:
            network = load(path, options)[1]
            see_as_trained(checkpoint, dataset)
            looked = look(network, dataset, options.split, sample=options.sample, batch=options.batch,
                          threads=options.loader_threads, progress=True)
            content = report(run, command(run), looked, "")
    write_atomically(out, content)
    print(f"{out}: ready, {len(content.encode()) / 1e6:.1f} MB")


def nearby(path):
    """A path as one would name it where run.py is."""
    return os.path.relpath(path, ROOT) if Path(path).is_relative_to(ROOT) else str(path)


def command(run):
    """The command line that makes a run with the same settings, on any machine."""
    settings, table = run.settings, run.table
    profile = nets.PROFILES[table.settings["profile"]]
    usual = {"lr": table.rate, "decay": table.decay, "epochs": profile.epochs, "schedule": profile.schedule}
    net = {key: value for key, value in table.settings.items() if key not in ("name", "image", "classes")}
    chosen = {**settings, **net, "net": table.settings["name"]}
    words = []
    for action in train.parser()._actions:
        value = chosen.get(action.dest)
        if action.dest in PLACES or value in (None, usual.get(action.dest, action.default)):
            continue
        words.append(action.option_strings[0])
        if isinstance(value, dict):
            words.append(",".join(f"{key}={factor:g}" for key, factor in value.items()))
        elif action.nargs != 0:  # takes a value
            words.append(",".join(value) if isinstance(value, list) else str(value))
    return shlex.join(["python", "run.py", *words])

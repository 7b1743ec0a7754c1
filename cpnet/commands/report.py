"""Show a run as one HTML page."""
import os
import shlex
import sys
from dataclasses import replace
from pathlib import Path

from cpnet.checkpoint import Checkpoint
from cpnet.commands.common import add_by_name, load, nearby
from cpnet.evaluate import see_as_trained
from cpnet.files import check_output, write_atomically
from cpnet.kinds import filename, positive
from cpnet.options import Parser, add_devices, as_words
from cpnet.report.facts import Run, look, snapshots
from cpnet.report.report import report
from cpnet.run_folder import RunFolder
from data.store.dataset import Dataset

OF_MACHINE = "devices", "loader_threads", "checkpoint_minutes"  # settings that another machine has otherwise


def main(words):
    parser = Parser("report", "RUN [OUT.html]",
                    "Shows a run as one HTML page, which needs no other file: its curves, filters, "
                    "predictions, similar images and errors.", "Example: python run.py report runs/mini-1")
    parser.add_argument("run", type=filename, metavar="RUN",
                        help="The folder of a run, such as runs/mini-1. It may still be training.")
    parser.add_argument("out", nargs="?", type=filename, metavar="OUT.html",
                        help="The page to write. Default: report.html in RUN.")
    parser.add_argument("--data", type=filename, metavar="DATA.h5",
                        help="Reads the data set from this file. Default: the file that the run was trained "
                             "on.")
    add_by_name(parser)
    parser.add_argument("--split", choices=("val", "test"), default="val", help="Shows images of this split.")
    parser.add_argument("--sample", type=positive, default=2000, metavar="N",
                        help="Looks for similar images among N training images.")
    parser.add_argument("--batch", type=positive, default=128, metavar="N",
                        help="Computes N images at a time.")
    add_devices(parser)
    options = parser.parse(words)
    folder = RunFolder(options.run)
    settings, started, history = folder.read()
    out = Path(options.out or folder.path / "report.html")
    check_output(out)  # before the work, not after it
    path = folder.best if folder.best.exists() else folder.last
    checkpoint = Checkpoint(path) if path.exists() else None
    data, missing = options.data or settings.data, ""
    run = Run(folder.path.resolve().name, replace(settings, data=nearby(data)), history, checkpoint,
              snapshots(folder.path, checkpoint), started)
    if not checkpoint:
        missing = "The run has no checkpoint yet, so its net cannot predict."
    elif not options.data and not os.path.exists(data):
        missing = (f"{nearby(data)} is no longer there, so the net cannot look at its images. Say with "
                   "--data where it is now.")
    if missing:
        print(f"{options.run}: {missing}", file=sys.stderr)
        content = report(run, command(run), None, missing)
    else:
        with Dataset(data) as dataset:
            network = load(path, options)[1]
            see_as_trained(checkpoint, dataset, by_name=options.by_name)
            looked = look(network, dataset, options.split, sample=options.sample, batch=options.batch,
                          threads=options.loader_threads, progress=True)
            content = report(run, command(run), looked, "")
    write_atomically(out, content)
    print(f"{out}: ready, {len(content.encode()) / 1e6:.1f} MB")


def command(run):
    """The command line that makes a run with the same settings, on any machine."""
    return shlex.join(["python", "run.py", *as_words(run.settings, leave_out=OF_MACHINE)])

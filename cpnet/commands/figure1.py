"""Figure 1: train a net with ReLUs and with tanh units, each at its best rate, and count the updates."""
import contextlib
import json
import math
import sys
from pathlib import Path

from cpnet.commands import series, train
from cpnet.commands.common import open_data
from cpnet.errors import CpnetError, Diverged
from cpnet.files import write_atomically
from cpnet.kinds import filename, positive, share, whole
from cpnet.options import Parser, add_devices
from cpnet.run_folder import RunFolder
from cpnet.studies import figure1

COLOUR, GREY = 0.25, 0.2  # the paper's level, on CIFAR-10; one for Fashion-MNIST, which is easier
# The rates to try: the net's own times powers of 2. Short trials begin at 1 and 4 times it, in steps of 4.
START, STRIDE = (0, 2), 2
PROBES = 8  # an epoch: how often the training error is measured
PLAIN = ["--no-dropout", "--weight-decay", 0, "--no-mirror", "--no-colour", "--no-crop",
         "--schedule", "constant"]


class Interrupted(Exception):
    """A run was stopped; the argument is the exit code."""


def main(words):
    parser = Parser("figure1", "",
                    "Trains the same net with ReLUs and with tanh units, without any regularisation, each at "
                    "the learning rate that makes training fastest. Counts the updates until the training "
                    "error has come down to a given level (docs/figure1.md).",
                    "Example: python run.py figure1 --data cifar-10.h5. If it is interrupted, the same "
                    "command goes on.")
    parser.add_argument("--data", type=filename, metavar="DATA.h5",
                        help="Trains on this data set. Default: the one that train takes.")
    parser.add_argument("--level", type=share, metavar="ERROR",
                        help="Trains until the training error is this. Default: 25%% for colour images, as "
                             "in the paper, and 20%% for grey ones.")
    parser.add_argument("--net", default="four-layer", metavar="NET", help="Trains this net with both.")
    parser.add_argument("--epochs", type=positive, default=60, metavar="N",
                        help="Gives up a net that has not come to the level after N epochs.")
    parser.add_argument("--trial-epochs", type=positive, default=2, metavar="N",
                        help="Tries each learning rate for N epochs first.")
    parser.add_argument("--batch", type=positive, default=128, metavar="N",
                        help="Updates the weights after every N images.")
    parser.add_argument("--seed", type=whole, default=0, metavar="N",
                        help="Draws the first weights and the order of the images from this number.")
    parser.add_argument("--picture", type=filename, metavar="PNG",
                        help="Draws the figure to this file. Default: figure1.png in --runs.")
    parser.add_argument("--runs", default="runs/figure1", type=filename, metavar="FOLDER",
                        help="Keeps all of its runs in this folder.")
    parser.add_argument("--json", action="store_true",
                        help="Prints the results as JSON, and all else to stderr.")
    add_devices(parser)
    options = parser.parse(words)
    picture = Path(options.picture or Path(options.runs) / "figure1.png")
    if options.picture and not picture.parent.is_dir():
        raise CpnetError(f"--picture {picture}: its folder does not exist; create {picture.parent} first")
    with contextlib.redirect_stdout(sys.stderr) if options.json else contextlib.nullcontext():
        with open_data(options.data) as dataset:
            words = ["--net", options.net, "--batch", str(options.batch)]
            own = train.new_settings(train.parser().parse(words), dataset).lr
            level = (COLOUR if dataset.channels == 3 else GREY) if options.level is None else options.level
            data, epoch = Path(dataset.path).resolve(), len(dataset.split("train")) // options.batch
        settings = {"data": str(data), "net": options.net, "level": level, "batch": options.batch,
                    "seed": options.seed, "trial epochs": options.trial_epochs}
        shared = ["--data", data, "--net", options.net, "--batch", options.batch, "--seed", options.seed,
                  *PLAIN, "--until", level, "--probe", max(1, epoch // PROBES)]
        try:
            with series.begun(Path(options.runs) / "figure1.json", settings):
                tried = {unit: find_best(options, unit, own, level, epoch, shared) for unit in figure1.UNITS}
        except Interrupted as stopped:
            return stopped.args[0]
    best = {unit: long[0] for unit, (_, long) in tried.items()}
    figure1.draw(best, level, epoch, f"{options.net} on {data.name}", picture)
    results = {**settings, "updates an epoch": epoch, "ratio": figure1.ratio(best)} | {
        unit: {"rate": best[unit].rate, "updates": best[unit].updates, "curve": best[unit].probes,
               "search": [[as_json(each) for each in trials] for trials in tried[unit]]} for unit in best}
    write_atomically(Path(options.runs) / "results.json", json.dumps(results, indent=1) + "\n")
    if options.json:
        print(json.dumps(results, indent=1))
    else:
        print(figure1.table(tried, best, level, options.trial_epochs * epoch, epoch))
        print(f"{figure1.verdict(best, level)}\n{picture}: ready")
    return 0


def find_best(options, unit, own, level, epoch, shared):
    """Find the best rate of one kind of unit.
    Returns (short trials, trials to the level, the best of these first).

    Short trials find the best rate of a coarse grid. That rate and its neighbours are then trained to the
    level. A rate that had a short trial goes on from it.
    """
    def attempt(place, epochs):
        rate = float(f"{own * 2**place:.3g}")
        name = f"{unit}-{rate:g}"
        folder = RunFolder(Path(options.runs) / name)
        if not enough(folder.probes(), epochs):
            words = ["--lr", rate, "--activation", unit, "--epochs", epochs, *shared]
            try:
                code = series.run(options, name, words, ["--epochs", epochs])
            except Diverged as error:
                print(f"{name}: {error}")
                return figure1.Trial(rate, None, math.inf, folder.probes())
            if code:
                raise Interrupted(code)
        return figure1.trial(rate, folder.probes(), level, epochs * epoch)

    def enough(probes, epochs):
        """Whether a run that measured this need not go on to show what it does in so many epochs."""
        return probes and (probes[-1][1] <= level or probes[-1][0] + shared[-1] > epochs * epoch)

    def to_the_level(place, best):
        """No longer than the best so far took."""
        if best is None or best.updates is None:
            return attempt(place, options.epochs)
        return attempt(place, math.ceil(best.updates / epoch))

    short, place = figure1.search(lambda place, _: attempt(place, options.trial_epochs), START, STRIDE)
    long, place = figure1.search(to_the_level, [place], 1)
    return [short[key] for key in sorted(short)], [long.pop(place), *(long[key] for key in sorted(long))]


def as_json(trial):
    """A Trial without its curve."""
    error = trial.error if trial.error < math.inf else "diverged"
    return {"rate": trial.rate, "updates": trial.updates, "error": error}

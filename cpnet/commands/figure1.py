"""Figure 1: ReLUs against tanh units, each with its own best learning rate, to a given training error."""
import contextlib
import json
import math
import sys
from pathlib import Path

from cpnet.commands import series, train
from cpnet.commands.common import open_data
from cpnet.errors import CpnetError, Diverged
from cpnet.files import write_atomically
from cpnet.kinds import positive, share, whole
from cpnet.options import Parser, device_options
from cpnet.run_folder import RunFolder
from cpnet.studies import figure1

COLOUR, GREY = 0.25, 0.2  # the paper's level, on CIFAR-10; one for Fashion-MNIST, which is easier
# The grid of rates: the net's own times powers of 2. Short trials begin at 1 and 4 times it and go on in steps of 4.
START, STRIDE = (0, 2), 2
PROBES = 8  # an epoch: how often the training error is measured
PLAIN = ["--no-dropout", "--weight-decay", 0, "--no-mirror", "--no-colour", "--no-crop", "--schedule", "constant"]


class Interrupted(Exception):
    """A run was stopped; the argument is the exit code."""


def main(words):
    parser = Parser(prog="run.py figure1", epilog="Interrupted, the same command goes on where it stopped.",
                    description="ReLUs against tanh units on the four-layer net without any regularisation, each with the "
                                "learning rate that makes training fastest: updates to a given training error")
    parser.add_argument("--data", help="an .h5 data set (default: as in training)")
    parser.add_argument("--level", type=share, help="the training error to come to (default: 25%% for colour images, the "
                                                    "paper's for CIFAR-10; 20%% for grey ones)")
    parser.add_argument("--net", default="four-layer", help="the net to train with both")
    parser.add_argument("--epochs", type=positive, default=60, help="after so many, a net that is not there is given up")
    parser.add_argument("--trial-epochs", type=positive, default=2, help="for which every rate is tried first")
    parser.add_argument("--batch", type=positive, default=128, help="images an update")
    parser.add_argument("--seed", type=whole, default=0, help="of weights and order")
    parser.add_argument("--picture", metavar="PNG", help="the figure (default: figure1.png in the folder of the series)")
    parser.add_argument("--runs", default="runs/figure1", help="the folder of the series")
    parser.add_argument("--json", action="store_true", help="print JSON; what is said in training goes to stderr")
    device_options(parser)
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
        settings = {"data": str(data), "net": options.net, "level": level, "batch": options.batch, "seed": options.seed,
                    "trial epochs": options.trial_epochs}
        series.begin(Path(options.runs) / "figure1.json", settings)
        shared = ["--data", data, "--net", options.net, "--batch", options.batch, "--seed", options.seed, *PLAIN,
                  "--until", level, "--probe", max(1, epoch // PROBES)]
        try:
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
    """(short trials, trials to the level, the best first): rates coarsely and for a short time, then the best, to the level,
    against its neighbours. A run that goes to the level goes on from its short trial."""
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
        return attempt(place, options.epochs if best is None or best.updates is None else math.ceil(best.updates / epoch))

    short, place = figure1.search(lambda place, _: attempt(place, options.trial_epochs), START, STRIDE)
    long, place = figure1.search(to_the_level, [place], 1)
    return [short[key] for key in sorted(short)], [long.pop(place), *(long[key] for key in sorted(long))]


def as_json(trial):
    """A Trial without its curve."""
    return {"rate": trial.rate, "updates": trial.updates, "error": trial.error if trial.error < math.inf else "diverged"}

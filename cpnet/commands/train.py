"""Train a net: the default command."""
import argparse
import math
from pathlib import Path

from cpnet import nets
from cpnet.checkpoint import Checkpoint
from cpnet.commands.common import default_devices, open_data, place
from cpnet.errors import CpnetError, Stopped
from cpnet.gpu.graph import check
from cpnet.options import Parser, above_zero, device_options, net_options, net_settings, positive, share, whole, zero_or_more
from cpnet.run_folder import RunFolder, find, first_free
from cpnet.schedule import schedule
from cpnet.train import State, Stopping, Trainer
from data.loading.order import SHUFFLES

MAY_CHANGE = "epochs", "devices", "loader_threads", "checkpoint_minutes", "graph"  # when a run is resumed


def parser(description):
    known = Parser(prog="run.py", description=description, epilog="Runs are kept under runs/<name>/; see README.md.")
    known.add_argument("--data", help="an .h5 data set (default: data/imagenet.h5 if it is there, else the bundled one)")
    net_options(known)
    known.add_argument("--epochs", type=whole, help="cycles through the training set (default: 90; as-run 91)")
    known.add_argument("--batch", type=positive, default=128, help="images an update")
    known.add_argument("--lr", type=above_zero, help="learning rate at the start (default: 0.01; four-layer 0.001)")
    known.add_argument("--momentum", type=zero_or_more, default=0.9, help="of the update rule")
    known.add_argument("--weight-decay", type=zero_or_more,
                       help="of the update rule; 0: none at all (default: 0.0005; four-layer 0.004)")
    known.add_argument("--schedule", help="plateau: rate ÷10 when the validation error stops improving, three times; "
                                           "constant; or the epochs to drop after, such as 25,51,79 (default: plateau; as-run "
                                           "25,51,79)")
    known.add_argument("--init-from", metavar="CHECKPOINT", help="start from trained weights, on this or other classes")
    known.add_argument("--replace", type=names, default=[], metavar="LAYERS",
                       help="with --init-from: start these layers afresh, such as fc8 or fc7,fc8")
    known.add_argument("--lr-scale", type=scales, default={}, metavar="LAYER=FACTOR,…",
                       help="of layers that learn slower or faster, such as conv1=0.1,conv2=0.1")
    known.add_argument("--shuffle", choices=SHUFFLES, default="full",
                       help="full; or blocks, for a file larger than memory on a disk that seeks slowly (docs/data.md)")
    known.add_argument("--no-mirror", dest="mirror", action="store_false", help="no horizontal reflections")
    known.add_argument("--no-colour", dest="colour", action="store_false", help="no shift of colours")
    known.add_argument("--no-crop", dest="crops", action="store_false", help="no random crops: always the centre")
    known.add_argument("--probe", type=positive, metavar="UPDATES",
                       help="so often, note the error on 1,000 training images, seen as in testing, in probes.jsonl")
    known.add_argument("--until", type=share, metavar="ERROR", help="end as soon as --probe finds this error, such as 25%%")
    known.add_argument("--seed", type=whole, default=0, help="of weights, order, augmentation and dropout")
    device_options(known)
    known.add_argument("--graph", action=argparse.BooleanOptionalAction, default=False,
                       help="on one GPU: capture the step as CUDA graphs and replay it (not yet seen on a card)")
    known.add_argument("--name", help="of the run (default: the first free <net>-<k>)")
    known.add_argument("--runs", default="runs", help="the folder of all runs")
    known.add_argument("--resume", nargs="?", const="", metavar="NAME", help="go on with a run (default: the newest)")
    known.add_argument("--overwrite", action="store_true", help="replace a run of the same name")
    known.add_argument("--checkpoint-minutes", type=above_zero, default=30.0, help="save so often within an epoch too")
    return known


def names(text):
    """An argument type: names, separated by commas."""
    return [name.strip() for name in text.split(",")]


def scales(text):
    """An argument type: {layer: factor}."""
    try:
        pairs = {name.strip(): float(factor) for name, factor in (part.split("=") for part in text.split(","))}
    except ValueError:
        pairs = {}
    if not pairs or not all(0 <= factor < math.inf for factor in pairs.values()):
        raise argparse.ArgumentTypeError(f"{text!r} does not give layers and factors, such as conv1=0.1,fc8=2")
    return pairs


def main(words, description=__doc__):
    known = parser(description)
    options = known.parse(words)
    if options.resume is None:
        dataset = open_data(options.data)
        settings, state = new_settings(options, dataset), None
        network = place(settings, options)
        check(network, settings.get("graph"))
        if options.init_from:
            Checkpoint(options.init_from).initialise(network, options.replace)
        folder = RunFolder(Path(options.runs) / (options.name or first_free(options.runs, settings["table"]["name"])))
        folder.create(settings, overwrite=options.overwrite)
    else:
        folder, checkpoint = find(options.runs, options.resume or options.name)
        settings, state = resumed_settings(known, words, options, checkpoint), State(**checkpoint.state)
        dataset = open_data(settings["data"])
        network = place(settings, options)
        check(network, settings.get("graph"))
        checkpoint.restore(network)
        folder.write_settings(settings)
    doing = f"going on in epoch {state.epoch + 1}, after {state.batch} of its batches" if state else "training"
    print(f"{folder.path}: {doing} {settings['table']['name']} on {dataset.path} to epoch {settings['epochs']}")
    with Stopping() as stopping:
        trainer = Trainer(network, dataset, folder, settings, state=state, stop=lambda: stopping.signal)
        try:
            trainer.train()
        except Stopped:
            print(f"stopped by {stopping.signal.name} after step {trainer.state.step}; everything is saved: "
                  f"go on with python run.py --resume {folder.path.name}"
                  + f" --runs {options.runs}" * (options.runs != known.get_default("runs")))
            return 128 + stopping.signal
    if trainer.reached():
        print(f"reached a training error of {settings['until']:.2%} after {trainer.state.step:,} updates; see {folder.path}")
    elif trainer.state.history:
        best = min(trainer.state.history, key=lambda line: line["val_top1"])
        print(f"done: validation top-1 error {best['val_top1']:.2%} at best, in epoch {best['epoch']}; see {folder.path}")
    return 0


def new_settings(options, dataset):
    """All that a run is made of, as config.json and the checkpoints keep it."""
    profile = nets.choose(options.profile, nets.PROFILES, "profile")
    crop = nets.crop_size(min(dataset.height, dataset.width), options.profile)
    name = options.net or ("alexnet" if crop >= nets.NETS["alexnet"].smallest else "mini")
    table = nets.build(name, (dataset.channels, crop, crop), len(dataset.classes), **net_settings(options))
    chosen = {"lr": options.lr or table.rate, "epochs": profile.epochs if options.epochs is None else options.epochs,
              "decay": table.decay if options.weight_decay is None else options.weight_decay,
              "schedule": options.schedule or profile.schedule}
    schedule(chosen["schedule"], chosen["epochs"])  # refuses what is none
    dataset.split("val")  # refuses a data set without one
    if len(dataset.split("train")) < options.batch:
        raise CpnetError(f"{dataset.path}: 'train' has {len(dataset.split('train'))} images, not one full batch of "
                         f"{options.batch}; choose a smaller --batch")
    if options.replace and not options.init_from:
        raise CpnetError("--replace names layers that do not start from a checkpoint: give that with --init-from")
    if options.until is not None and not options.probe:
        raise CpnetError("--until needs to know how often to look: give --probe UPDATES with it")
    same = ("batch", "momentum", "init_from", "replace", "lr_scale", "shuffle", "mirror", "colour", "crops", "probe", "until",
            "seed", "math", "loader_threads", "checkpoint_minutes", "graph")
    return {"table": table.settings, "data": dataset.path, **chosen, **{key: getattr(options, key) for key in same},
            "devices": options.devices or default_devices(table)}


def resumed_settings(parser, words, options, checkpoint):
    """The run's own settings, but for what may change. Refuses an option that would make it another run."""
    given = {action.dest: action.option_strings[0] for action in parser._actions
             if set(action.option_strings) & {word.split("=")[0] for word in words}}
    for key, option in given.items():
        if key not in (*MAY_CHANGE, "resume", "name", "runs", "threads"):
            parser.error(f"{option} is part of a run and cannot change with --resume; start a new run, with another --name")
    return {**checkpoint.settings, **{key: getattr(options, key) for key in MAY_CHANGE if key in given}}

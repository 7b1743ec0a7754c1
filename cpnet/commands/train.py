"""Train a net. This is what run.py does if no command is named."""
import os
from dataclasses import replace

import numpy as np

from cpnet import nets
from cpnet.checkpoint import Checkpoint
from cpnet.commands.common import default_devices, nearby, open_data, place
from cpnet.errors import CpnetError, Stopped
from cpnet.evaluate import check_data
from cpnet.files import owned
from cpnet.gpu.graph import check
from cpnet.gpu.memory import no_room
from cpnet.kinds import filename, run_name
from cpnet.machine import free_memory
from cpnet.options import OPTIONS, Parser, add_settings, add_threads, net_settings, resumed
from cpnet.run_folder import RunFolder, claim, find, folder_of
from cpnet.schedule import schedule
from cpnet.settings import DEVICE, RUN, Settings
from cpnet.state import read as read_state
from cpnet.train import Stopping, Trainer
from data.store.identity import class_difference, difference, fingerprint

RUNS = "runs"  # the folder of all runs


def parser():
    """The options: all settings of a run (settings.py), and those that say which run it is."""
    known = Parser("train", "", "Trains a net, and keeps all that comes of it in the folder runs/NAME.",
                   "Example: python run.py train --data my.h5 --net mini --epochs 30. Interrupted by Ctrl-C, "
                   "it saves everything, and python run.py train --resume goes on.")
    groups = add_settings(known)
    add_threads(groups[DEVICE], "compute")
    run = groups[RUN]
    run.add_argument("--name", type=run_name, metavar="NAME",
                     help="Names the run. Default: NET-1, or the next number that is free.")
    run.add_argument("--runs", type=filename, default=RUNS, metavar="FOLDER",
                     help="Keeps all runs in this folder.")
    may_change = ", ".join(option.item.option for option in OPTIONS.values() if option.item.may_change)
    run.add_argument("--resume", nargs="?", const="", metavar="NAME",
                     help="Goes on with this run, or with the newest one if no name is given. The command "
                          f"may repeat the run's options. Only these may have other values: {may_change}.")
    run.add_argument("--overwrite", action="store_true", help="Replaces a run of the same name.")
    return known


def main(words):
    known = parser()
    options = known.parse(words)
    if options.resume is not None:
        if options.overwrite:
            known.error("--overwrite replaces a run, and --resume goes on with it: give one of the two")
        folder = find(options.runs, options.resume or options.name)
        with owned(folder.path):
            return train(options, *go_on(options, known.given(words), folder))
    dataset = open_data(options.data)
    settings = new_settings(options, dataset)
    network = place(settings, options)
    check(network, settings.graph)
    if options.init_from:
        Checkpoint(options.init_from).initialise(network, options.replace)
    if options.name:
        folder = RunFolder(folder_of(options.runs, options.name))
    else:
        folder = RunFolder(claim(options.runs, settings.table["name"]))
    with owned(folder.path):
        folder.create(settings, overwrite=options.overwrite)
        return train(options, folder, settings, None, dataset, network)


def go_on(options, given, folder):
    """(folder, Settings, State, Dataset, Network) of a run that goes on with its last checkpoint."""
    checkpoint = Checkpoint(folder.last)
    before = checkpoint.run()
    settings = resumed(before, options, given)
    state = read_state(checkpoint.path, checkpoint.state, schedule(before.schedule, before.epochs))
    if not os.path.exists(settings.data):
        raise CpnetError(f"{settings.data}: the run's data set is no longer there; say with --data where it "
                         "is now")
    dataset = open_data(settings.data)
    same_data(checkpoint, before, dataset)
    settings = replace(settings, data=os.path.abspath(dataset.path), fingerprint=fingerprint(dataset))
    network = place(settings, options)
    check(network, settings.graph)
    checkpoint.restore(network)
    folder.write_settings(settings)
    return folder, settings, state, dataset, network


def same_data(checkpoint, settings, dataset):
    """Raises CpnetError unless a data set is the one that a run was trained on, wherever it lies now."""
    check_data(checkpoint.table(), dataset)
    differs = class_difference(dataset.classes, checkpoint.classes)
    if not differs and settings.fingerprint:
        differs = difference(settings.fingerprint, fingerprint(dataset))
    elif not differs and not np.array_equal(dataset.mean, checkpoint.mean):  # of the first runs
        differs = "its mean image is another"
    if differs:
        raise CpnetError(f"{dataset.path}: is not the data set that {checkpoint.path} was trained on: "
                         f"{differs}; say with --data where that one is, or start another run with "
                         "--init-from")


def train(options, folder, settings, state, dataset, network):
    """Train until the end, or until a person stops it. Returns the exit code."""
    begun = ""
    if state:
        within = f", after {state.batch} of its batches" if state.batch else ""
        begun = f"going on in epoch {state.epoch + 1}{within}: "
    print(f"{folder.path}: {begun}training {settings.table['name']} on {nearby(dataset.path)} "
          f"to epoch {settings.epochs}, on {settings.devices or 'cpu'}")
    with Stopping() as stopping:
        trainer = Trainer(network, dataset, folder, settings, state=state, stop=lambda: stopping.signal)
        try:
            trainer.train()
        except Stopped:
            elsewhere = f" --runs {options.runs}" if options.runs != RUNS else ""
            print(f"stopped by {stopping.signal.name} after step {trainer.state.step}; everything is saved: "
                  f"go on with python run.py --resume {folder.path.name}{elsewhere}")
            return 128 + stopping.signal
        except MemoryError as error:  # NumPy's, which knows the size
            raise no_room("memory", getattr(error, "_total_size", 0), free_memory(), settings.batch) from None
    if trainer.reached():
        print(f"reached a training error of {settings.until:.2%} after {trainer.state.step:,} updates; "
              f"see {folder.path}")
    elif trainer.state.history:
        best = min(trainer.state.history, key=lambda line: line["val_top1"])
        print(f"done: the smallest validation top-1 error was {best['val_top1']:.2%}, in epoch "
              f"{best['epoch']}; see {folder.path}")
    return 0


def new_settings(options, dataset):
    """The Settings of a new run. The data set, the net and the profile decide those that were not given."""
    profile = nets.PROFILES[options.profile]
    crop = nets.crop_size(min(dataset.height, dataset.width), options.profile)
    name = options.net or ("alexnet" if crop >= nets.NETS["alexnet"].smallest else "mini")
    table = nets.build(name, (dataset.channels, crop, crop), len(dataset.classes), **net_settings(options))
    chosen = {option.name: getattr(options, dest) for dest, option in OPTIONS.items() if not option.of_net}
    chosen["data"] = os.path.abspath(dataset.path)
    depending = {"lr": table.rate, "decay": table.decay, "epochs": profile.epochs,
                 "schedule": profile.schedule}
    for key, value in depending.items():
        if chosen[key] is None:
            chosen[key] = value
    dataset.split("val")  # refuses a data set without one
    if len(dataset.split("train")) < options.batch:
        raise CpnetError(f"{dataset.path}: 'train' has {len(dataset.split('train'))} images, not one full "
                         f"batch of {options.batch}; choose a smaller --batch")
    if options.replace and not options.init_from:
        raise CpnetError("--replace names layers that do not start from a checkpoint: give it with "
                         "--init-from")
    if options.until is not None and not options.probe:
        raise CpnetError("--until needs to know how often to measure the error: give --probe N with it")
    chosen["devices"] = options.devices or default_devices(table)
    return Settings(table=table.settings, fingerprint=fingerprint(dataset), **chosen)

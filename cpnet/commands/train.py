"""Train a net: the default command."""
from pathlib import Path

from cpnet import VERSION, nets
from cpnet.checkpoint import Checkpoint
from cpnet.commands.common import default_devices, open_data, place
from cpnet.errors import CpnetError, Stopped
from cpnet.gpu.graph import check
from cpnet.options import NET_SETTINGS, Parser, net_options, net_settings, place_options, settings_option
from cpnet.run_folder import RunFolder, find, first_free
from cpnet.schedule import schedule
from cpnet.settings import MAY_CHANGE, OPTIONS, Settings
from cpnet.train import State, Stopping, Trainer

GROUPS = {"data": "data", "net": "net", "training": "training", "ablations": "ablations: leave out one of the paper's ideas",
          "device": "device", "run": "run"}
FREE = "resume", "name", "runs", "threads", "overwrite"  # options that are no settings


def parser(description=__doc__):
    known = Parser(prog="run.py train", description=description, usage="run.py train [options]",
                   epilog="A run is kept in the folder runs/<name>/: see README.md.")
    groups = {name: known.add_argument_group(title) for name, title in GROUPS.items()}
    groups["data"].add_argument(
        "--data", help="Learn this data set, an .h5 file (default: data/imagenet.h5 if it is there, else the bundled images).")
    net_options(groups["net"], groups["ablations"])
    place_options(groups["device"])
    run = groups["run"]
    run.add_argument("--name", help="Give the run this name (default: the first of <net>-1, <net>-2, … that is free).")
    run.add_argument("--runs", default="runs", help="Keep all runs in this folder.")
    run.add_argument(
        "--resume", nargs="?", const="", metavar="NAME",
        help="Go on with this run, or with the newest one. Its options may be repeated; one that differs, and cannot change, "
             "is refused.")
    run.add_argument("--overwrite", action="store_true", help="Replace a run of the same name.")
    for name, field in OPTIONS.items():
        settings_option(groups[field.metadata["group"]], name)
    return known


def main(words):
    known = parser()
    options = known.parse(words)
    if options.resume is None:
        dataset = open_data(options.data)
        settings, state = new_settings(options, dataset), None
        network = place(settings, options)
        check(network, settings.graph)
        if options.init_from:
            Checkpoint(options.init_from).initialise(network, options.replace)
        folder = RunFolder(Path(options.runs) / (options.name or first_free(options.runs, settings.table["name"])))
        folder.create(settings.as_dict(), overwrite=options.overwrite)
    else:
        folder, checkpoint = find(options.runs, options.resume or options.name)
        settings, state = resumed_settings(known, words, options, checkpoint), State(**checkpoint.state)
        dataset = open_data(settings.data)
        network = place(settings, options)
        check(network, settings.graph)
        checkpoint.restore(network)
        folder.write_settings(settings.as_dict())
    doing = f"going on in epoch {state.epoch + 1}, after {state.batch} of its batches" if state else "training"
    print(f"{folder.path}: {doing} {settings.table['name']} on {dataset.path} to epoch {settings.epochs}")
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
        print(f"reached a training error of {settings.until:.2%} after {trainer.state.step:,} updates; see {folder.path}")
    elif trainer.state.history:
        best = min(trainer.state.history, key=lambda line: line["val_top1"])
        print(f"done: validation top-1 error {best['val_top1']:.2%} at best, in epoch {best['epoch']}; see {folder.path}")
    return 0


def new_settings(options, dataset):
    """The Settings that the options make, for a data set."""
    profile = nets.choose(options.profile, nets.PROFILES, "profile")
    crop = nets.crop_size(min(dataset.height, dataset.width), options.profile)
    name = options.net or ("alexnet" if crop >= nets.NETS["alexnet"].smallest else "mini")
    table = nets.build(name, (dataset.channels, crop, crop), len(dataset.classes), **net_settings(options))
    chosen = {"lr": options.lr or table.rate, "epochs": profile.epochs if options.epochs is None else options.epochs,
              "decay": table.decay if options.decay is None else options.decay,
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
    own = {name: getattr(options, name) for name in OPTIONS if name not in chosen}
    return Settings(table=table.settings, data=dataset.path, version=VERSION, devices=options.devices or default_devices(table),
                    **chosen, **own)


def resumed_settings(parser, words, options, checkpoint):
    """The run's own Settings, but for what may change. Refuses an option that would make it another run."""
    settings = checkpoint.run_settings()
    given = {action.dest: action.option_strings[0] for action in parser._actions
             if set(action.option_strings) & {word.split("=")[0] for word in words}}
    for name, option in given.items():
        if name in FREE:
            continue
        wanted = getattr(options, name)
        if name in MAY_CHANGE:
            setattr(settings, name, wanted)
            continue
        own = settings.table["name"] if name == "net" else (settings.table if name in NET_SETTINGS else vars(settings))[name]
        same = Path(wanted).resolve() == Path(own).resolve() if name in ("data", "init_from") and own else wanted == own
        if not same:
            parser.error(f"{option} is part of a run and cannot change with --resume: {wanted} was given, and the run has "
                         f"{own}; start a new run, with another --name")
    return settings

"""Command line: `python run.py [options]` trains; `python run.py COMMAND --help` explains the other commands.

commands: evaluate, predict, summary, gradcheck, prepare, synthetic, export, import
"""
import difflib
import json
import sys
from pathlib import Path

from cpnet.errors import CpnetError
from cpnet.options import Parser, above_zero, device_options, fail, net_options, positive, whole, zero_or_more

DATA = Path(__file__).parent / "data"
IMAGENET, BUNDLED = DATA / "imagenet.h5", DATA / "fashion-mnist-12k.h5"
MAY_CHANGE = "epochs", "devices", "loader_threads", "checkpoint_minutes"  # when a run is resumed


def train_parser():
    parser = Parser(prog="run.py", description=__doc__, epilog="Runs are kept under runs/<name>/; see README.md.")
    parser.add_argument("--data", help="an .h5 data set (default: data/imagenet.h5 if it is there, else the bundled one)")
    net_options(parser)
    parser.add_argument("--epochs", type=whole, help="cycles through the training set (default: 90; as-run 91)")
    parser.add_argument("--batch", type=positive, default=128, help="images an update")
    parser.add_argument("--lr", type=above_zero, help="learning rate at the start (default: 0.01; four-layer 0.001)")
    parser.add_argument("--momentum", type=zero_or_more, default=0.9, help="of the update rule")
    parser.add_argument("--weight-decay", type=zero_or_more, help="of the update rule (default: 0.0005; four-layer 0.004)")
    parser.add_argument("--schedule", help="plateau: rate ÷10 when the validation error stops improving, three times; or "
                                           "the epochs to drop after, such as 25,51,79 (default: plateau; as-run 25,51,79)")
    parser.add_argument("--no-mirror", dest="mirror", action="store_false", help="no horizontal reflections")
    parser.add_argument("--no-colour", dest="colour", action="store_false", help="no shift of colours")
    parser.add_argument("--seed", type=whole, default=0, help="of weights, order, augmentation and dropout")
    device_options(parser)
    parser.add_argument("--name", help="of the run (default: the first free <net>-<k>)")
    parser.add_argument("--runs", default="runs", help="the folder of all runs")
    parser.add_argument("--resume", nargs="?", const="", metavar="NAME", help="go on with a run (default: the newest)")
    parser.add_argument("--overwrite", action="store_true", help="replace a run of the same name")
    parser.add_argument("--checkpoint-minutes", type=above_zero, default=30.0, help="save so often within an epoch too")
    return parser


def train(words):
    parser = train_parser()
    options = parser.parse(words)
    from cpnet.evaluate import Stopped
    from cpnet.run_folder import RunFolder, find, first_free
    from cpnet.train import State, Stopping, Trainer
    if options.resume is None:
        dataset = open_data(options.data)
        settings, state = new_settings(options, dataset), None
        network = place(settings, options)
        folder = RunFolder(Path(options.runs) / (options.name or first_free(options.runs, settings["table"]["name"])))
        folder.create(settings, overwrite=options.overwrite)
    else:
        folder, checkpoint = find(options.runs, options.resume or options.name)
        settings, state = resumed_settings(parser, words, options, checkpoint), State(**checkpoint.state)
        dataset = open_data(settings["data"])
        network = place(settings, options)
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
                  f"go on with python run.py --resume {folder.path.name}")
            return 128 + stopping.signal
    if trainer.state.history:
        best = min(trainer.state.history, key=lambda line: line["val_top1"])
        print(f"done: validation top-1 error {best['val_top1']:.2%} at best, in epoch {best['epoch']}; see {folder.path}")
    return 0


def new_settings(options, dataset):
    """All that a run is made of, as config.json and the checkpoints keep it."""
    from cpnet import nets
    from cpnet.schedule import schedule
    profile = nets.choose(options.profile, nets.PROFILES, "profile")
    crop = nets.crop_size(min(dataset.height, dataset.width))
    name = options.net or ("alexnet" if crop >= nets.NETS["alexnet"].smallest else "mini")
    table = nets.build(name, (dataset.channels, crop, crop), len(dataset.classes),
                       options.profile, options.activation, options.lrn)
    chosen = {"lr": options.lr or table.rate, "epochs": profile.epochs if options.epochs is None else options.epochs,
              "decay": table.decay if options.weight_decay is None else options.weight_decay,
              "schedule": options.schedule or profile.schedule}
    schedule(chosen["schedule"], chosen["epochs"])  # refuses what is none
    dataset.split("val")  # refuses a data set without one
    if len(dataset.split("train")) < options.batch:
        raise CpnetError(f"{dataset.path}: 'train' has {len(dataset.split('train'))} images, not one full batch of "
                         f"{options.batch}; choose a smaller --batch")
    same = "batch", "momentum", "mirror", "colour", "seed", "loader_threads", "checkpoint_minutes"
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


def open_data(path):
    """The data set at `path`, or the default one, saying which it is."""
    from data.dataset import Dataset
    if path is None and IMAGENET.exists():
        print(f"training on {IMAGENET}")
    elif path is None:
        print(f"training on the bundled 12,000 images of Fashion-MNIST; for ImageNet, make {IMAGENET} with "
              "python run.py prepare FOLDER data/imagenet.h5")
    return Dataset(path or (IMAGENET if IMAGENET.exists() else BUNDLED))


def place(settings, options):
    """The net of `settings`, with fresh weights, on the devices of the options or the settings."""
    from cpnet import arrays, columns, nets
    from cpnet.network import Network
    if options.threads:
        arrays.set_threads(options.threads)
    table = nets.build(**settings["table"])
    devices = columns.devices(settings.get("devices", "cpu"), table.columns)
    for remark in columns.remarks(devices):
        print(remark, file=sys.stderr)
    return Network(table, devices, seed=settings["seed"])


def default_devices(table):
    """The best devices for a net, as text, saying which they are."""
    from cpnet import columns
    text, line = columns.choose(table.columns)
    if line:
        print(line, file=sys.stderr)
    return text


def load(path, options):
    """The checkpoint at `path` and its net."""
    from cpnet import nets
    from cpnet.checkpoint import Checkpoint
    checkpoint = Checkpoint(path)
    devices = options.devices or default_devices(nets.build(**checkpoint.settings["table"]))
    network = place({**checkpoint.settings, "devices": devices}, options)
    checkpoint.restore(network, ["values"])
    return checkpoint, network


def evaluate_command(words):
    parser = Parser(prog="run.py evaluate", description="top-1 and top-5 error of a checkpoint")
    parser.add_argument("checkpoint")
    parser.add_argument("--data", help="an .h5 data set (default: the one it was trained on)")
    parser.add_argument("--split", default="val", help="val, test or train")
    parser.add_argument("--crops", type=int, choices=(1, 10), default=1, help="1: the centre; 10: corners, centre, mirrors")
    parser.add_argument("--batch", type=positive, default=128, help="images at a time")
    device_options(parser)
    options = parser.parse(words)
    from cpnet.evaluate import check_data, evaluate
    checkpoint, network = load(options.checkpoint, options)
    with open_data(options.data or checkpoint.settings["data"]) as dataset:
        check_data(network.table, dataset)
        result = evaluate(network, dataset, options.split, crops=options.crops, batch=options.batch,
                          threads=options.loader_threads, progress=True)
    views = "centre crop" if options.crops == 1 else "ten crops"
    print(f"{options.split}, {result['images']:,} images, {views}: top-1 error {result['top1']:.2%}, "
          f"top-{min(5, len(checkpoint.classes))} error {result['top5']:.2%}, loss {result['loss']:.4f}")


def predict_command(words):
    parser = Parser(prog="run.py predict", description="what a net sees in image files")
    parser.add_argument("checkpoint")
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument("--top", type=positive, default=5, help="classes to name")
    parser.add_argument("--json", action="store_true", help="print JSON")
    device_options(parser)
    options = parser.parse(words)
    from cpnet.predict import predict
    checkpoint, network = load(options.checkpoint, options)
    results = predict(network, checkpoint.mean, checkpoint.classes, options.images, top=options.top)
    if options.json:
        print(json.dumps(results, indent=2, ensure_ascii=False))
        return
    for result in results:
        print(result["image"])
        for line in result["predictions"]:
            print(f"  {line['probability']:7.2%}  {line['class']}")


def summary_command(words):
    parser = Parser(prog="run.py summary", description="a net's layers: shapes, neurons, parameters, multiply-adds, places")
    net_options(parser)
    parser.add_argument("--classes", type=positive, help="(default: 1000; 10 for small nets)")
    parser.add_argument("--image", default=None, metavar="C,H,W", help="of a crop (default: 3,224,224; for small nets 1,24,24)")
    parser.add_argument("--devices", default="cpu", help="where to place the columns")
    parser.add_argument("--picture", metavar="PNG", help="draw the net as in figure 2")
    options = parser.parse(words)
    from cpnet import columns, nets
    from cpnet.summary import summary
    name = options.net or "alexnet"
    small = nets.choose(name, nets.NETS, "net").smallest < nets.NETS["alexnet"].smallest
    try:
        image = tuple(int(part) for part in (options.image or ("1,24,24" if small else "3,224,224")).split(","))
        channels, height, width = image
    except ValueError:
        parser.error(f"--image {options.image}: give channels, height, width, such as 3,224,224")
    classes = options.classes or (10 if small else 1000)
    table = nets.build(name, (channels, height, width), classes, options.profile, options.activation, options.lrn)
    print(summary(table, columns.devices(options.devices, table.columns)))
    if options.picture:
        from cpnet.figures import draw_net
        draw_net(table, options.picture)


def gradcheck_command(words):
    parser = Parser(prog="run.py gradcheck", description="every gradient against finite differences, in float64")
    parser.add_argument("--net", default="mini", help="the whole net to check")
    parser.add_argument("--devices", default="cpu", help="where: cpu, or GPUs by number, such as 0 or 0,1")
    options = parser.parse(words)
    from cpnet import gradcheck
    rows = list(gradcheck.everything(options.net, options.devices))
    print(gradcheck.report(rows))
    return 0 if all(error <= gradcheck.TOLERANCE for _, error in rows) else 1


def prepare_command(words):
    parser = Parser(prog="run.py prepare", description="class folders, or IDX files (MNIST, Fashion-MNIST), to one .h5")
    parser.add_argument("source", help="a folder: train/ and val/ of class folders, class folders alone, or IDX files")
    parser.add_argument("out", help="the .h5 file to make")
    parser.add_argument("--size", type=positive, default=256, help="of class folders: shorter side, then central square")
    parser.add_argument("--val-fraction", type=above_zero, default=0.1,
                        help="of class folders without val/: share for validation")
    parser.add_argument("--val", type=positive, default=5000, help="of IDX files: images split off for validation")
    parser.add_argument("--seed", type=whole, default=0, help="of the split")
    parser.add_argument("--workers", type=positive, help="threads (default: one a core)")
    parser.add_argument("--class-names", help="of IDX files: names, separated by commas")
    options = parser.parse(words)
    from data.prepare import prepare
    out = prepare(options.source, options.out, size=options.size, val_fraction=options.val_fraction, val=options.val,
                  seed=options.seed, workers=options.workers,
                  class_names=options.class_names.split(",") if options.class_names else None)
    print(f"{out}: ready; train with python run.py --data {out}")


def synthetic_command(words):
    parser = Parser(prog="run.py synthetic", description="an ImageNet-shaped file of random images, for speed tests")
    parser.add_argument("out", help="the .h5 file to make")
    parser.add_argument("--images", type=positive, default=1000)
    parser.add_argument("--classes", type=positive, default=1000)
    parser.add_argument("--size", type=positive, default=256)
    parser.add_argument("--seed", type=whole, default=0)
    options = parser.parse(words)
    from data.prepare import synthetic
    synthetic(options.out, images=options.images, classes=options.classes, size=options.size, seed=options.seed)
    print(f"{options.out}: ready; {options.images:,} random images")


def export_command(words):
    parser = Parser(prog="run.py export", description="a checkpoint's weights, and all that predicting takes, as .npz")
    parser.add_argument("checkpoint")
    parser.add_argument("out")
    options = parser.parse(words)
    from cpnet.export import export_npz
    export_npz(options.checkpoint, options.out)
    print(f"{options.out}: ready")


def import_command(words):
    parser = Parser(prog="run.py import", description="a checkpoint from an exported .npz")
    parser.add_argument("source")
    parser.add_argument("out")
    options = parser.parse(words)
    from cpnet.export import import_npz
    import_npz(options.source, options.out)
    print(f"{options.out}: ready; python run.py evaluate {options.out}")


COMMANDS = {"evaluate": evaluate_command, "predict": predict_command, "summary": summary_command,
            "gradcheck": gradcheck_command, "prepare": prepare_command, "synthetic": synthetic_command,
            "export": export_command, "import": import_command}


def main(words):
    """Run the command line `words`; returns the exit code. What a person can mend is one line on stderr."""
    if words and not words[0].startswith("-") and words[0] not in COMMANDS:
        near = difflib.get_close_matches(words[0], COMMANDS, 1, 0)[0]
        return fail(f"there is no command {words[0]!r}: did you mean {near!r}? There are {', '.join(COMMANDS)}", 2)
    from data.dataset import DataError
    try:
        return (COMMANDS[words[0]](words[1:]) if words and words[0] in COMMANDS else train(words)) or 0
    except (CpnetError, DataError) as error:
        return fail(error)
    except KeyboardInterrupt:
        return fail("interrupted; the last checkpoint is untouched", 130)
    except BrokenPipeError:
        sys.stderr.close()
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""What several commands need: the data set, the net on its devices, a checkpoint with its net."""
import os
import sys
from dataclasses import replace
from pathlib import Path

from cpnet import nets, precision
from cpnet.checkpoint import TRAINED, Checkpoint
from cpnet.gpu.devices import best, named, remarks
from cpnet.network import Network
from cpnet.options import add_threads
from cpnet.threads import set_threads
from data.store.dataset import Dataset

ROOT = Path(__file__).parents[2]
DATA = ROOT / "data"
IMAGENET, BUNDLED = DATA / "imagenet.h5", DATA / "fashion-mnist-12k.h5"


def open_data(path):
    """The data set at `path`. Without a path, the default one; this prints which it is."""
    if path is None and IMAGENET.exists():
        print(f"training on {IMAGENET}")
    elif path is None:
        print(f"training on the bundled 12,000 images of Fashion-MNIST; for ImageNet, make {IMAGENET} with "
              "python run.py prepare FOLDER data/imagenet.h5")
    return Dataset(path or (IMAGENET if IMAGENET.exists() else BUNDLED))


def nearby(path):
    """A path as one would type it here, or in the folder of run.py."""
    for folder in Path.cwd(), ROOT:
        if Path(path).is_relative_to(folder):
            return os.path.relpath(path, folder)
    return str(path)


def place(settings, options):
    """The net of `settings`, with fresh weights, on the devices that they name."""
    if options.threads:
        set_threads(options.threads)
    precision.set_math(settings.math)
    table = nets.build(**settings.table)
    devices = named(settings.devices or "cpu", table.columns)
    for remark in remarks(devices):
        print(remark, file=sys.stderr)
    network = Network(table, devices, seed=settings.seed)
    network.scale_rates(settings.lr_scale)
    return network


def default_devices(table):
    """The best devices for a net, as text. This prints which they are."""
    text, line = best(table.columns)
    if line:
        print(line, file=sys.stderr)
    return text


def load(path, options):
    """The checkpoint at `path` and its net."""
    checkpoint = Checkpoint(path)
    devices = options.devices or default_devices(checkpoint.table())
    network = place(replace(checkpoint.net(), devices=devices, math=options.math), options)
    checkpoint.restore(network, TRAINED)
    return checkpoint, network


def add_by_name(parser):
    """Add the option for data sets that number the net's classes otherwise."""
    parser.add_argument("--by-name", action="store_true",
                        help="Matches the classes of the data set with those of the net by their names, "
                             "where the same names stand in another order.")


def add_one_device(parser):
    """Add the options that say where to compute what is not shared by columns."""
    group = parser.add_argument_group("device")
    group.add_argument("--devices", metavar="DEVICE",
                       help="Computes on cpu, or on the GPU of this number, such as 0. Default: the best "
                            "device that it finds; it says which.")
    add_threads(group, "compute")


def one_device(options):
    """The device that the options of `add_one_device` name."""
    if options.threads:
        set_threads(options.threads)
    text, line = (options.devices, "") if options.devices else best(1)
    if line:
        print(line, file=sys.stderr)
    return named(text, 1)[0]

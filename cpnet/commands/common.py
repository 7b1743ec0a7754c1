"""What several commands need: the data set, the net in its place, a checkpoint with its net."""
import sys
from pathlib import Path

from cpnet import nets, threads
from cpnet.checkpoint import Checkpoint
from cpnet.gpu import precision
from cpnet.gpu.devices import best, named, remarks
from cpnet.kinds import positive
from cpnet.network import Network
from data.store.dataset import Dataset

DATA = Path(__file__).parents[2] / "data"
IMAGENET, BUNDLED = DATA / "imagenet.h5", DATA / "fashion-mnist-12k.h5"


def open_data(path):
    """The data set at `path`, or the default one, saying which it is."""
    if path is None and IMAGENET.exists():
        print(f"training on {IMAGENET}")
    elif path is None:
        print(f"training on the bundled 12,000 images of Fashion-MNIST; for ImageNet, make {IMAGENET} with "
              "python run.py prepare FOLDER data/imagenet.h5")
    return Dataset(path or (IMAGENET if IMAGENET.exists() else BUNDLED))


def place(settings, options):
    """The net of the Settings, with fresh weights, on their devices."""
    if options.threads:
        threads.set_threads(options.threads)
    precision.set_math(settings.math)
    table = nets.build(**settings.table)
    devices = named(settings.devices, table.columns)
    for remark in remarks(devices):
        print(remark, file=sys.stderr)
    network = Network(table, devices, seed=settings.seed)
    network.scale_rates(settings.lr_scale)
    return network


def default_devices(table):
    """The best devices for a net, as text, saying which they are."""
    text, line = best(table.columns)
    if line:
        print(line, file=sys.stderr)
    return text


def load(path, options):
    """The checkpoint at `path` and its net."""
    checkpoint = Checkpoint(path)
    settings = checkpoint.run_settings()
    settings.devices = options.devices or default_devices(nets.build(**settings.table))
    settings.math = options.math
    network = place(settings, options)
    checkpoint.restore(network, ["values"])
    return checkpoint, network


def one_device_options(parser):
    """Options that say where to do what is not shared by columns."""
    parser.add_argument("--devices", help="cpu, or a GPU by its number (default: the best there is, which it says)")
    parser.add_argument("--threads", type=positive, help="CPU threads that compute (default: one a core)")


def one_device(options):
    """The device of `one_device_options`."""
    if options.threads:
        threads.set_threads(options.threads)
    text, line = (options.devices, "") if options.devices else best(1)
    if line:
        print(line, file=sys.stderr)
    return named(text, 1)[0]

"""The settings of a run: the only list of them.

It makes the options of `run.py train` and their help (options.py). It is what config.json and a checkpoint
hold, and it checks what is read from there. It says what may change when a run is resumed. To add a setting,
add a field to one of the two classes and use `settings.NAME` where it matters.
"""
from copy import copy
from dataclasses import dataclass, field, fields

from cpnet import kinds, nets
from cpnet.errors import CpnetError
from cpnet.machine import cores
from cpnet.precision import MATH
from cpnet.schedule import schedule
from data.loading.order import SHUFFLES

GROUPS = "data", "net", "training", "ablations: the net without one of the paper's ideas", "device", "run"
DATA, NET, TRAINING, ABLATIONS, DEVICE, RUN = GROUPS
NOTES = "started", "made_from"  # no settings, but beside them in files: when a run began, what import read


@dataclass(frozen=True)
class Item:
    """What is known of one setting apart from its name."""
    default: object  # of the option; None: it depends on other settings, and the help says how
    kind: kinds.Kind
    option: str = ""  # "" if the data set decides
    group: str = ""
    text: str = ""  # the option's help
    metavar: str | None = None
    dest: str = ""  # the option's name among all options, if that is not the setting's name
    in_every_file: bool = False  # if not, the first files lack the setting, and mean its default
    may_change: bool = False  # whether a run may be resumed with another value


def setting(*arguments, **options):
    """A dataclass's field that is a setting. The arguments are those of Item."""
    item = Item(*arguments, **options)
    return field(default_factory=lambda: copy(item.default), metadata={"item": item})


def one_of(table, what):
    """The Kind of a name that `table` has. The error names the nearest one."""
    def parse(typed):
        nets.look_up(typed, dict.fromkeys(table), what)
        return typed

    def holds(value):
        return isinstance(value, str) and value in table

    return kinds.Kind(f"one of {', '.join(table)}", parse, holds)


def _is_schedule(value):
    try:
        schedule(value, 1)
    except (CpnetError, AttributeError):
        return False
    return True


def _is_shape(value):
    return isinstance(value, list) and len(value) == 3 and all(map(kinds.positive.holds, value))


SCHEDULE = kinds.Kind("plateau, constant, or rising epochs such as 25,51,79", str, _is_schedule)
SHAPE = kinds.Kind("a list of channels, height and width", None, _is_shape)
TABLE = kinds.Kind("an object", None, lambda value: isinstance(value, dict))
PAPER, AS_RUN = nets.PROFILES["paper"], nets.PROFILES["as-run"]
LARGE, FOUR = nets.NETS["alexnet"], nets.NETS["four-layer"]


@dataclass(frozen=True)
class NetSettings:
    """What a net is made of: the arguments of `nets.build`."""
    name: str = setting(
        None, one_of(nets.NETS, "net"), "--net", NET, dest="net", metavar="NET", in_every_file=True,
        text=f"Trains this net: {', '.join(nets.NETS)}. "
             "Default: alexnet if the images are large enough for it, else mini.")
    image: list = setting(None, SHAPE, in_every_file=True)  # (C, H, W) of a crop
    classes: int = setting(None, kinds.positive, in_every_file=True)
    profile: str = setting(
        "paper", one_of(nets.PROFILES, "profile"), "--profile", NET, metavar="PROFILE",
        text=f"Follows one of these where they differ: {', '.join(nets.PROFILES)}. "
             "as-run is what the authors' own code did; Caffe's two are for weights from Caffe.")
    activation: str = setting(
        "relu", one_of(nets.ACTIVATIONS, "activation"), "--activation", ABLATIONS, metavar="NAME",
        text=f"Uses this nonlinearity: {' or '.join(nets.ACTIVATIONS)} (section 3.1).")
    lrn: bool = setting(
        True, kinds.flag, "--no-lrn", ABLATIONS,
        text="Leaves out the local response normalization (section 3.3).")
    pool: str = setting(
        "3x3s2", one_of(nets.POOLS, "pool"), "--pool", ABLATIONS, metavar="WINDOWS",
        text=f"Pools over these windows: {' or '.join(nets.POOLS)}. Windows of 3x3s2 are 3×3 pixels large "
             "and 2 pixels apart, so they overlap; windows of 2x2s2 do not (section 3.4).")
    dropout: bool = setting(
        True, kinds.flag, "--no-dropout", ABLATIONS,
        text="Leaves out dropout (section 4.2).")
    exchange: bool = setting(
        True, kinds.flag, "--no-exchange", ABLATIONS,
        text="Keeps the columns apart: they do not communicate before the last layer (section 3.2).")
    drop_layer: str | None = setting(
        None, kinds.word, "--drop-layer", ABLATIONS, metavar="LAYER",
        text="Leaves out this convolution: conv3 or conv4 (section 7).")


@dataclass(frozen=True)
class Settings:
    """All settings of a run. They can also be read as a dict, as in config.json: settings["batch"]."""
    table: dict = setting(None, TABLE, in_every_file=True)  # NetSettings, the arguments of nets.build
    data: str | None = setting(
        None, kinds.filename, "--data", DATA, metavar="DATA.h5", in_every_file=True, may_change=True,
        text="Trains on this data set. With --resume, says where the run's data set lies now. "
             "Default: data/imagenet.h5 if it exists, else the bundled images of Fashion-MNIST.")
    fingerprint: dict = setting({}, TABLE)  # of the data set (data/store/identity.py); {}: not known
    shuffle: str = setting(
        "full", one_of(SHUFFLES, "shuffle"), "--shuffle", DATA, metavar="ORDER",
        text=f"Shuffles the training images in this way: {' or '.join(SHUFFLES)}. full can put them in any "
             "order; blocks suits a file larger than memory on a disk that seeks slowly (docs/data.md).")
    init_from: str | None = setting(
        None, kinds.filename, "--init-from", NET, metavar="CHECKPOINT",
        text="Starts from the trained weights of this checkpoint, for the same classes or for others "
             "(docs/finetuning.md).")
    replace: list = setting(
        [], kinds.names, "--replace", NET, metavar="LAYERS",
        text="Starts these layers with fresh weights; --init-from gives the others theirs. Example: fc7,fc8.")
    epochs: int = setting(
        None, kinds.whole, "--epochs", TRAINING, metavar="N", in_every_file=True, may_change=True,
        text="Trains for N epochs. An epoch shows each training image once. "
             f"Default: {PAPER.epochs}; with --profile as-run {AS_RUN.epochs}.")
    batch: int = setting(
        128, kinds.positive, "--batch", TRAINING, metavar="N", in_every_file=True,
        text="Updates the weights after every N images.")
    lr: float = setting(
        None, kinds.above_zero, "--lr", TRAINING, metavar="RATE", in_every_file=True,
        text=f"Begins with this learning rate. Default: {LARGE.rate}; for four-layer {FOUR.rate}.")
    schedule: str = setting(
        None, SCHEDULE, "--schedule", TRAINING, metavar="WHEN", in_every_file=True,
        text="Divides the learning rate by 10 at these times. plateau: when the validation error stops "
             "improving, three times in all; constant: never; 25,51,79: after these epochs. "
             f"Default: {PAPER.schedule}; with --profile as-run {AS_RUN.schedule}.")
    momentum: float = setting(
        0.9, kinds.zero_or_more, "--momentum", TRAINING, metavar="FACTOR", in_every_file=True,
        text="Multiplies the velocity of each weight by this factor at each update.")
    decay: float = setting(
        None, kinds.zero_or_more, "--weight-decay", TRAINING, metavar="FACTOR", in_every_file=True,
        text="Shrinks each weight at each update by this factor times the learning rate; 0 turns this off. "
             f"Default: {LARGE.decay}; for four-layer {FOUR.decay}.")
    lr_scale: dict = setting(
        {}, kinds.factors, "--lr-scale", TRAINING, metavar="LAYER=FACTOR,…",
        text="Multiplies the learning rate of these layers by these factors. Example: conv1=0.1,conv2=0.1.")
    probe: int | None = setting(
        None, kinds.positive, "--probe", TRAINING, metavar="N",
        text="Measures the error on 1,000 training images after every N updates; writes it to probes.jsonl.")
    until: float | None = setting(
        None, kinds.share, "--until", TRAINING, metavar="ERROR",
        text="Ends the run as soon as --probe measures this error or a smaller one. Example: 25%.")
    seed: int = setting(
        0, kinds.whole, "--seed", TRAINING, metavar="N", in_every_file=True,
        text="Draws the first weights, the order of the images, their crops and dropout from this number. "
             "The same number makes the same run.")
    mirror: bool = setting(
        True, kinds.flag, "--no-mirror", ABLATIONS, in_every_file=True,
        text="Never shows a training image mirrored (section 4.1).")
    colour: bool = setting(
        True, kinds.flag, "--no-colour", ABLATIONS, in_every_file=True,
        text="Never changes the colours of a training image (section 4.1).")
    crops: bool = setting(
        True, kinds.flag, "--no-crop", ABLATIONS,
        text="Always shows the centre of a training image instead of a random part (section 4.1).")
    devices: str | None = setting(
        None, kinds.word, "--devices", DEVICE, metavar="DEVICES", may_change=True,
        text="Computes on cpu, or on GPUs by their numbers: 0 is one GPU; 0,1 gives each column its own. "
             "Default: the best devices that it finds; the program says which.")
    math: str = setting(
        MATH[0], one_of(MATH, "math"), "--math", DEVICE, metavar="MATH",
        text=f"Computes products in this way: {', '.join(MATH)}. fp32 has errors as small as float32's "
             "own. tf32 is faster on a GPU's tensor cores and right to 3 digits. exact takes no short cuts.")
    graph: bool = setting(
        False, kinds.flag, "--graph", DEVICE, may_change=True,
        text="Records a step's launches once as CUDA graphs and replays them. This takes one GPU, and has "
             "not yet run on a real card.")
    loader_threads: int = setting(
        max(1, cores() // 4), kinds.positive, "--loader-threads", DEVICE, metavar="N",
        may_change=True,
        text="Uses N more threads of the CPU to read and prepare images.")
    checkpoint_minutes: float = setting(
        30.0, kinds.above_zero, "--checkpoint-minutes", RUN, metavar="MINUTES", may_change=True,
        text="Saves the run after each epoch, and within an epoch after so many minutes.")

    def keys(self):
        """The names of all settings."""
        return [each.name for each in fields(self)]

    def __getitem__(self, name):
        return getattr(self, name)


def read(place, found, needed=None):
    """The Settings in the dict `found`, which the file `place` holds.

    Raises CpnetError, naming the file and the key, for a name that is unknown, for a value that a setting
    cannot have, and for a name that is missing among the `needed` (by default those in every run's files).
    """
    settings = Settings(**_checked(Settings, place, found, needed))
    place = f"{place}, table"
    _checked(NetSettings, place, settings.table)
    try:
        nets.build(**settings.table)
    except CpnetError as error:
        raise CpnetError(f"{place}: {error}") from None
    return settings


def _checked(kind, place, found, needed=None):
    """Those of `found` that are fields of the dataclass `kind`, once each of them is what it must be."""
    items = {each.name: each.metadata["item"] for each in fields(kind)}
    if needed is None:
        needed = [name for name, item in items.items() if item.in_every_file]
    values = {name: value for name, value in found.items() if name not in NOTES}
    for name, value in values.items():
        if name not in items:
            raise CpnetError(f"{place}: has {name!r}, which is not a setting that this version knows")
        if value is None and items[name].default is None and name not in needed:
            continue
        if not items[name].kind.holds(value):
            raise CpnetError(f"{place}: {name} is {value!r}, not {items[name].kind.says}")
    for name in sorted(needed):
        if name not in values:
            raise CpnetError(f"{place}: has no {name!r}: it was not written by this program")
    return values

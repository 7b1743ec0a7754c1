"""The settings of a run: this is the only list of them. It makes the options of the train command and their help; it is what
config.json and a checkpoint hold; it says what may change when a run goes on, and checks what is read.
"""
import dataclasses
from dataclasses import dataclass

from cpnet.errors import CpnetError
from cpnet.kinds import Choice, Factors, Flag, Names, Number, Share, Text
from data.loading.order import SHUFFLES


def option(group, kind, default, help, *, name=None, change=False, metavar=None, derived=None):
    """A setting that is an option of the train command, in one of its groups.

    kind: what its value is, of cpnet.kinds. name: the option's, where it is not --<setting>. change: it may be another one
    when a run goes on. derived: in words, what the default is where it depends on something.
    """
    how = {"group": group, "kind": kind, "help": help, "name": name, "change": change, "metavar": metavar,
           "derived": derived}
    if isinstance(default, list | dict):
        return dataclasses.field(default_factory=type(default), metadata=how)
    return dataclasses.field(default=default, metadata=how)


@dataclass
class Settings:
    """All that a run is made of, but for its weights."""

    # What is no option by itself
    table: dict  # the net: the arguments of nets.build
    data: str | None = None  # the data set's path
    devices: str = "cpu"  # where the net lies
    made_from: str | None = None  # what an imported net was made from
    version: str | None = None  # the program's

    shuffle: str = option(
        "data", Choice(SHUFFLES), "full",
        "Shuffle all images (full), or blocks of them, for a file that is larger than memory on a disk that seeks slowly "
        "(docs/data.md).")

    epochs: int = option(
        "training", Number(int, 0), 90, "Train for this many cycles through the training set.",
        change=True, derived="90; with --profile as-run 91")
    batch: int = option("training", Number(int, 1), 128, "Use this many images for each update of the weights.")
    lr: float = option(
        "training", Number(float, 0, above=True), 0.01, "Start with this learning rate.",
        derived="the net's: 0.01; four-layer 0.001")
    momentum: float = option(
        "training", Number(float, 0), 0.9, "Keep this share of the velocity at each update (section 5).")
    decay: float = option(
        "training", Number(float, 0), 0.0005, "Pull weights towards 0 by this factor (section 5); 0 means none at all.",
        name="--weight-decay", derived="the net's: 0.0005; four-layer 0.004")
    schedule: str = option(
        "training", Text(), "plateau",
        "Say when the learning rate is divided by 10: plateau, when the validation error stops improving, three times; "
        "constant, never; or after the epochs listed, such as 25,51,79.",
        derived="plateau; with --profile as-run 25,51,79")
    seed: int = option(
        "training", Number(int, 0), 0, "Draw weights, the images' order, their changes and dropout from this seed.")
    init_from: str | None = option(
        "training", Text(), None, "Start from the weights of this checkpoint, on the same classes or on others.",
        metavar="CHECKPOINT")
    replace: list = option(
        "training", Names(), [], "With --init-from: start these layers afresh, such as fc8 or fc7,fc8.", metavar="LAYERS")
    lr_scale: dict = option(
        "training", Factors(), {}, "Multiply the learning rates of layers, such as conv1=0.1,conv2=0.1.",
        metavar="LAYER=FACTOR,…")

    mirror: bool = option("ablations", Flag(), True, "Do not mirror images at random.", name="--no-mirror")
    colour: bool = option(
        "ablations", Flag(), True, "Do not shift the colours of images at random.", name="--no-colour")
    crops: bool = option(
        "ablations", Flag(), True, "Always take the central crop instead of a random one.", name="--no-crop")

    math: str = option(
        "device", Choice(("fp32", "tf32")), "fp32",
        "Compute products on GPUs with tensor cores as exactly as float32 does (fp32), or faster, to three digits (tf32).")
    graph: bool = option(
        "device", Flag(), False, "On one GPU, record a step as CUDA graphs and replay it (not yet seen on a real card).",
        change=True)
    loader_threads: int | None = option(
        "device", Number(int, 1), None, "Use this many CPU threads to read and prepare images.",
        change=True, derived="a quarter of the cores")

    checkpoint_minutes: float = option(
        "run", Number(float, 0, above=True), 30.0, "Save the run after this many minutes within an epoch, too.",
        change=True, metavar="MINUTES")
    probe: int | None = option(
        "run", Number(int, 1), None,
        "Every so many updates, measure the error on 1,000 training images, seen as in testing, and write it to "
        "probes.jsonl.", metavar="UPDATES")
    until: float | None = option(
        "run", Share(), None, "End as soon as --probe measures this error or less, such as 25%.", metavar="ERROR")

    def as_dict(self):
        """What config.json and a checkpoint hold."""
        return dataclasses.asdict(self)


FIELDS = {field.name: field for field in dataclasses.fields(Settings)}
OPTIONS = {name: field for name, field in FIELDS.items() if field.metadata}
MAY_CHANGE = {"devices", *(name for name, field in OPTIONS.items() if field.metadata["change"])}
STORED = {"table": dict, "data": str, "made_from": str, "version": str, "devices": str}  # what are no options


def read(place, found):
    """The Settings that were read from `place`, a file. Raises CpnetError, naming the file and the setting, for what is
    unknown, lacking, of another type or out of range."""
    for name in found:
        if name not in FIELDS:
            raise CpnetError(f"{place}: has a setting {name!r}, which this program does not know")
    if "table" not in found:
        raise CpnetError(f"{place}: has no 'table': it was not written by this program")
    for name, value in found.items():
        if value is None and FIELDS[name].default is None:
            continue
        if name in OPTIONS:
            problem = OPTIONS[name].metadata["kind"].problem(value)
        else:
            problem = "" if isinstance(value, STORED[name]) else f"{value!r} is no {STORED[name].__name__}"
        if problem:
            raise CpnetError(f"{place}: the setting {name!r} cannot be used: {problem}")
    return Settings(**found)

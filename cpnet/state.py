"""Where a run is, and its log: what a checkpoint keeps besides arrays and settings."""
import math
from dataclasses import dataclass, field, fields

from cpnet import kinds
from cpnet.errors import CpnetError

LOGGED = {"epoch", "step", "lr", "train_loss", "train_top1", "val_loss", "val_top1", "val_top5",
          "images_per_s", "seconds"}


@dataclass
class State:
    """Where a run is. With the weights and velocities, this is all that it needs to go on."""
    epoch: int = 0  # epochs that are over
    batch: int = 0  # batches of the present epoch that are over
    step: int = 0  # updates made
    loss: float = 0.0  # sums over the present epoch's training images
    wrong: int = 0
    images: int = 0
    seconds: float = 0.0
    schedule: dict | None = None
    history: list = field(default_factory=list)  # one object an epoch, the lines of log.jsonl
    probes: list = field(default_factory=list)  # [step, error on the probed images]: probes.jsonl

    def best(self):
        """The smallest validation error of all epochs so far."""
        return min((line["val_top1"] for line in self.history), default=math.inf)


def read(place, found, schedule=None):
    """The State in the dict `found`, which the file `place` holds. `schedule` must be able to go on with it.

    Raises CpnetError, naming the file and the key, for a name that is unknown and a value that cannot be.
    """
    for name, value in found.items():
        each = next((each for each in fields(State) if each.name == name), None)
        if each is None:
            raise CpnetError(f"{place}: its state has {name!r}, which this version does not know")
        if each.type in (int, float):
            kind = kinds.whole if each.type is int else kinds.zero_or_more
            if not kind.holds(value):
                raise CpnetError(f"{place}: its state has a {name} of {value!r}, which is not {kind.says}")
    state = State(**found)
    if not isinstance(state.history, list) or not isinstance(state.probes, list):
        raise CpnetError(f"{place}: its state has a history or probes that are no lists")
    for line in state.history:
        check_line(f"{place}, history", line)
    for point in state.probes:
        check_probe(f"{place}, probes", point)
    if len(state.history) != state.epoch:
        raise CpnetError(f"{place}: its state counts {state.epoch} epochs, and its history "
                         f"{len(state.history)}")
    try:
        if schedule and state.schedule is not None:
            schedule.restore(state.schedule)
    except (KeyError, TypeError, ValueError) as error:
        raise CpnetError(f"{place}: its state has a schedule that cannot be read ({error!r})") from None
    return state


def check_line(place, line):
    """Raises CpnetError, naming `place`, unless `line` is an object of the log with all of its numbers."""
    if not isinstance(line, dict):
        raise CpnetError(f"{place}: is damaged: it holds no object")
    lacking = LOGGED - line.keys()
    if lacking:
        raise CpnetError(f"{place}: has no {min(lacking)!r}: it was not written by this program")
    for name in sorted(LOGGED):
        if not kinds.zero_or_more.holds(line[name]):
            raise CpnetError(f"{place}: {name} is {line[name]!r}, not {kinds.zero_or_more.says}")


def check_probe(place, point):
    """Raises CpnetError, naming `place`, unless `point` is [step, error]."""
    if not (isinstance(point, list) and len(point) == 2 and kinds.whole.holds(point[0])
            and kinds.zero_or_more.holds(point[1])):
        raise CpnetError(f"{place}: holds {point!r}, not a step and an error")

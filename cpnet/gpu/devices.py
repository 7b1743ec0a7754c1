"""Where the shares of a net lie: the CPU, or GPUs by number; and which are chosen if nobody says."""
import itertools
from dataclasses import dataclass

import numpy as np

from cpnet.errors import CpnetError
from cpnet.gpu.memory import assign, empty_on
from cpnet.gpu.nvidia import driver_installed
from cpnet.gpu.platform import gpus, on_gpu
from cpnet.precision import math


@dataclass(frozen=True)
class Device:
    """Where one share of the net lives: the CPU, by NumPy."""
    name: str = "cpu"

    def empty(self, shape, dtype):
        """An uninitialised array on this device."""
        return np.empty(shape, dtype)

    def put(self, array):
        """A NumPy array as one of this device's, copied where it must be; an array of a device as it is."""
        return array

    def holds(self, array):
        """Whether an array of a device is this one's."""
        return True


@dataclass(frozen=True)
class Gpu(Device):
    """GPU `number`, by CuPy. Its memory comes from CuPy's pool of that GPU."""
    number: int = 0

    def empty(self, shape, dtype):
        # The last axis is the images' but in a flat buffer of parameters.
        return empty_on(gpus(), self.number, shape, dtype, shape[-1] if len(shape) > 1 else 0)

    def put(self, array):
        if on_gpu(array):
            return array
        copy = self.empty(array.shape, array.dtype)
        assign(copy, array)
        return copy

    def holds(self, array):
        return gpus().device(array) == self.number


def named(text, columns):
    """The devices named by `text`, such as "cpu", "cpu,cpu", "0" or "0,1".
    Raises CpnetError for what does not fit."""
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name != "cpu" and not (name.isascii() and name.isdigit()):
            raise CpnetError(f"--devices {text}: there is no device {name!r}: name cpu, or GPUs by number, "
                             "such as 0 or 0,1")
    if "cpu" in names and set(names) != {"cpu"}:
        raise CpnetError(f"--devices {text}: a net lies on CPUs or on GPUs, not on both")
    if columns % len(names):
        raise CpnetError(f"--devices {text}: {columns} column{'s' * (columns > 1)} cannot be shared evenly "
                         f"by {len(names)} devices: name "
                         f"{' or '.join(str(d) for d in range(1, columns + 1) if columns % d == 0)}")
    return [Device(name) if name == "cpu" else _gpu(text, int(name)) for name in names]


def _gpu(text, number):
    """GPU `number`, once it is certain that there is one."""
    try:
        platform = gpus()
        count = platform.count()
    except CpnetError as error:
        raise CpnetError(f"--devices {text}: {error}") from None
    if number >= count:
        there = ", ".join(f"{each} ({platform.name(each)})" for each in range(count)) or "none"
        raise CpnetError(f"--devices {text}: there is no GPU {number}; there is {there}")
    if platform.unfit(number):
        raise CpnetError(f"--devices {text}: {platform.unfit(number)}")
    return Gpu(f"GPU {number}, {platform.name(number)}", number)


def best(columns):
    """(devices as text, a line that says why and what else there is): the best for a net of so many columns.

    As many equal GPUs as share the columns evenly, else the largest GPU, else the CPU.
    """
    if not driver_installed():
        return "cpu", ""
    try:
        platform = gpus()
        count = platform.count()
    except CpnetError as error:
        return "cpu", f"on the CPU: {error}"
    reasons = [platform.unfit(number) for number in range(count)]
    alike = {}
    for number in range(count):
        if not reasons[number]:
            alike.setdefault(platform.name(number), []).append(number)
    if not alike:
        return "cpu", f"on the CPU: {reasons[0]}" if reasons else ""
    most = max(min(len(numbers), columns) for numbers in alike.values())
    share = max(d for d in range(1, most + 1) if columns % d == 0)
    groups = [numbers[:share] for numbers in alike.values() if len(numbers) >= share]
    # of equally large ones, the first
    chosen = max(groups, key=lambda numbers: platform.processors(numbers[0]))
    text = ",".join(map(str, chosen))
    line = f"--devices {text}, {platform.name(chosen[0])}" + ", each with columns of its own" * (share > 1)
    idle = [f"{number} ({platform.name(number)})" for number in range(count) if number not in chosen]
    if idle:
        line += f"; idle: GPU {', '.join(idle)}"
    return text, f"{line}; or choose --devices {chosen[0] if share > 1 else 'cpu'}"


def remarks(devices):
    """Lines that a person should read about a placement:
    what --math cannot do there, GPUs that are unequal, or cannot reach each other's memory."""
    numbers = sorted({device.number for device in devices if isinstance(device, Gpu)})
    lines = []
    if math() == "tf32":
        for device in dict.fromkeys(devices):
            if not (isinstance(device, Gpu) and gpus().tensor_cores(device.number)):
                lines.append(f"--math tf32 changes nothing on {device.name}: "
                             "it has no tensor cores for that")
    if len(numbers) < 2:
        return lines
    platform = gpus()
    if len({platform.name(number) for number in numbers}) > 1:
        names = ", ".join(platform.name(number) for number in numbers)
        lines.append(f"the GPUs are unequal ({names}): the fastest waits for the slowest; the fastest alone "
                     "may be faster")
    apart = []
    for one, other in itertools.combinations(numbers, 2):
        if not (platform.reaches(one, other) and platform.reaches(other, one)):
            apart.append(f"{one} and {other}")
    if apart:
        lines.append(f"GPUs {', '.join(apart)} cannot reach each other's memory: what crosses between them "
                     "is staged in pinned host memory, which is slower")
    return lines

"""Devices, and what crosses between them.

A net of `columns` columns is placed on D devices, D dividing the columns: device d holds columns d·columns/D … as one
contiguous block of channels. Only at layers that read all columns do the devices communicate (section 3.2): forward gathers
the others' channels, backward sums every device's gradient for one's own. On one device both are free.
"""
from dataclasses import dataclass

import numpy as np

from cpnet import launch
from cpnet.cupy_gpus import driver_installed
from cpnet.errors import CpnetError
from cpnet.ops import pointwise


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
        return launch.empty_on(launch.gpus(), self.number, shape, dtype, shape[-1] if len(shape) > 1 else 0)

    def put(self, array):
        if launch.on_gpu(array):
            return array
        copy = self.empty(array.shape, array.dtype)
        launch.assign(copy, array)
        return copy

    def holds(self, array):
        return launch.gpus().device(array) == self.number


def devices(text, columns):
    """The devices named by `text`, such as "cpu", "cpu,cpu", "0" or "0,1". Raises CpnetError for what does not fit."""
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name != "cpu" and not (name.isascii() and name.isdigit()):
            raise CpnetError(f"--devices {text}: there is no device {name!r}: name cpu, or GPUs by number, such as 0 or 0,1")
    if "cpu" in names and set(names) != {"cpu"}:
        raise CpnetError(f"--devices {text}: a net lies on CPUs or on GPUs, not on both")
    if columns % len(names):
        raise CpnetError(f"--devices {text}: {columns} column{'s' * (columns > 1)} cannot be shared evenly by "
                         f"{len(names)} devices: name {' or '.join(str(d) for d in range(1, columns + 1) if columns % d == 0)}")
    return [Device(name) if name == "cpu" else _gpu(text, int(name)) for name in names]


def _gpu(text, number):
    """GPU `number`, once it is certain that there is one."""
    try:
        gpus = launch.gpus()
        count = gpus.count()
    except CpnetError as error:
        raise CpnetError(f"--devices {text}: {error}") from None
    if number >= count:
        there = ", ".join(f"{each} ({gpus.name(each)})" for each in range(count)) or "none"
        raise CpnetError(f"--devices {text}: there is no GPU {number}; there is {there}")
    if gpus.unfit(number):
        raise CpnetError(f"--devices {text}: {gpus.unfit(number)}")
    return Gpu(f"GPU {number}, {gpus.name(number)}", number)


def choose(columns):
    """(devices as text, a line that says why and what else there is): the best for a net of so many columns.

    As many equal GPUs as share the columns evenly, else the largest GPU, else the CPU.
    """
    if not driver_installed():
        return "cpu", ""
    try:
        gpus = launch.gpus()
        count = gpus.count()
    except CpnetError as error:
        return "cpu", f"on the CPU: {error}"
    reasons = [gpus.unfit(number) for number in range(count)]
    alike = {}
    for number in range(count):
        if not reasons[number]:
            alike.setdefault(gpus.name(number), []).append(number)
    if not alike:
        return "cpu", f"on the CPU: {reasons[0]}" if reasons else ""
    most = max(min(len(numbers), columns) for numbers in alike.values())
    share = max(d for d in range(1, most + 1) if columns % d == 0)
    groups = [numbers[:share] for numbers in alike.values() if len(numbers) >= share]
    chosen = max(groups, key=lambda numbers: gpus.processors(numbers[0]))  # of equally large ones, the first
    text = ",".join(map(str, chosen))
    line = f"--devices {text}, {gpus.name(chosen[0])}" + ", each with columns of its own" * (share > 1)
    idle = [f"{number} ({gpus.name(number)})" for number in range(count) if number not in chosen]
    if idle:
        line += f"; idle: GPU {', '.join(idle)}"
    return text, f"{line}; or choose --devices {chosen[0] if share > 1 else 'cpu'}"


def remarks(devices):
    """Lines that a person should read about a placement: what --math cannot do there, GPUs that are unequal, or cannot reach
    each other's memory."""
    numbers = sorted({device.number for device in devices if isinstance(device, Gpu)})
    lines = []
    if launch.math() == "tf32":
        lines += [f"--math tf32 changes nothing on {device.name}: it has no tensor cores for that" for device in
                  dict.fromkeys(devices) if not (isinstance(device, Gpu) and launch.gpus().tensor_cores(device.number))]
    if len(numbers) < 2:
        return lines
    gpus = launch.gpus()
    if len({gpus.name(number) for number in numbers}) > 1:
        lines.append(f"the GPUs are unequal ({', '.join(gpus.name(number) for number in numbers)}): the fastest waits for the "
                     "slowest; the fastest alone may be faster")
    apart = [f"{a} and {b}" for a in numbers for b in numbers if a < b and not (gpus.reaches(a, b) and gpus.reaches(b, a))]
    if apart:
        lines.append(f"GPUs {', '.join(apart)} cannot reach each other's memory: what crosses between them is staged in pinned "
                     "host memory, which is slower")
    return lines


def gather(parts, receivers):
    """Channel blocks (C/D, …), one of each device → for each of `receivers` all channels (C, …), in order.

    receivers: for each device that wants them, its layer, for device and memory. A single block is not copied.
    """
    if len(parts) == 1:
        return list(parts)
    shape = (sum(len(part) for part in parts), *parts[0].shape[1:])
    wholes = [receiver.buffer("gathered", shape, parts[0].dtype) for receiver in receivers]
    starts = np.cumsum([0, *(len(part) for part in parts)])
    launch.copy([(whole[start:start + len(part)], part) for whole in wholes
                 for start, part in zip(starts, parts, strict=False)])
    return wholes


def scatter_sum(gradients, receivers):
    """Gradients of all channels (C, …), one of each device that has one → for each of `receivers` its own block's sum.

    Added in the order of the devices, so that the same run gives the same bits. A single gradient is copied only to
    another device.
    """
    each = len(gradients[0]) // len(receivers)
    blocks, copies = [], []
    for d, receiver in enumerate(receivers):
        blocks.append([gradient[d * each:(d + 1) * each] for gradient in gradients])
        for k, block in enumerate(blocks[d]):
            if not receiver.device.holds(block):
                blocks[d][k] = receiver.buffer(f"received {k}", block.shape, block.dtype)
                copies.append((blocks[d][k], block))
    launch.copy(copies)
    sums = []
    for receiver, (total, *others) in zip(receivers, blocks, strict=True):
        for k, block in enumerate(others):
            out = receiver.buffer("summed", total.shape, total.dtype) if k == 0 else total
            total = pointwise.add(total, block, out=out)
        sums.append(total)
    return sums

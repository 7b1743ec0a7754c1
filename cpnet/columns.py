"""Devices, and what crosses between them.

A net of `columns` columns is placed on D devices, D dividing the columns: device d holds columns d·columns/D … as one
contiguous block of channels. Only at layers that read all columns do the devices communicate (section 3.2): forward gathers
the others' channels, backward sums every device's gradient for one's own. On one device both are free.
"""
from dataclasses import dataclass

import numpy as np

from cpnet.errors import CpnetError


@dataclass(frozen=True)
class Device:
    """Where one share of the net lives: the CPU, by NumPy."""
    name: str = "cpu"

    def empty(self, shape, dtype):
        """An uninitialised array on this device."""
        return np.empty(shape, dtype)


def devices(text, columns):
    """The devices named by `text`, such as "cpu" or "cpu,cpu". Raises CpnetError for names and numbers that do not fit."""
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name != "cpu":
            raise CpnetError(f"--devices {text}: there is no device {name!r}: this version runs on the CPU, "
                             "use --devices cpu or cpu,cpu")
    if columns % len(names):
        raise CpnetError(f"--devices {text}: {columns} column{'s' * (columns > 1)} cannot be shared evenly by "
                         f"{len(names)} devices: name {' or '.join(str(d) for d in range(1, columns + 1) if columns % d == 0)}")
    return [Device(name) for name in names]


def gather(parts, buffers):
    """Channel blocks (C/D, …), one of each device → for each of `buffers` all channels (C, …), in order.

    buffers: for each device that wants them, its function (name, shape, dtype) → memory. A single block is not copied.
    """
    if len(parts) == 1:
        return list(parts)
    shape = (sum(len(part) for part in parts), *parts[0].shape[1:])
    return [np.concatenate(parts, out=buffer("gathered", shape, parts[0].dtype)) for buffer in buffers]


def scatter_sum(gradients, buffers):
    """Gradients of all channels (C, …), one of each device that has one → for each of `buffers` its own block's sum.

    Added in the order of the devices, so that the same run gives the same bits. A single gradient is not copied.
    """
    each = len(gradients[0]) // len(buffers)
    sums = []
    for d, buffer in enumerate(buffers):
        first, *others = (gradient[d * each:(d + 1) * each] for gradient in gradients)
        if others:
            first = np.add(first, others[0], out=buffer("summed", first.shape, first.dtype))
        for block in others[1:]:
            first += block
        sums.append(first)
    return sums

"""Every launch of one training step, with the bytes that it must move and the operations that it must do.

Bytes: each array read once and written once, as the kernel's text declares them (a `const` pointer is read, another written).
Operations: of matrix products and convolutions, a multiplication and an addition each, taps in the padding left out; 0 for
kernels that only pass over memory. Recorded on any platform of cpnet.gpu: a GPU's, or `Shapes`, on which nothing runs.
"""
import functools
import re
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np

from cpnet import layers
from cpnet.gpu import platform
from cpnet.gpu.devices import Device

READS_TOO = {"sgd_update_segments": {"w", "v"}, "tally": {"sums"}, "conv_bias_gradient": {"d_y"}}  # of what a kernel writes
SHARED = 227 << 10  # bytes of shared memory a block may have, on an H200


@dataclass
class Launch:
    """One launch: of which layer and part of the step, what, its bytes and operations, and a function that repeats it."""
    layer: str
    part: str
    kernel: str
    grid: tuple
    bytes: int
    operations: int
    repeat: object


class Recording:
    """A platform that does what another does, and notes its launches."""

    def __init__(self, platform):
        self.platform, self.launches = platform, []
        self.place = SimpleNamespace(layer="", part="", products={})

    def __getattr__(self, name):
        return getattr(self.platform, name)

    def module(self, code):
        module = self.platform.module(code)
        return SimpleNamespace(get_function=lambda name: Function(self, code, name, module.get_function(name)))

    def copy(self, pairs):
        size = sum(2 * source.nbytes for _, source in pairs)
        self.note("copy", (), size, 0, lambda: self.platform.copy(pairs))

    def note(self, kernel, grid, size, operations, repeat):
        repeat()
        self.launches.append(Launch(self.place.layer, self.place.part, kernel, grid, size, operations, repeat))


class Function:
    """A kernel, launched and noted."""

    def __init__(self, recording, code, name, function):
        self.recording, self.name, self.function = recording, name, function
        self.parameters = _parameters(code, name)

    @property
    def max_dynamic_shared_size_bytes(self):
        return self.function.max_dynamic_shared_size_bytes

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, value):
        self.function.max_dynamic_shared_size_bytes = value

    def __call__(self, grid, block, args, **options):
        values = dict(zip((name for name, _ in self.parameters), args, strict=True))
        # What is passed in the place of an array that there is none of is not read, nor d_y written if it is not masked.
        idle = {"y", "d_y"} if not values.get("masked", True) else {"b", "bias"} if not values.get("biased", True) else set()
        size = 0
        for name, constant in self.parameters:
            if not isinstance(values[name], np.generic):
                read = constant and name not in idle or name in READS_TOO.get(self.name, ())
                size += values[name].nbytes * (read + (not constant and name not in idle))
        operations = self.recording.place.products.get(_product(self.name), 0)
        self.recording.note(self.name, grid, size, operations, lambda: self.function(grid, block, args, **options))


def _product(kernel):
    """Which product of a convolution a kernel does: "weight", "input" (forward: the output, of the same size), or none."""
    if "weight_parts" in kernel:
        return "weight"
    return "input" if re.fullmatch(r"conv_(forward|input_gradient|product)\w*", kernel) else None


@functools.cache
def _parameters(code, kernel):
    """[(name, whether const)] of a kernel's parameters."""
    code = re.sub(r"//[^\n]*|/\*.*?\*/", " ", code, flags=re.S)
    found = re.search(rf"\b{kernel}\s*\(([^()]*)\)\s*\{{", code[code.index("__global__"):])
    return [(re.search(r"(\w+)\s*$", each)[1], "const" in each.split()) for each in found[1].split(",")]


def operations(part, x_shape):
    """Of one product of a placed layer: 2 · filters · channels of a group · images · taps that fall into the image; of a fully-
    connected layer whose columns are apart, of one column's."""
    filters, channels = part.values["weight"].shape[:2]
    if isinstance(part, layers.Linear):
        return 2 * filters * channels * x_shape[-1] // (part.columns if part.reads == "column" else 1)
    rows, cols = (_taps(size, part.size, part.stride, *part.pads) for size in x_shape[1:3])
    return 2 * filters * channels * rows * cols * x_shape[3]


def _taps(size, taps, stride, before, after):
    """Of one axis: how many (output, tap) pairs fall into the image."""
    outputs = (size + before + after - taps) // stride + 1
    return sum(0 <= out * stride + tap - before < size for out in range(outputs) for tap in range(taps))


def record(step, platform, images, labels):
    """The launches of the call `step(images, labels)` of a cpnet.step.Step on `platform`, a Recording."""
    for row in step.network.rows:
        for part in row.copies:
            part.forward, part.backward = _noted(platform, part, part.forward, "forward"), _noted(
                platform, part, part.backward, "backward")
    platform.launches.clear()
    try:
        platform.place = SimpleNamespace(layer="", part="loss", products={})
        step.passes(images, labels, 0)
        platform.place = SimpleNamespace(layer="", part="update", products={})
        step.update(0.01)
    finally:
        for row in step.network.rows:
            for part in row.copies:
                del part.forward, part.backward
    return list(platform.launches)


def _noted(platform, part, method, name):
    def noted(values, *rest, **options):
        products = {}
        if isinstance(part, layers.Conv | layers.Linear):
            count = operations(part, (values if name == "forward" else part.x).shape)
            products = {"input": count, "weight": count}
        outside, platform.place = platform.place, SimpleNamespace(layer=part.name, part=name, products=products)
        try:
            return method(values, *rest, **options)
        finally:
            platform.place = outside
    return noted


class Shadow(np.ndarray):
    """An array on Shapes. Its memory is never touched, hence never there."""


class Shapes:
    """The platform of Shadow: a GPU on which nothing happens, for the launches' shapes alone."""

    def device(self, array):
        return 0

    def use(self, device):
        pass

    def tensor_cores(self, device):
        return SHARED

    def address(self, array):
        return 0

    def module(self, code):
        return SimpleNamespace(get_function=lambda name: lambda *arguments, **options: None)

    def empty(self, shape, dtype):
        return np.empty(shape, dtype).view(Shadow)

    def assign(self, array, values):
        pass

    def to_host(self, array):
        return np.zeros(array.shape, array.dtype)

    def copy(self, pairs):
        pass



class Nowhere(Device):
    """The device of Shapes."""

    def empty(self, shape, dtype):
        return np.empty(shape, dtype).view(Shadow)

    def put(self, array):
        return array if isinstance(array, Shadow) else self.empty(array.shape, array.dtype)


def nowhere():
    """(a Recording of Shapes, its device)."""
    recording = Recording(Shapes())
    platform.register(Shadow, recording)
    return recording, Nowhere("nowhere")

"""A net placed on devices: its parameters in flat buffers, forward, loss, backward, update."""
import copy
from dataclasses import dataclass
from math import prod

import numpy as np

from cpnet.columns import gather, scatter_sum
from cpnet.errors import CpnetError
from cpnet.fusion import fuse
from cpnet.gpu import memory
from cpnet.layers import Pass
from cpnet.ops import sgd, softmax

ALIGN = 64  # numbers: every parameter starts on a boundary that suits vector loads


@dataclass
class Segment:
    """Where a device's share of one parameter lies in its flat buffers."""
    name: str
    start: int
    shape: tuple
    rate: float
    decay: float | None

    def of(self, buffer):
        """This share, as a view of a flat buffer."""
        return buffer[self.start:self.start + prod(self.shape)].reshape(self.shape)


def layer_of(name):
    """The layer of an array: conv1.weight → conv1."""
    return name.rpartition(".")[0]


def _rule(segments):
    """The update rule for a device's parameters."""
    return sgd.Segments([segment.start for segment in segments],
                        [prod(segment.shape) for segment in segments])


class Network:
    """The net of `table` on `devices`, with fresh weights drawn from `seed`.

    Each device holds a contiguous share of every layer's filters, hence of axis 0 of its parameters;
    an undivided layer lies on the first device. A device's parameters are one flat array (`values`),
    and so are its velocities, its gradients and the layers' state, in the order in which backward produces
    the gradients. Response normalization and the max pooling above it are one operation, unless `fuse_pools`
    is False.

    `kinds` says which arrays there are of each kind: {"values": {"conv1.weight": Parameter, …}, …}.
    """

    def __init__(self, table, devices, *, seed=0, dtype=np.float32, fuse_pools=True):
        self.table, self.devices, self.seed, self.dtype = table, devices, seed, np.dtype(dtype)
        self.rows = fuse(table, pools=fuse_pools, devices=len(devices))
        for row in self.rows:
            self._place(row)
        self.parameters = table.parameters()
        self.kinds = dict.fromkeys(("values", "velocities", "gradients"), self.parameters)
        self.kinds["state"] = table.initial_state()
        numbers = range(len(devices))
        self.segments = [self._segments(d, self.parameters) for d in numbers]
        self.state_segments = [self._segments(d, self.kinds["state"]) for d in numbers]
        self.rules = [_rule(segments) for segments in self.segments]
        self.values, self.velocities, self.gradients, self.state = (
            [self._zeros(d, kind) for d in numbers] for kind in self.kinds)
        self.losses = {}  # by device, copies of the first one's
        for d in numbers:
            self._share_out(d)
        self._initialise()

    # Placement

    def _place(self, row):
        """The row with its layer's copies, one for each device that has a share of it."""
        count = 1 if row.layer.undivided else len(self.devices)
        row.copies = [copy.copy(row.layer) for _ in range(count)]
        for d, placed in enumerate(row.copies):
            placed.device, placed.index, placed.input_gradient = self.devices[d], row.index, row.index > 0
            placed.columns = self.table.columns // len(self.devices)
            placed.units = row.out_shape[0] // count
            placed.first_unit = d * placed.units
            placed.values, placed.gradients, placed.state = {}, {}, {}

    def _segments(self, d, parameters):
        segments, start = [], 0
        for row in reversed(self.rows):
            if d >= len(row.copies):
                continue
            for name, parameter in parameters.items():
                if layer_of(name) == row.layer.name:
                    shape = (parameter.shape[0] // len(row.copies), *parameter.shape[1:])
                    segments.append(Segment(name, start, shape, parameter.rate, parameter.decay))
                    start += prod(shape) + -prod(shape) % ALIGN
        return segments

    def _segments_of(self, kind):
        return self.state_segments if kind == "state" else self.segments

    def _zeros(self, d, kind):
        segments = self._segments_of(kind)[d]
        size = segments[-1].start + prod(segments[-1].shape) if segments else 0
        return self.devices[d].put(np.zeros(size, self.dtype))

    def _share_out(self, d):
        """Give each layer copy of device d its views of the flat buffers."""
        copies = {row.layer.name: row.copies[d] for row in self.rows if d < len(row.copies)}
        for kind in "values", "gradients", "state":
            for segment in self._segments_of(kind)[d]:
                layer, _, key = segment.name.rpartition(".")
                getattr(copies[layer], kind)[key] = segment.of(getattr(self, kind)[d])

    # Arrays as wholes

    def _initialise(self):
        """Section 5. The weights of the k-th array of parameters depend on the seed and k alone,
        whatever the placement."""
        for k, (name, parameter) in enumerate(self.parameters.items()):
            whole = np.full(parameter.shape, parameter.value, np.float32)
            if parameter.std:
                random = np.random.Generator(np.random.Philox(key=[self.seed, k]))
                random.standard_normal(out=whole, dtype=np.float32)
                whole *= np.float32(parameter.std)
            self.set("values", name, whole)
        for name, parameter in self.kinds["state"].items():
            self.set("state", name, np.full(parameter.shape, parameter.value, np.float32))

    def _shares(self, kind, name):
        found = []
        for segments, buffer in zip(self._segments_of(kind), getattr(self, kind), strict=True):
            found += [segment.of(buffer) for segment in segments if segment.name == name]
        return found

    def get(self, kind, name):
        """The whole array of a kind and a name, such as "values" and "conv1.weight", as a new NumPy array."""
        return np.concatenate([memory.to_host(share) for share in self._shares(kind, name)])

    def set(self, kind, name, whole):
        """Assign a whole NumPy array. Raises ValueError where its shape does not fit."""
        shares, shape = self._shares(kind, name), self.kinds[kind][name].shape
        if whole.shape != shape:
            raise ValueError(f"{name} has the shape {whole.shape}, the net needs {shape}")
        for share, own in zip(shares, np.split(whole, len(shares)), strict=True):
            memory.assign(share, np.ascontiguousarray(own, self.dtype))

    def scale_rates(self, scales):
        """Multiply the learning rates of the layers named: {layer: factor}.

        Raises CpnetError for a layer that is not there.
        """
        layers = [layer_of(name) for name in self.parameters]
        for layer in scales:
            if layer not in layers:
                raise CpnetError(f"--lr-scale {layer}: the net has no such layer with weights; "
                                 f"it has {', '.join(dict.fromkeys(layers))}")
        for segments in self.segments:
            for segment in segments:
                segment.rate *= scales.get(layer_of(segment.name), 1)

    # The passes

    def forward(self, images, run=None, watch=None):
        """images (C, H, W, N), NumPy's, or a list of each device's own → logits (classes, N) on the first
        device, until the next pass.

        `watch(layer, outputs)`, if given, sees every layer's outputs, one array for each device.
        """
        run = run or Pass()
        if isinstance(images, list):
            outputs = images
        else:
            copies = {device: device.put(images) for device in self.devices}
            outputs = [copies[device] for device in self.devices]
        for number, row in enumerate(self.rows):
            if row.layer.reads == "all" and number > 0:
                outputs = gather(outputs, row.copies)
            outputs = [placed.forward(x, run) for placed, x in zip(row.copies, outputs, strict=True)]
            if watch:
                within = zip(*(placed.within() for placed in row.copies), strict=True)
                for layer, seen in zip(row.covers, [*within, outputs], strict=True):
                    watch(layer, list(seen))
        self.logits = outputs[0]
        return self.logits

    def backward(self, labels, batch=None):
        """Assigns the gradients of the loss: the sum of the last forward pass's cross-entropies,
        divided by `batch`.

        `labels` int (N), NumPy's or the first device's.
        `batch` is the size of the whole batch where this is only a part of it. The logits are lost.
        """
        labels = self.devices[0].put(labels)
        self.backward_from(softmax.cross_entropy_backward(self.logits, labels, batch, out=self.logits))

    def backward_from(self, d_y):
        """Assigns the gradients of any loss, given its gradient by the last forward pass's output,
        which may be lost."""
        gradients = [d_y]
        for number in reversed(range(len(self.rows))):
            row = self.rows[number]
            gradients = [placed.backward(d_y) for placed, d_y in zip(row.copies, gradients, strict=True)]
            if row.layer.reads == "all" and number > 0:
                gradients = scatter_sum(gradients, self.rows[number - 1].copies)

    def update(self, rate, *, momentum=0.9, decay=None, loss=None):
        """One step of section 5's rule; `decay` (default: the net's) counts where a parameter has none of its
        own; 0 is none anywhere.

        loss: float64, on the first device. Nothing changes if its first number is not finite.
        """
        self.set_rates(rate, decay)
        for d, arrays in enumerate(zip(self.values, self.velocities, self.gradients, strict=True)):
            sgd.sgd_update_segments(*arrays, self.rules[d], momentum=momentum, loss=self._loss_on(d, loss))

    def set_rates(self, rate, decay=None):
        """What `update` does first: tell the devices, where it has changed.
        It waits for them, so it cannot be captured."""
        decay = self.table.decay if decay is None else decay
        for segments, rule, values in zip(self.segments, self.rules, self.values, strict=True):
            rule.set([rate * segment.rate for segment in segments],
                     [segment.decay if decay and segment.decay is not None else decay
                      for segment in segments], values)

    def _loss_on(self, d, loss):
        """`loss` where device d can read it."""
        if loss is None or self.devices[d].holds(loss):
            return loss
        if d not in self.losses:
            self.losses[d] = self.devices[d].empty((1,), np.float64)
        memory.copy([(self.losses[d], loss[:1])])
        return self.losses[d]

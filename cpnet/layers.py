"""A layer: hyper-parameters, parameters, forward, backward, and what forward must remember for backward.

The same object is a row of a net's table (`nets.py`), written for the whole net, and, copied by `network.py`
and given its share of filters and its memory, the layer that one device runs.
Layers know nothing of NumPy or CuPy: they call operations.

Who owns a buffer: a layer owns its output and the gradient that it hands down. The layer above may write over
the output where its own backward needs nothing else (ReLU and dropout do),
and any layer may write over the d_y it is given.
"""
from dataclasses import dataclass
from math import prod

import numpy as np

from cpnet.gpu import memory
from cpnet.ops import conv, dropout, linear, lrn, pointwise, pool


@dataclass(frozen=True)
class Pass:
    """What layers must know of the pass they are in:
    dropout draws by seed, step and the images' place in the batch."""
    training: bool = False
    seed: int = 0
    step: int = 0  # or, on one GPU, where it lies: an array float64 (1)
    first_image: int = 0


@dataclass(frozen=True)
class Parameter:
    """One array of parameters of a whole layer: shape, how it starts (N(0, std²), or `value`),
    how it is trained."""
    shape: tuple
    std: float = 0.0
    value: float = 0.0
    rate: float = 1.0  # multiplies the learning rate
    decay: float | None = None  # weight decay; None: the run's


@dataclass
class Layer:
    """A row of a net's table. Shapes without N are (C, H, W),
    or (features,) after the first fully-connected layer."""
    name: str

    reads = "column"  # its own column's maps, or "all" columns'
    undivided = False  # one layer on the first device, not shared by the columns
    input_gradient = True  # False for the first layer: nobody trains the image
    # whether its slope jumps where its output `y` is 0, which finite differences must not cross
    bends_at_zero = False

    # A placed copy also has: device; columns, the columns whose maps it holds; first_unit, the number of its
    # first output in the whole layer; units, how many it has; index, its place in the table; values and
    # gradients, its parameters' arrays by name; state, the arrays of `initial_state` by name.

    def out_shape(self, shape):
        """The shape of an image's output for an input of `shape`."""
        return shape

    def parameters(self, shape, columns):
        """The whole layer's Parameters by name, for inputs of `shape` from `columns` columns."""
        return {}

    def initial_state(self, shape, columns):
        """Like `parameters`: arrays that no gradient trains,
        but that forward changes in training and checkpoints keep."""
        return {}

    def multiply_adds(self, shape, columns):
        """Multiply-adds of one image's forward pass through the whole layer."""
        return 0

    def forward(self, x, run):
        """x (C, H, W, N) or (features, N) → y; `run` is the Pass."""
        raise NotImplementedError

    def backward(self, d_y):
        """d_y → d_x. Assigns (does not add to) the parameters' gradients. May write over d_y."""
        raise NotImplementedError

    def within(self):
        """After forward, the outputs of the layers that this one does the work of (fusion.py),
        but for the last: its own."""
        return []

    def buffer(self, name, shape, dtype):
        """This layer's array called `name`, uninitialised:
        the same memory each time, as long as `shape` fits into it."""
        held = self.__dict__.setdefault("_held", {})
        size = prod(shape)
        if name not in held or held[name].size < size or held[name].dtype != dtype:
            held[name] = self.device.empty(shape, dtype).reshape(-1)
        return held[name][:size].reshape(shape)

    def buffers(self):
        """All that this layer holds."""
        return list(self.__dict__.get("_held", {}).values())


@dataclass
class Conv(Layer):
    """Convolution with bias. `pad`: zeros (above and left, below and right), or one number for both; `bias`:
    its start."""
    filters: int
    size: int
    stride: int = 1
    pad: int | tuple = 0
    reads: str = "column"
    std: float = 0.01
    bias: float = 0.0
    bias_rate: float = 1.0
    decay: float | None = None

    @property
    def pads(self):
        """Zeros (above and left, below and right)."""
        return self.pad if isinstance(self.pad, tuple) else (self.pad, self.pad)

    def _weight_shape(self, shape, columns):
        return self.filters, shape[0] // (columns if self.reads == "column" else 1), self.size, self.size

    def out_shape(self, shape):
        return conv.conv_shape((*shape, 1), self._weight_shape(shape, 1), self.stride, self.pads)[:3]

    def parameters(self, shape, columns):
        return {"weight": Parameter(self._weight_shape(shape, columns), std=self.std, decay=self.decay),
                "bias": Parameter((self.filters,), value=self.bias, rate=self.bias_rate, decay=0.0)}

    def multiply_adds(self, shape, columns):
        return prod(self._weight_shape(shape, columns)) * prod(self.out_shape(shape)[1:])

    def _geometry(self):
        return {"stride": self.stride, "pad": self.pads,
                "groups": self.columns if self.reads == "column" else 1}

    def forward(self, x, run):
        return self._forward(x)

    def backward(self, d_y):
        return self._backward(d_y)

    def _forward(self, x, relu=False):
        self.x = x
        w, b = self.values["weight"], self.values["bias"]
        y = self.buffer("y", conv.conv_shape(x.shape, w.shape, self.stride, self.pads), x.dtype)
        return conv.conv_forward(x, w, b, **self._geometry(), relu=relu, out=y)

    def _backward(self, d_y, relu_y=None):
        d_x = self.buffer("d_x", self.x.shape, d_y.dtype) if self.input_gradient else None
        return conv.conv_backward(
            d_y, self.x, self.values["weight"], self.gradients["weight"], self.gradients["bias"],
            **self._geometry(), relu_y=relu_y, input_gradient=self.input_gradient, out=d_x)


@dataclass
class Linear(Layer):
    """Fully-connected layer with bias; maps (C, H, W, N) are read as C·H·W features. It reads all columns,
    or, where the columns are kept apart, its own: then the weights are (outputs, features of one column)."""
    outputs: int
    std: float = 0.01
    bias: float = 0.0
    bias_rate: float = 1.0
    decay: float | None = None
    undivided: bool = False
    reads: str = "all"

    def out_shape(self, shape):
        return (self.outputs,)

    def parameters(self, shape, columns):
        features = prod(shape) // (columns if self.reads == "column" else 1)
        return {"weight": Parameter((self.outputs, features), std=self.std, decay=self.decay),
                "bias": Parameter((self.outputs,), value=self.bias, rate=self.bias_rate, decay=0.0)}

    def multiply_adds(self, shape, columns):
        return prod(self.parameters(shape, columns)["weight"].shape)

    def forward(self, x, run):
        self.x = x
        y = self.buffer("y", (len(self.values["bias"]), x.shape[-1]), x.dtype)
        arrays = self._features(x), self.values["weight"], self.values["bias"], y
        for x_g, w, b, y_g in self._by_column(*arrays):
            linear.linear_forward(x_g, w, b, out=y_g)
        return y

    def backward(self, d_y):
        x = self._features(self.x)
        d_x = self.buffer("d_x", x.shape, d_y.dtype)
        arrays = x, self.values["weight"], self.gradients["weight"], self.gradients["bias"], d_y, d_x
        for x_g, w, d_w, d_b, d_y_g, d_x_g in self._by_column(*arrays):
            linear.linear_backward(d_y_g, x_g, w, d_w, d_b, input_gradient=self.input_gradient, out=d_x_g)
        return d_x.reshape(self.x.shape) if self.input_gradient else None

    @staticmethod
    def _features(x):
        return x.reshape(-1, x.shape[-1])

    def _by_column(self, *arrays):
        """The shares of each column that is read apart, one after the other: equal blocks of axis 0."""
        count = self.columns if self.reads == "column" else 1
        for g in range(count):
            yield [array[g * len(array) // count:(g + 1) * len(array) // count] for array in arrays]


@dataclass
class ReLU(Layer):
    """max(0, x), written over x. A max pool below loses only outputs that receive no gradient."""
    bends_at_zero = True

    def forward(self, x, run):
        self.y = pointwise.relu_forward(x, out=x)
        return self.y

    def backward(self, d_y):
        return pointwise.relu_backward(d_y, self.y, out=d_y)


@dataclass
class Tanh(Layer):
    """tanh(x). Not written over x, which may be a max pool's output: that finds the winners by it."""

    def forward(self, x, run):
        self.y = pointwise.tanh_forward(x, out=self.buffer("y", x.shape, x.dtype))
        return self.y

    def backward(self, d_y):
        return pointwise.tanh_backward(d_y, self.y, out=d_y)


@dataclass
class LRN(Layer):
    """Local response normalization within each column, or, reading "all", across their borders;
    `alpha` is the formula's."""
    k: float = 2.0
    n: int = 5
    alpha: float = 1e-4
    beta: float = 0.75
    reads: str = "column"

    def constants(self, columns):
        """The operation's arguments, where a device holds so many columns."""
        return {"k": self.k, "n": self.n, "alpha": self.alpha, "beta": self.beta,
                "groups": columns if self.reads == "column" else 1}

    def forward(self, x, run):
        self.x = x
        y = lrn.lrn_forward(x, **self.constants(self.columns), out=self.buffer("y", x.shape, x.dtype))
        return y if self.reads == "column" else self._own(y)

    def backward(self, d_y):
        if len(d_y) < len(self.x):  # the other devices' outputs are nothing to this one's loss
            d_own, d_y = d_y, self.buffer("d_y", self.x.shape, d_y.dtype)
            memory.assign(d_y, np.zeros(d_y.shape, d_y.dtype))
            memory.copy([(self._own(d_y), d_own)])
        return lrn.lrn_backward(d_y, self.x, **self.constants(self.columns), out=d_y)

    def _own(self, maps):
        """Of all columns' maps, those that are this device's."""
        return maps[self.first_unit:self.first_unit + self.units]


@dataclass
class Pool(Layer):
    """Pooling over z×z windows, s pixels apart."""
    z: int = 3
    s: int = 2
    ceil: bool = True

    def out_shape(self, shape):
        return pool.pool_shape((*shape, 1), self.z, self.s, self.ceil)[:3]

    def _y(self, x):
        return self.buffer("y", pool.pool_shape(x.shape, self.z, self.s, self.ceil), x.dtype)


@dataclass
class MaxPool(Pool):
    """The largest value of each window."""

    def forward(self, x, run):
        self.x, self.y = x, self._y(x)
        return pool.max_pool_forward(x, z=self.z, s=self.s, ceil=self.ceil, out=self.y)

    def backward(self, d_y):
        d_x = self.buffer("d_x", self.x.shape, d_y.dtype)
        return pool.max_pool_backward(d_y, self.x, self.y, z=self.z, s=self.s, out=d_x)


@dataclass
class AveragePool(Pool):
    """The mean of each window."""

    def forward(self, x, run):
        self.x_shape = x.shape
        return pool.average_pool_forward(x, z=self.z, s=self.s, ceil=self.ceil, out=self._y(x))

    def backward(self, d_y):
        d_x = self.buffer("d_x", self.x_shape, d_y.dtype)
        return pool.average_pool_backward(d_y, self.x_shape, z=self.z, s=self.s, out=d_x)


@dataclass
class Dropout(Layer):
    """Each neuron dropped with probability `rate` in training, all multiplied by 1 − rate at test;
    written over x."""
    rate: float = 0.5

    def forward(self, x, run):
        if not run.training:
            return dropout.dropout_test(x, self.rate, out=x)
        self.mask = dropout.dropout_mask(
            x.shape, seed=run.seed, step=run.step, layer=self.index, rate=self.rate,
            first_unit=self.first_unit, first_image=run.first_image, out=self.buffer("mask", x.shape, "bool"))
        return dropout.dropout_forward(x, self.mask, out=x)

    def backward(self, d_y):
        return dropout.dropout_backward(d_y, self.mask, out=d_y)

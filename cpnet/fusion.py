"""Layers of a table that are computed as one: the same numbers, by fewer passes over memory.

    convolution, ReLU            one operation: the ReLU is applied as the result is stored (3.1)
    normalization, max pooling   one operation: the normalized maps are never in memory (3.3, 3.4)

`fuse` rewrites the rows of a table once, from below; what is not exactly of these types stays as it is.
"""
from dataclasses import dataclass, field, fields

from cpnet.layers import LRN, Conv, Layer, MaxPool, ReLU
from cpnet.ops import lrn, lrn_pool


@dataclass
class Row:
    """A layer to be placed, and the layers of the table that it does the work of.
    `index`: of the first of these there."""
    index: int
    layer: Layer
    covers: list
    in_shape: tuple
    out_shape: tuple
    # once placed: one for each device that has a share of the layer
    copies: list = field(default_factory=list)


def fuse(table, *, pools, devices):
    """The rows of a table, fused. pools: whether to fuse normalization with pooling; devices:
    how many share the columns."""
    rows = []
    for index, (layer, in_shape, out_shape) in enumerate(table.shapes()):
        below = rows[-1].layer if rows else None
        fused = None
        if type(below) is Conv and type(layer) is ReLU:
            fused = _of(ConvReLU, below)
        elif pools and type(below) is LRN and type(layer) is MaxPool and lrn_pool.fits(layer.z, layer.s) \
                and (below.reads == "column" or devices == 1):
            fused = _of(NormMaxPool, layer, norm=below)
            if len(rows) > 1 and type(rows[-2].layer) is ConvReLU:
                fused.relu = rows[-2].layer.masked = True
        if fused:
            rows[-1] = Row(rows[-1].index, fused, [*rows[-1].covers, layer], rows[-1].in_shape, out_shape)
        else:
            rows.append(Row(index, layer, [layer], in_shape, out_shape))
    return rows


def _of(kind, layer, **more):
    """A layer of `kind` with the hyper-parameters of one of its base class."""
    return kind(**{each.name: getattr(layer, each.name) for each in fields(layer)}, **more)


@dataclass
class ConvReLU(Conv):
    """A convolution and the ReLU right above it."""
    bends_at_zero = True
    masked: bool = False  # the gradient arrives with the ReLU's mask: the NormMaxPool above has applied it

    def forward(self, x, run):
        self.y = self._forward(x, relu=True)
        return self.y

    def backward(self, d_y):
        return self._backward(d_y, relu_y=None if self.masked else self.y)

    def within(self):
        return [self.y]  # the ReLU is written over the convolution's result


@dataclass
class NormMaxPool(MaxPool):
    """The response normalization `norm` and the max pooling right above it. With `relu`, the gradient that it
    hands down is that of the ReLU below, too, which a ConvReLU does in forward."""
    norm: LRN | None = None
    relu: bool = False

    def _constants(self):
        return self.norm.constants(self.columns)

    def forward(self, x, run):
        self.x, self.y = x, self._y(x)
        self.winner = self.buffer("winner", self.y.shape, "uint8")
        lrn_pool.lrn_pool_forward(x, z=self.z, s=self.s, ceil=self.ceil, out=self.y, winner=self.winner,
                                  **self._constants())
        return self.y

    def backward(self, d_y):
        d_x = self.buffer("d_x", self.x.shape, d_y.dtype)
        return lrn_pool.lrn_pool_backward(d_y, self.x, self.winner, z=self.z, s=self.s,
                                          relu=self.relu, out=d_x, **self._constants())

    def within(self):
        return [lrn.lrn_forward(self.x, **self._constants(),
                                out=self.buffer("normalized", self.x.shape, self.x.dtype))]

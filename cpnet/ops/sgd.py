"""The update rule of section 5, as printed:

    v := 0.9 · v − 0.0005 · ε · w − ε · ⟨∂L/∂w⟩
    w := w + v

The velocity v carries the learning rate ε, so a drop of the rate acts on new gradients only, not on the way
already taken. (PyTorch's SGD keeps the rate outside the velocity: the two agree while the rate is constant.)
"""
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from cpnet.gpu.kernels import blocks, expect, launch
from cpnet.gpu.memory import assign, empty
from cpnet.gpu.platform import on_gpu
from cpnet.loops import beside
from cpnet.threads import chunks, parallel

THREADS = 256  # a GPU block's, 16 bytes each
BLOCK = 1 << 16  # numbers a task works on

loops = beside(__name__)


def sgd_update(w, v, gradient, *, rate, momentum=0.9, decay=0.0005):
    """Assigns w and v. w, v, gradient: contiguous, of one shape; rate ε and decay for all of them."""
    if on_gpu(w):
        return _sgd_update_gpu(w, v, gradient, rate, momentum, decay)
    w, v, gradient = (array.reshape(-1, copy=False) for array in (w, v, gradient))
    momentum, rate, shrink = (w.dtype.type(value) for value in (momentum, rate, decay * rate))

    def block(start, stop):
        own = slice(start, stop)
        loops.sgd_update(w[own], v[own], gradient[own], momentum, rate, shrink)

    parallel(block, chunks(w.size, BLOCK))


def _sgd_update_gpu(w, v, gradient, rate, momentum, decay):
    expect("sgd_update", w.shape, v=v, gradient=gradient)
    grid = blocks(w.nbytes, 16 * THREADS)
    launch(__file__, "sgd_update", grid, THREADS, w, v, gradient, w.size, momentum, rate, decay * rate,
           defines={"THREADS": THREADS})


class Table(NamedTuple):
    """What the kernel reads of Segments, on a GPU."""
    starts: Any  # int64 (G)
    counts: Any  # int64 (G)
    first_blocks: Any  # int64 (G + 1): segment g belongs to the blocks from its own to the next
    rates: Any  # real (G)
    shrinks: Any  # real (G): rate · decay
    no_loss: Any  # float64 (1): a zero, which stands for the loss where none is given


@dataclass
class Segments:
    """Runs of a flat buffer, `counts[g]` numbers from `starts[g]` on,
    each with a rate and a decay of its own.

    On a GPU the table lies in memory there, at the same place whatever `set` changes.
    """
    starts: list
    counts: list
    rates: list = field(init=False, default=None)
    decays: list = field(init=False, default=None)
    table: Table = field(init=False, default=None)  # on a GPU

    def set(self, rates, decays, like):
        """The rates and decays from now on, for buffers like `like`, always of one device."""
        if (list(rates), list(decays)) == (self.rates, self.decays):
            return
        self.rates, self.decays = list(rates), list(decays)
        if not on_gpu(like):
            return
        blocks_each = [blocks(count * like.itemsize, 16 * THREADS) for count in self.counts]
        shrinks = [rate * decay for rate, decay in zip(self.rates, self.decays, strict=True)]
        table = Table(np.array(self.starts, np.int64), np.array(self.counts, np.int64),
                      np.cumsum([0, *blocks_each], dtype=np.int64), np.array(self.rates, like.dtype),
                      np.array(shrinks, like.dtype), np.zeros(1))
        if self.table is None:
            self.table = Table(*(empty(values.shape, values.dtype, like) for values in table))
        for array, values in zip(self.table, table, strict=True):
            assign(array, values)


def sgd_update_segments(w, v, gradient, segments, *, momentum=0.9, loss=None):
    """`sgd_update` for each of the Segments of the flat buffers w, v, gradient; on a GPU in one launch.

    loss: float64, where w is. Nothing changes if its first number is not finite:
    a GPU knows, the CPU need not wait for it.
    """
    if on_gpu(w):
        return _sgd_update_segments_gpu(w, v, gradient, segments, momentum, loss)
    if loss is not None and not np.isfinite(loss[0]):
        return
    for start, count, rate, decay in zip(segments.starts, segments.counts, segments.rates,
                                         segments.decays, strict=True):
        own = slice(start, start + count)
        sgd_update(w[own], v[own], gradient[own], rate=rate, momentum=momentum, decay=decay)


def _sgd_update_segments_gpu(w, v, gradient, segments, momentum, loss):
    expect("sgd_update_segments", w.shape, v=v, gradient=gradient)
    grid = sum(blocks(count * w.itemsize, 16 * THREADS) for count in segments.counts)
    table = segments.table
    launch(__file__, "sgd_update_segments", grid, THREADS, w, v, gradient,
           table.starts, table.counts, table.first_blocks, table.rates, table.shrinks,
           table.no_loss if loss is None else loss, len(segments.counts), momentum,
           defines={"THREADS": THREADS})

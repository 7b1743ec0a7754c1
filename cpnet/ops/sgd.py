"""The update rule of section 5, as printed:

    v := 0.9 · v − 0.0005 · ε · w − ε · ⟨∂L/∂w⟩
    w := w + v

The velocity v carries the learning rate ε, so a drop of the rate acts on new gradients only, not on the way already taken.
(PyTorch's SGD keeps the rate outside the velocity: the two agree while the rate is constant.)
"""
import numpy as np

from cpnet.arrays import chunks, parallel, scratch

BLOCK = 1 << 16  # numbers a task works on: w, v, the gradient and a temporary stay in a core's own cache


def sgd_update(w, v, gradient, *, rate, momentum=0.9, decay=0.0005):
    """Assigns w and v. w, v, gradient: contiguous, of one shape; rate ε and decay for all of them."""
    w, v, gradient = (array.reshape(-1, copy=False) for array in (w, v, gradient))
    momentum, rate, shrink = (w.dtype.type(value) for value in (momentum, rate, decay * rate))

    def block(start, stop):
        own = slice(start, stop)
        term = scratch("sgd.term", (stop - start,), w.dtype)
        v[own] *= momentum
        if shrink:
            v[own] -= np.multiply(w[own], shrink, out=term)
        v[own] -= np.multiply(gradient[own], rate, out=term)
        w[own] += v[own]

    parallel(block, chunks(w.size, BLOCK))

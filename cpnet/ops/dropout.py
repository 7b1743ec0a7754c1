"""Dropout (section 4.2): in training each hidden neuron's output is set to zero with probability 0.5;
at test time all neurons are used, their outputs multiplied by 0.5.
(Many later codes scale by 2 in training instead; this one does as printed.)

Which neurons are dropped is a function of (seed, step, layer, unit, position of the image in the batch),
computed by the counter-based generator Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1,
2, 3", SC 2011). So a run that is resumed, or placed on other devices, drops the same ones,
and no generator's state needs saving.
"""
import numpy as np

from cpnet.gpu.kernels import blocks, expect, launch
from cpnet.gpu.memory import empty
from cpnet.gpu.platform import on_gpu
from cpnet.loops import beside
from cpnet.ops import pointwise
from cpnet.threads import chunks, parallel

UNITS = 256  # a task's
THREADS = 256  # a GPU block's
MASK_THREADS = 32  # of the kernel that draws: four images each, so that 128 make one block

loops = beside(__name__)


def dropout_mask(shape, *, seed, step, layer, rate=0.5, first_unit=0, first_image=0, out=None):
    """bool (units, N): True where the neuron is kept.

    The draw for unit u and the image at position n of the global batch is word n mod 4 of Philox with the
    counter (n // 4, u, layer, step) and the key (seed mod 2³², seed // 2³²);
    the neuron is dropped if it is below rate · 2³².

    `step` may be an array float64 (1), where the mask is: on a GPU its value counts when the kernel runs.
    """
    if on_gpu(out):
        return _dropout_mask_gpu(out, shape, seed, step, layer, rate, first_unit, first_image)
    units, images = shape
    mask = np.empty(shape, bool) if out is None else out
    key, threshold = (seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF), int(rate * 2**32)
    number = int(np.asarray(step).item())

    def block(start, stop):
        loops.dropout_mask(first_unit + start, first_image, layer, number, *key, threshold, mask[start:stop])

    parallel(block, chunks(units, UNITS))
    return mask


def _dropout_mask_gpu(mask, shape, seed, step, layer, rate, first_unit, first_image):
    expect("dropout_mask", shape, out=mask)
    units, images = shape
    begin = first_image % 4
    grid = blocks(begin + images, 4 * MASK_THREADS), units
    kernel = "dropout_mask_counted" if on_gpu(step) else "dropout_mask"
    launch(__file__, kernel, grid, MASK_THREADS, mask, images, first_image // 4, begin,
           first_unit, layer, step,
           seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF, int(rate * 2**32), defines={"THREADS": MASK_THREADS})
    return mask


def dropout_forward(x, mask, *, out=None):
    """Training: x (units, N), mask → y = x where the mask is True, else 0. Kept for backward: mask."""
    if on_gpu(x):
        return _keep_gpu(x, mask, out)
    return pointwise.in_place(pointwise.loops.keep, x, mask, out=out)


def dropout_backward(d_y, mask, *, out=None):
    """d_y, mask (units, N) → d_x = d_y where the mask is True, else 0."""
    if on_gpu(d_y):
        return _keep_gpu(d_y, mask, out)
    return pointwise.in_place(pointwise.loops.keep, d_y, mask, out=out)


def _keep_gpu(x, mask, out):
    y = empty(x.shape, x.dtype, x) if out is None else out
    expect("keep", x.shape, mask=mask, out=y)
    launch(__file__, "keep", blocks(x.nbytes, 16 * THREADS), THREADS, x, mask, y, x.size,
           defines={"THREADS": THREADS})
    return y


def dropout_test(x, rate=0.5, *, out=None):
    """Test time: y = x · (1 − rate), the mean over all masks."""
    if on_gpu(x):
        return _scale_gpu(x, 1 - rate, out)
    return np.multiply(x, x.dtype.type(1 - rate), out=out)


def _scale_gpu(x, by, out):
    y = empty(x.shape, x.dtype, x) if out is None else out
    expect("scale", x.shape, out=y)
    launch(__file__, "scale", blocks(x.nbytes, 16 * THREADS), THREADS, x, y, x.size, by,
           defines={"THREADS": THREADS})
    return y

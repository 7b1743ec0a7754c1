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
from cpnet.threads import chunks, parallel

MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
WEYL = 0x9E3779B9, 0xBB67AE85
UNITS = 64  # a task's
THREADS = 256  # a GPU block's
MASK_THREADS = 32  # of the kernel that draws: four images each, so that 128 make one block


def philox4x32(counter, key):
    """Ten rounds of Philox: four arrays of uint32 (broadcast together) and a key of two ints →
    four arrays of uint32."""
    c0, c1, c2, c3 = (np.asarray(word, np.uint64) for word in counter)
    k0, k1 = key
    low = np.uint64(0xFFFFFFFF)
    for _ in range(10):
        product0, product1 = c0 * np.uint64(MULTIPLIERS[0]), c2 * np.uint64(MULTIPLIERS[1])
        c0, c1, c2, c3 = ((product1 >> np.uint64(32)) ^ c1 ^ np.uint64(k0), product1 & low,
                          (product0 >> np.uint64(32)) ^ c3 ^ np.uint64(k1), product0 & low)
        k0, k1 = (k0 + WEYL[0]) & 0xFFFFFFFF, (k1 + WEYL[1]) & 0xFFFFFFFF
    return tuple(word.astype(np.uint32) for word in np.broadcast_arrays(c0, c1, c2, c3))


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
    first, last = first_image // 4, -(-(first_image + images) // 4)
    fours = np.arange(first, last, dtype=np.uint64)
    begin = first_image - 4 * first

    def block(start, stop):
        unit = np.arange(first_unit + start, first_unit + stop, dtype=np.uint64)[:, None]
        words = philox4x32((fours, unit, layer, step), (seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF))
        draws = np.stack(words, axis=-1).reshape(stop - start, -1)
        np.greater_equal(draws[:, begin:begin + images], int(rate * 2**32), out=mask[start:stop])

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
    return np.multiply(x, mask, out=out)


def dropout_backward(d_y, mask, *, out=None):
    """d_y, mask (units, N) → d_x = d_y where the mask is True, else 0."""
    if on_gpu(d_y):
        return _keep_gpu(d_y, mask, out)
    return np.multiply(d_y, mask, out=out)


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

"""Half of the squared error, summed over the features: what an auto-encoder minimizes (section 6.1)."""
import numpy as np

from cpnet.gpu.kernels import blocks, expect, launch
from cpnet.gpu.memory import empty
from cpnet.gpu.platform import on_gpu

IMAGES, ROWS = 8, 32  # a GPU block's threads: images, and as many rows of features


def squared_error_forward(y, x, *, out=None):
    """y, x (features, N) → losses (N) = ½ Σ (y − x)² over the features. Kept for backward: y, x."""
    if on_gpu(y):
        return _gpu("squared_error_forward", y, x, y.shape[1:], out)
    d = np.subtract(y, x)
    return np.divide(np.square(d, out=d).sum(axis=0), d.dtype.type(2), out=out)


def squared_error_backward(y, x, batch=None, *, out=None):
    """d_y (features, N) of the losses' sum divided by `batch` (default N): (y − x) / batch.
    May be written over y or x."""
    batch = y.shape[1] if batch is None else batch
    if on_gpu(y):
        return _gpu("squared_error_backward", y, x, y.shape, out, batch)
    d_y = np.subtract(y, x, out=out)
    d_y /= d_y.dtype.type(batch)
    return d_y


def _gpu(kernel, y, x, shape, out, *rest):
    """Launch a kernel of squared_error.cu: (y, x, result, features, N, …)."""
    features, images = y.shape
    out = empty(shape, y.dtype, y) if out is None else out
    expect(kernel, y.shape, x=x)
    expect(kernel, shape, out=out)
    launch(__file__, kernel, blocks(images, IMAGES), (IMAGES, ROWS), y, x, out, features, images, *rest,
           defines={"IMAGES": IMAGES, "ROWS": ROWS})
    return out

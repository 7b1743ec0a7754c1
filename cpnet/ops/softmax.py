"""The 1000-way softmax and the objective (section 3.5):
the mean over the batch of the log-probability of the right label.

Training maximizes it; the loss is its negative, the cross-entropy. It is stable: each image's largest logit
is subtracted before the exponential, and the logarithm is taken of the sum,
not of a probability that may have rounded to zero.
"""
import numpy as np

from cpnet.gpu.kernels import blocks, expect, launch
from cpnet.gpu.memory import empty, to_host
from cpnet.gpu.platform import on_gpu

IMAGES, ROWS = 8, 32  # a GPU block's threads: images, and as many rows of classes


def softmax(logits, *, out=None):
    """logits (classes, N) → probabilities (classes, N)."""
    if on_gpu(logits):
        return _gpu("softmax", logits, (), logits.shape, logits.dtype, out)
    p = np.subtract(logits, logits.max(axis=0), out=out)
    np.exp(p, out=p)
    p /= p.sum(axis=0)
    return p


def cross_entropy_forward(logits, labels, *, check=True, out=None):
    """logits (classes, N), labels int (N) → losses (N) = log Σ exp(logits) − logits[label].
    Kept for backward: logits.

    Raises ValueError for a label outside the classes. For that the CPU must wait until a GPU has the labels:
    without `check` it need not, and such a label's loss is NaN on a GPU.
    """
    if on_gpu(logits):
        if check:
            _check_labels(to_host(labels), len(logits))
        return _gpu("cross_entropy_forward", logits, (labels,), labels.shape, logits.dtype, out)
    _check_labels(labels, len(logits))
    shifted = logits - logits.max(axis=0)
    right = shifted[labels, np.arange(len(labels))]
    return np.subtract(np.log(np.exp(shifted, out=shifted).sum(axis=0)), right, out=out)


def _check_labels(labels, classes):
    if len(labels) and not (0 <= labels.min() and labels.max() < classes):
        raise ValueError(f"labels {labels.min()} to {labels.max()} do not fit {classes} classes")


def cross_entropy_backward(logits, labels, batch=None, *, out=None):
    """d_logits (classes, N) of the losses' sum divided by `batch`, the size of the whole batch (default N):
    p − 1[label]."""
    batch = len(labels) if batch is None else batch
    if on_gpu(logits):
        return _gpu("cross_entropy_backward", logits, (labels,), logits.shape, logits.dtype, out, batch)
    d_logits = softmax(logits, out=out)
    d_logits[labels, np.arange(len(labels))] -= 1
    d_logits /= d_logits.dtype.type(batch)
    return d_logits


def label_rank(scores, labels, *, out=None):
    """int64 (N): how many classes score above the right one, 0 for a correct answer;
    the top-k error counts rank ≥ k.

    A class of equal score and lower number counts as above, so a constant output is no better than chance.
    A right class whose score is not a number ranks last.
    """
    if on_gpu(scores):
        return _gpu("label_rank", scores, (labels,), labels.shape, np.int64, out)
    right = scores[labels, np.arange(len(labels))]
    earlier = np.arange(len(scores))[:, None] < labels
    above = ((scores > right) | (earlier & (scores == right))).sum(axis=0)
    above[np.isnan(right)] = len(scores)
    if out is None:
        return above
    out[...] = above
    return out


def tally(losses, ranks, sums):
    """Adds to sums, float64 (3): the sum of losses (N), the number of ranks (N) that are not 0,
    and 1 for the step.

    The step counts only while the sum of losses is finite:
    once it is not, sums[2] stays at the number of steps before.
    """
    if on_gpu(losses):
        expect("tally", losses.shape, ranks=ranks)
        expect("tally", (3,), sums=sums)
        launch(__file__, "tally", 1, (IMAGES, ROWS), losses, ranks, sums, len(losses),
               defines={"IMAGES": IMAGES, "ROWS": ROWS, "label": "int"})
        return
    sums[0] += losses.sum(dtype=np.float64)
    sums[1] += (ranks >= 1).sum()
    sums[2] += np.isfinite(sums[0])


def _gpu(kernel, logits, labels, shape, dtype, out, *rest):
    """Launch a kernel of softmax.cu: (logits, labels where it has some, result, classes, N, …)."""
    classes, images = logits.shape
    out = empty(shape, dtype, logits) if out is None else out
    expect(kernel, shape, out=out)
    defines = {"IMAGES": IMAGES, "ROWS": ROWS, "label": "int"}
    for array in labels:
        expect(kernel, (images,), labels=array)
        defines["label"] = "int" if array.dtype == np.int32 else "long long"
    launch(__file__, kernel, blocks(images, IMAGES), (IMAGES, ROWS), logits, *labels, out, classes,
           images, *rest, defines=defines)
    return out

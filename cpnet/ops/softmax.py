"""The 1000-way softmax and the objective (section 3.5): the mean over the batch of the log-probability of the right label.

Training maximizes it; the loss is its negative, the cross-entropy. It is stable: each image's largest logit is subtracted
before the exponential, and the logarithm is taken of the sum, not of a probability that may have rounded to zero.
"""
import numpy as np


def softmax(logits, *, out=None):
    """logits (classes, N) → probabilities (classes, N)."""
    p = np.subtract(logits, logits.max(axis=0), out=out)
    np.exp(p, out=p)
    p /= p.sum(axis=0)
    return p


def cross_entropy_forward(logits, labels):
    """logits (classes, N), labels int (N) → losses (N) = log Σ exp(logits) − logits[label]. Kept for backward: logits.

    Raises ValueError for a label outside the classes.
    """
    if len(labels) and not (0 <= labels.min() and labels.max() < len(logits)):
        raise ValueError(f"labels {labels.min()} to {labels.max()} do not fit {len(logits)} classes")
    shifted = logits - logits.max(axis=0)
    right = shifted[labels, np.arange(len(labels))]
    return np.log(np.exp(shifted, out=shifted).sum(axis=0)) - right


def cross_entropy_backward(logits, labels, batch=None, *, out=None):
    """d_logits (classes, N) of the losses' sum divided by `batch`, the size of the whole batch (default N): p − 1[label]."""
    d_logits = softmax(logits, out=out)
    d_logits[labels, np.arange(len(labels))] -= 1
    d_logits /= d_logits.dtype.type(len(labels) if batch is None else batch)
    return d_logits


def label_rank(scores, labels):
    """int (N): how many classes score above the right one, 0 for a correct answer; the top-k error counts rank ≥ k.

    A class of equal score and lower number counts as above, so a constant output is no better than chance. A right class
    whose score is not a number ranks last.
    """
    right = scores[labels, np.arange(len(labels))]
    earlier = np.arange(len(scores))[:, None] < labels
    above = ((scores > right) | (earlier & (scores == right))).sum(axis=0)
    return np.where(np.isnan(right), len(scores), above)

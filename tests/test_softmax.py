import math

import numpy as np
import pytest

from cpnet.ops.softmax import cross_entropy_backward, cross_entropy_forward, label_rank, softmax, tally
from tests import reference

SHAPES = [(10, 3), (5, 1), (3, 130), (1, 2), (1000, 2)]  # classes, N


def draw(rng, classes, images, dtype):
    return 3 * rng.standard_normal((classes, images)).astype(dtype), rng.integers(classes, size=images)


@pytest.mark.parametrize("batch", [None, 256])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_formula(backend, dtype, rng, shape, batch):
    logits, labels = draw(rng, *shape, dtype)
    losses, d_logits = reference.cross_entropy(logits, labels, batch or shape[1])
    on_device = backend.to_device(logits), backend.to_device(labels)
    backend.assert_close(softmax(on_device[0]), reference.softmax(logits), dtype)
    backend.assert_close(cross_entropy_forward(*on_device), losses, dtype)
    backend.assert_close(cross_entropy_backward(*on_device, batch), d_logits, dtype)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_pytorch_agrees(backend, dtype, rng, torch, shape):
    logits, labels = draw(rng, *shape, dtype)
    t = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
    losses = torch.nn.functional.cross_entropy(t.T, torch.tensor(labels), reduction="none")
    losses.mean().backward()
    on_device = backend.to_device(logits), backend.to_device(labels)
    backend.assert_close(cross_entropy_forward(*on_device), losses.detach().numpy(), dtype)
    backend.assert_close(cross_entropy_backward(*on_device), t.grad.numpy(), dtype)


def test_large_logits(backend, dtype):
    logits = backend.to_device(np.array([[1e4, -1e4, 1e4], [-1e4, -1e4, 0], [0, -1e4, -1e4]], dtype))
    third = 1 / 3
    backend.assert_close(softmax(logits), np.array([[1, third, 1], [0, third, 0], [0, third, 0]]), dtype)
    labels = backend.to_device(np.array([1, 2, 0]))
    backend.assert_close(cross_entropy_forward(logits, labels), np.array([2e4, math.log(3), 0]), dtype)
    d_logits = cross_entropy_backward(logits, labels)
    backend.assert_close(d_logits, np.array([[1, third, 0], [-1, third, 0], [0, third - 1, 0]]) / 3, dtype)


def test_nan_is_passed_on(backend, dtype):
    logits = backend.to_device(np.array([[0, np.nan], [1, 0]], dtype))
    losses = backend.to_host(cross_entropy_forward(logits, backend.to_device(np.array([1, 1]))))
    assert np.isnan(losses).tolist() == [False, True]


def test_buffers(backend, dtype, rng):
    logits, labels = (backend.to_device(array) for array in draw(rng, 7, 5, dtype))
    before = backend.to_host(logits).copy()
    for function in (lambda **out: softmax(logits, **out)), (lambda **out: cross_entropy_backward(logits, labels, **out)):
        out = backend.empty((7, 5), dtype)
        assert function(out=out) is out
        np.testing.assert_array_equal(backend.to_host(out), backend.to_host(function()))
    cross_entropy_forward(logits, labels)
    np.testing.assert_array_equal(backend.to_host(logits), before)
    for function, kind in (cross_entropy_forward, dtype), (label_rank, np.int64):
        out = backend.empty((5,), kind)
        assert function(logits, labels, out=out) is out
        np.testing.assert_array_equal(backend.to_host(out), backend.to_host(function(logits, labels)))


@pytest.mark.parametrize("labels", [[0, 3], [-1, 2]])
def test_labels_outside_the_classes(backend, labels):
    logits = backend.to_device(np.zeros((3, 2), np.float32))
    with pytest.raises(ValueError, match=f"labels {min(labels)} to {max(labels)} do not fit 3 classes"):
        cross_entropy_forward(logits, backend.to_device(np.array(labels)))


def test_rank(backend, dtype, rng):
    for scores in rng.standard_normal((20, 13)), rng.integers(4, size=(20, 13)), np.zeros((20, 13)):
        labels = rng.integers(20, size=13)
        rank = backend.to_host(label_rank(backend.to_device(scores.astype(dtype)), backend.to_device(labels)))
        np.testing.assert_array_equal(rank, reference.label_rank(scores, labels))


def test_rank_of_nan(backend, dtype):
    """The right class's score is no number; another's is none; all are none; and infinities are numbers."""
    scores = np.array([[0, np.nan, np.nan, -np.inf], [np.nan, 1, np.nan, np.inf], [2, 2, np.nan, np.inf]], dtype)
    rank = label_rank(backend.to_device(scores), backend.to_device(np.array([1, 1, 1, 2])))
    assert backend.to_host(rank).tolist() == [3, 1, 3, 1]


def test_a_constant_output_is_no_better_than_chance(backend):
    scores, labels = np.zeros((10, 10), np.float32), np.arange(10)
    rank = backend.to_host(label_rank(backend.to_device(scores), backend.to_device(labels)))
    assert (rank < 5).mean() == 0.5


@pytest.mark.parametrize("images", [1, 3, 130, 300])
def test_tally(backend, dtype, rng, images):
    """Losses, errors and steps are added; from a loss on that is not finite the steps are not. In float64."""
    losses, ranks = (7 * rng.random((6, images))).astype(dtype), rng.integers(3, size=(6, images))
    losses[4, -1] = np.inf
    sums = backend.to_device(np.array([100.0, 5, 40]))
    for step in range(6):
        tally(backend.to_device(losses[step]), backend.to_device(ranks[step]), sums)
        loss, wrong, steps = backend.to_host(sums)
        assert loss == pytest.approx(100 + losses[:step + 1].sum(dtype=np.float64), rel=1e-15)
        assert wrong == 5 + (ranks[:step + 1] > 0).sum()
        assert steps == 40 + min(step + 1, 4)


def test_tally_adds_what_numpy_adds(backend, rng):
    """Float32 losses of usual sizes have exact sums in float64: the same bits on every device, in any order."""
    losses, sums = rng.random(128, np.float32) * 7 + np.float32(1e-4), backend.to_device(np.zeros(3))
    tally(backend.to_device(losses), backend.to_device(np.zeros(128, np.int64)), sums)
    assert backend.to_host(sums)[0] == math.fsum(losses.tolist())

import numpy as np
import pytest

from cpnet.ops.sgd import Segments, sgd_update, sgd_update_segments
from tests import reference


@pytest.mark.parametrize("decay", [0.0005, 0.0, 0.1])
@pytest.mark.parametrize("shape", [(3, 2, 2, 2), (130,), (1,), (3, 30_001)], ids=str)
def test_as_printed(backend, dtype, rng, shape, decay):
    """Over steps with a falling rate: what is on its way keeps the rate that it started with."""
    rates = [0.1] if np.prod(shape) > 1000 else [0.1, 0.1, 0.01, 0.0, 0.001]
    w, v, *gradients = rng.standard_normal((2 + len(rates), *shape)).astype(dtype)
    on_device = backend.to_device(w), backend.to_device(v)
    for gradient, rate in zip(gradients, rates, strict=True):
        g = backend.to_device(gradient)
        assert sgd_update(*on_device, g, rate=rate, decay=decay) is None
        np.testing.assert_array_equal(backend.to_host(g), gradient)
    for result, expected in zip(on_device, reference.sgd(w, v, gradients, rates, 0.9, decay), strict=True):
        backend.assert_close(result, expected, dtype)


def test_the_constants_of_the_paper_are_the_defaults(backend, rng):
    w, v, gradient = rng.standard_normal((3, 50))
    on_device = backend.to_device(w), backend.to_device(v)
    sgd_update(*on_device, backend.to_device(gradient), rate=0.01)
    np.testing.assert_allclose(backend.to_host(on_device[1]), 0.9 * v - 0.0005 * 0.01 * w - 0.01 * gradient, rtol=1e-12)


def test_pytorch_agrees_while_the_rate_is_constant(backend, dtype, rng, torch):
    w, *gradients = rng.standard_normal((7, 4, 5)).astype(dtype)
    t = torch.tensor(w, dtype=torch.float64)
    optimizer = torch.optim.SGD([t], lr=0.05, momentum=0.8, weight_decay=0.01)
    on_device = backend.to_device(w), backend.to_device(np.zeros_like(w))
    for gradient in gradients:
        t.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
        sgd_update(*on_device, backend.to_device(gradient), rate=0.05, momentum=0.8, decay=0.01)
    backend.assert_close(on_device[0], t.numpy(), dtype)


def test_the_same_bits_on_any_number_of_threads(same_bits, rng):
    w, v, gradient = rng.standard_normal((3, 4, 70_001)).astype(np.float32)

    def results():
        own = w.copy(), v.copy()
        sgd_update(*own, gradient, rate=0.01)
        return own

    same_bits(results)


def test_an_array_that_is_not_contiguous_is_refused(rng):
    w, v, gradient = rng.standard_normal((3, 6, 8))
    with pytest.raises(ValueError, match="copy"):  # or the update would reach a copy only
        sgd_update(w[:, :5], v[:, :5].copy(), gradient[:, :5].copy(), rate=0.1)


@pytest.mark.parametrize("loss", [0.0, -3.0, 1e300, np.nan, np.inf, -np.inf])
def test_a_loss_that_is_not_finite_changes_nothing(backend, dtype, rng, loss):
    w, v, gradient = rng.standard_normal((3, 100)).astype(dtype)
    results = [backend.to_device(w), backend.to_device(v)]
    expected = [w.copy(), v.copy()]
    segments = Segments([0, 64], [60, 36])
    segments.set([0.1, 0.2], [0.01, 0.0], results[0])
    sgd_update_segments(*results, backend.to_device(gradient), segments, loss=backend.to_device(np.array([loss, np.nan])))
    if np.isfinite(loss):
        for own, rate, decay in (slice(60), 0.1, 0.01), (slice(64, 100), 0.2, 0.0):
            sgd_update(*(array[own] for array in expected), gradient[own], rate=rate, decay=decay)
    for result, array in zip(results, expected, strict=True):
        backend.assert_close(result, array, dtype)

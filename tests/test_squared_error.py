import numpy as np
import pytest

from cpnet.studies.ops.squared_error import squared_error_backward, squared_error_forward

SHAPES = [(10, 3), (1, 1), (3, 130), (1000, 2)]  # features, N


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_formula(backend, dtype, rng, shape):
    y, x = rng.standard_normal((2, *shape)).astype(dtype)
    difference = y.astype(np.float64) - x
    on_device = backend.to_device(y), backend.to_device(x)
    backend.assert_close(squared_error_forward(*on_device), (difference**2 / 2).sum(axis=0), dtype)
    backend.assert_close(squared_error_backward(*on_device), difference / shape[1], dtype)
    backend.assert_close(squared_error_backward(*on_device, 7), difference / 7, dtype)
    assert squared_error_backward(*on_device, out=on_device[0]) is on_device[0]
    backend.assert_close(on_device[0], difference / shape[1], dtype)


def test_pytorch_agrees(backend, dtype, rng, torch):
    y, x = rng.standard_normal((2, 40, 5)).astype(dtype)
    t = torch.tensor(y, dtype=torch.float64, requires_grad=True)
    losses = torch.nn.functional.mse_loss(t, torch.tensor(x, dtype=torch.float64), reduction="none").sum(dim=0) / 2
    losses.mean().backward()
    on_device = backend.to_device(y), backend.to_device(x)
    out = backend.empty((5,), dtype)
    assert squared_error_forward(*on_device, out=out) is out
    backend.assert_close(out, losses.detach().numpy(), dtype)
    backend.assert_close(squared_error_backward(*on_device), t.grad.numpy(), dtype)


def test_nan_is_passed_on(backend, dtype):
    y = backend.to_device(np.array([[0, np.nan], [1, 0]], dtype))
    x = backend.to_device(np.zeros((2, 2), dtype))
    assert np.isnan(backend.to_host(squared_error_forward(y, x))).tolist() == [False, True]

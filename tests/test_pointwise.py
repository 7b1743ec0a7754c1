import math

import numpy as np
import pytest

from cpnet.ops import pointwise

SHAPES = [(3, 2, 2, 130), (5, 3), (7, 1), (1,), (3, 70_001)]  # the last is more than one task
FUNCTIONS = {
    "relu": (lambda x: x if x > 0 else 0.0, lambda d_y, y: d_y if y > 0 else 0.0),
    "tanh": (math.tanh, lambda d_y, y: d_y * (1 - y * y)),
}


def both(name):
    return getattr(pointwise, f"{name}_forward"), getattr(pointwise, f"{name}_backward")


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_formula(backend, dtype, rng, name, shape):
    x, d_y = 2 * rng.standard_normal((2, *shape)).astype(dtype)
    x.reshape(-1)[::7] = 0  # where ReLU's slope is 0
    forward, backward = both(name)
    of_x, of_y = FUNCTIONS[name]
    y = forward(backend.to_device(x))
    expected = np.reshape([of_x(float(value)) for value in x.flat], shape)
    backend.assert_close(y, expected, dtype)
    expected = np.reshape([of_y(float(gradient), float(value))
                           for gradient, value in zip(d_y.flat, backend.to_host(y).flat, strict=True)], shape)
    backend.assert_close(backward(backend.to_device(d_y), y), expected, dtype)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_pytorch_agrees(backend, dtype, rng, torch, name):
    x, d_y = 2 * rng.standard_normal((2, 4, 3, 3, 5)).astype(dtype)
    forward, backward = both(name)
    t = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    expected = getattr(torch, name)(t)
    expected.backward(torch.tensor(d_y, dtype=torch.float64))
    y = forward(backend.to_device(x))
    backend.assert_close(y, expected.detach().numpy(), dtype)
    backend.assert_close(backward(backend.to_device(d_y), y), t.grad.numpy(), dtype)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_buffers_and_in_place(backend, dtype, rng, name):
    x, d_y = (backend.to_device(array) for array in rng.standard_normal((2, 5, 13)).astype(dtype))
    forward, backward = both(name)
    y = forward(x)
    d_x = backend.to_host(backward(d_y, y))
    out = backend.empty(x.shape, dtype)
    assert forward(x, out=out) is out
    np.testing.assert_array_equal(backend.to_host(out), backend.to_host(y))
    out = backend.empty(x.shape, dtype)
    assert backward(d_y, y, out=out) is out
    np.testing.assert_array_equal(backend.to_host(out), d_x)
    assert forward(x, out=x) is x
    np.testing.assert_array_equal(backend.to_host(x), backend.to_host(y))
    assert backward(d_y, y, out=d_y) is d_y
    np.testing.assert_array_equal(backend.to_host(d_y), d_x)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_nan_is_passed_on(backend, dtype, name):
    forward, backward = both(name)
    y = forward(backend.to_device(np.array([np.nan, 2.0], dtype)))
    assert np.isnan(backend.to_host(y)).tolist() == [True, False]
    d_x = backward(backend.to_device(np.array([np.nan, np.nan], dtype)), forward(backend.to_device(np.ones(2, dtype))))
    assert np.isnan(backend.to_host(d_x)).all()


def test_the_same_bits_on_any_number_of_threads(same_bits, rng):
    x, d_y = rng.standard_normal((2, 5, 70_001)).astype(np.float32)
    for name in FUNCTIONS:
        forward, backward = both(name)
        same_bits(lambda f=forward, b=backward: (f(x), b(d_y, f(x))))


def test_an_array_that_is_not_contiguous_is_refused(rng):
    x = rng.standard_normal((6, 8))
    with pytest.raises(ValueError, match="copy"):
        pointwise.relu_forward(x, out=np.empty((6, 10))[:, :8])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sign(backend, dtype, rng, shape):
    x = rng.standard_normal(shape).astype(dtype)
    x.reshape(-1)[::7] = 0
    on_device = backend.to_device(x)
    backend.assert_close(pointwise.sign(on_device), np.where(x > 0, 1, -1), dtype)
    assert pointwise.sign(on_device, out=on_device) is on_device
    backend.assert_close(on_device, np.where(x > 0, 1, -1), dtype)

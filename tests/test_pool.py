import numpy as np
import pytest

from cpnet.ops.pool import (
    average_pool_backward,
    average_pool_forward,
    max_pool_backward,
    max_pool_forward,
    pool_size,
)
from tests import reference

# (C, H, W, N), z, s, ceil
CASES = [
    ((2, 7, 9, 3), 3, 2, True),  # every window fits, and they overlap: the paper's pooling
    ((2, 8, 6, 3), 3, 2, True),  # the last window hangs over
    ((2, 8, 6, 1), 3, 2, False),  # the last pixels are in no window
    ((1, 5, 6, 130), 3, 2, True),
    ((3, 6, 8, 2), 2, 2, True),
    ((3, 7, 8, 2), 3, 3, False),
    ((3, 7, 9, 2), 3, 3, True),
    ((2, 4, 5, 3), 3, 1, True),
    ((2, 7, 8, 3), 2, 3, True),  # gaps between windows, and none that starts outside
    ((2, 7, 8, 3), 2, 3, False),
    ((2, 3, 4, 3), 1, 1, True),
    ((2, 5, 4, 3), 1, 2, False),
    ((2, 2, 1, 3), 3, 2, True),  # a window larger than the image
    ((1, 17, 16, 1), 16, 15, True),
    ((1, 1, 1, 1), 3, 2, True),
]
OPTIONS = pytest.mark.parametrize("shape, z, s, ceil", CASES)


def inputs(rng, shape, z, s, ceil, dtype):
    """x, all values distinct and mostly negative, and d_y."""
    count = int(np.prod(shape))
    x = rng.permutation(np.linspace(-3, 1, count)).reshape(shape).astype(dtype)
    y_shape = (shape[0], *(len(reference.pool_windows(size, z, s, ceil)) for size in shape[1:3]), shape[3])
    return x, rng.standard_normal(y_shape).astype(dtype)


@OPTIONS
def test_max_the_formula(backend, dtype, rng, shape, z, s, ceil):
    x, d_y = inputs(rng, shape, z, s, ceil, dtype)
    y = max_pool_forward(backend.to_device(x), z=z, s=s, ceil=ceil)
    d_x = max_pool_backward(backend.to_device(d_y), backend.to_device(x), y, z=z, s=s)
    expected_y, expected_d_x = reference.max_pool(x, d_y, z, s, ceil)
    assert backend.to_host(y).dtype == dtype
    np.testing.assert_array_equal(backend.to_host(y), expected_y)
    backend.assert_close(d_x, expected_d_x, dtype)


@OPTIONS
def test_average_the_formula(backend, dtype, rng, shape, z, s, ceil):
    x, d_y = inputs(rng, shape, z, s, ceil, dtype)
    expected_y, expected_d_x = reference.average_pool(x, d_y, z, s, ceil)
    backend.assert_close(average_pool_forward(backend.to_device(x), z=z, s=s, ceil=ceil), expected_y, dtype)
    backend.assert_close(average_pool_backward(backend.to_device(d_y), x.shape, z=z, s=s), expected_d_x, dtype)


@pytest.mark.parametrize("shape, z, s, ceil", [case for case in CASES if min(case[0][1:3]) >= case[1]] + [
    ((5, 27, 27, 7), 3, 2, True), ((5, 24, 31, 7), 3, 2, True), ((5, 24, 31, 7), 3, 2, False)])
def test_pytorch_agrees(backend, dtype, rng, torch, shape, z, s, ceil):
    x, d_y = inputs(rng, shape, z, s, ceil, dtype)
    y = max_pool_forward(backend.to_device(x), z=z, s=s, ceil=ceil)
    results = {
        torch.nn.MaxPool2d(z, s, ceil_mode=ceil):
            (y, max_pool_backward(backend.to_device(d_y), backend.to_device(x), y, z=z, s=s)),
        torch.nn.AvgPool2d(z, s, ceil_mode=ceil, count_include_pad=False):
            (average_pool_forward(backend.to_device(x), z=z, s=s, ceil=ceil),
             average_pool_backward(backend.to_device(d_y), shape, z=z, s=s)),
    }
    for layer, (y, d_x) in results.items():
        t = torch.tensor(x, dtype=torch.float64, requires_grad=True)
        expected = layer(t.permute(3, 0, 1, 2)).permute(1, 2, 3, 0)
        expected.backward(torch.tensor(d_y, dtype=torch.float64))
        backend.assert_close(y, expected.detach().numpy(), dtype)
        backend.assert_close(d_x, t.grad.numpy(), dtype)


def test_of_equal_values_the_first_wins(backend, dtype, rng):
    x = rng.integers(3, size=(2, 9, 9, 5)).astype(dtype)
    d_y = rng.standard_normal((2, 4, 4, 5)).astype(dtype)
    y = max_pool_forward(backend.to_device(x))
    expected_y, expected_d_x = reference.max_pool(x, d_y, 3, 2, True)
    np.testing.assert_array_equal(backend.to_host(y), expected_y)
    backend.assert_close(max_pool_backward(backend.to_device(d_y), backend.to_device(x), y), expected_d_x, dtype)


def test_nan_is_passed_on(backend, dtype):
    x = np.ones((1, 3, 3, 9), dtype)
    x.reshape(9, 9)[np.eye(9, dtype=bool)] = np.nan  # in another place of every image
    assert np.isnan(backend.to_host(max_pool_forward(backend.to_device(x)))).all()


def test_buffers(backend, dtype, rng):
    shape, z, s, ceil = (2, 8, 7, 3), 2, 3, True
    x, d_y = (backend.to_device(array) for array in inputs(rng, shape, z, s, ceil, dtype))

    def same(result, out, expected):
        assert result is out
        np.testing.assert_array_equal(backend.to_host(out), backend.to_host(expected))

    y = max_pool_forward(x, z=z, s=s)
    out = backend.empty(d_y.shape, dtype)
    same(max_pool_forward(x, z=z, s=s, out=out), out, y)
    out = backend.empty(shape, dtype)
    same(max_pool_backward(d_y, x, y, z=z, s=s, out=out), out, max_pool_backward(d_y, x, y, z=z, s=s))
    out = backend.empty(d_y.shape, dtype)
    same(average_pool_forward(x, z=z, s=s, out=out), out, average_pool_forward(x, z=z, s=s))
    out = backend.empty(shape, dtype)
    same(average_pool_backward(d_y, shape, z=z, s=s, out=out), out, average_pool_backward(d_y, shape, z=z, s=s))


def test_the_same_bits_on_any_number_of_threads(same_bits, rng):
    x = rng.standard_normal((7, 33, 33, 70)).astype(np.float32)  # a task or more a channel
    d_y = rng.standard_normal((7, 16, 16, 70)).astype(np.float32)

    def results():
        y = max_pool_forward(x)
        return (y, max_pool_backward(d_y, x, y),
                average_pool_forward(x), average_pool_backward(d_y, x.shape))

    same_bits(results)


def test_sizes():
    assert [pool_size(size, 3, 2, True) for size in (55, 27, 13)] == [27, 13, 6]  # the paper's
    assert [pool_size(size, 3, 2, False) for size in (55, 27, 13)] == [27, 13, 6]
    assert [pool_size(32, 3, 2, ceil) for ceil in (True, False)] == [16, 15]
    for size in range(1, 12):
        for z in range(1, 5):
            for s in range(1, 5):
                assert pool_size(size, z, s, True) == len(reference.pool_windows(size, z, s, True)), (size, z, s)


def test_windows_that_do_not_fit(backend):
    x = backend.to_device(np.zeros((1, 5, 2, 1), np.float32))
    for forward in max_pool_forward, average_pool_forward:
        with pytest.raises(ValueError, match="window of 3 pixels does not fit in 2"):
            forward(x, ceil=False)

import numpy as np
import pytest

from cpnet.ops.linear import linear_backward, linear_forward

SHAPES = [(5, 4, 3), (17, 19, 1), (3, 2, 130), (1, 1, 1), (1, 9, 5), (9, 1, 5)]  # inputs, outputs, N


def draw(rng, inputs, outputs, images, dtype):
    """x, w, b, d_y"""
    return [rng.standard_normal(shape).astype(dtype)
            for shape in ((inputs, images), (outputs, inputs), (outputs,), (outputs, images))]


def run(backend, x, w, b, d_y):
    """y, d_x, d_w, d_b"""
    x, w, b, d_y = (backend.to_device(array) for array in (x, w, b, d_y))
    d_w, d_b = backend.empty(w.shape, w.dtype), backend.empty(b.shape, b.dtype)
    return linear_forward(x, w, b), linear_backward(d_y, x, w, d_w, d_b), d_w, d_b


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_formula(backend, dtype, rng, shape):
    inputs, outputs, images = shape
    x, w, b, d_y = draw(rng, *shape, dtype)
    y, d_x, d_w = np.zeros(d_y.shape), np.zeros(x.shape), np.zeros(w.shape)
    y += b[:, None]
    for i, o, n in np.ndindex(shape):
        y[o, n] += float(w[o, i]) * float(x[i, n])
        d_x[i, n] += float(w[o, i]) * float(d_y[o, n])
        d_w[o, i] += float(d_y[o, n]) * float(x[i, n])
    for result, expected in zip(run(backend, x, w, b, d_y), (y, d_x, d_w, d_y.sum(axis=1, dtype=np.float64)), strict=True):
        backend.assert_close(result, expected, dtype)


@pytest.mark.parametrize("shape", [*SHAPES, (100, 67, 33)], ids=str)
def test_pytorch_agrees(backend, dtype, rng, torch, shape):
    x, w, b, d_y = draw(rng, *shape, dtype)
    inputs = [torch.tensor(array, dtype=torch.float64, requires_grad=True) for array in (x, w, b)]
    y = torch.nn.functional.linear(inputs[0].T, *inputs[1:]).T
    y.backward(torch.tensor(d_y, dtype=torch.float64))
    for result, expected in zip(run(backend, x, w, b, d_y), (y.detach(), *(each.grad for each in inputs)), strict=True):
        backend.assert_close(result, expected.numpy(), dtype)


def test_buffers_and_what_may_be_left_out(backend, dtype, rng):
    x, w, b, d_y = (backend.to_device(array) for array in draw(rng, 11, 6, 3, dtype))
    y, d_x, d_w, d_b = run(backend, *(backend.to_host(array) for array in (x, w, b, d_y)))
    out = backend.empty(d_y.shape, dtype)
    assert linear_forward(x, w, b, out=out) is out
    np.testing.assert_array_equal(backend.to_host(out), backend.to_host(y))
    out = backend.empty(x.shape, dtype)
    assert linear_backward(d_y, x, w, d_w, d_b, out=out) is out
    np.testing.assert_array_equal(backend.to_host(out), backend.to_host(d_x))
    again, again_b = backend.empty(w.shape, dtype), backend.empty(b.shape, dtype)
    assert linear_backward(d_y, x, w, again, again_b, input_gradient=False) is None
    np.testing.assert_array_equal(backend.to_host(again), backend.to_host(d_w))
    np.testing.assert_array_equal(backend.to_host(again_b), backend.to_host(d_b))


@pytest.mark.parametrize("images", [1, 40])
def test_the_same_bits_on_any_number_of_threads(same_bits, rng, images):
    x, w, b, d_y = draw(rng, 301, 203, images, np.float32)

    def results():
        d_w, d_b = np.empty_like(w), np.empty_like(b)
        return linear_forward(x, w, b), linear_backward(d_y, x, w, d_w, d_b), d_w, d_b

    same_bits(results)


def test_weights_that_do_not_fit_the_inputs(backend, rng):
    x, w, b, _ = (backend.to_device(array) for array in draw(rng, 5, 4, 3, "float32"))
    with pytest.raises(ValueError, match=r"weights \(4, 5\) do not fit 4 inputs"):
        linear_forward(x[:4], w, b)

import numpy as np
import pytest

from cpnet.gpu.devices import Device
from cpnet.gradcheck import _layer_cases
from cpnet.layers import LRN, Conv, Dropout, Linear, MaxPool, Pass, ReLU
from cpnet.ops import conv, dropout, linear, lrn

CASES = [(layer.name, number) for number, (layer, _, _) in enumerate(_layer_cases(np.random.default_rng(0)))]
TRAINING = Pass(training=True, seed=3, step=4)


def place(layer, columns, shape, rng, dtype=np.float64):
    """`layer` as one device runs it, with random parameters, for inputs of `shape`."""
    layer.device, layer.columns, layer.index, layer.first_unit = Device(), columns, 5, 0
    parameters = layer.parameters(shape, columns)
    layer.values = {name: rng.standard_normal(parameter.shape).astype(dtype) for name, parameter in parameters.items()}
    layer.gradients = {name: np.full(parameter.shape, np.nan, dtype) for name, parameter in parameters.items()}
    return layer


@pytest.fixture(params=[number for _, number in CASES], ids=[name for name, _ in CASES])
def case(request, rng):
    """A placed layer of each kind, and an input for it."""
    layer, columns, x = list(_layer_cases(rng))[request.param]
    return place(layer, columns, x.shape[:-1], rng), x


def test_shapes(case):
    layer, x = case
    y = layer.forward(x.copy(), TRAINING)
    assert y.shape == (*layer.out_shape(x.shape[:-1]), x.shape[-1])
    d_x = layer.backward(np.ones(y.shape))
    assert d_x.shape == x.shape and d_x.dtype == y.dtype == np.float64
    assert all(np.isfinite(gradient).all() for gradient in layer.gradients.values())


def test_batches_that_change(case, rng):
    """Buffers are kept from pass to pass; what a larger batch left there must not matter."""
    layer, x = case

    def both(images, spoil=False):
        """y, d_x and the parameters' gradients for the first images."""
        if spoil:
            for held in layer._held.values():
                held[...] = True if held.dtype == bool else np.nan
        y = layer.forward(np.ascontiguousarray(x[..., :images]), TRAINING).copy()
        d_x = layer.backward(np.ascontiguousarray(np.cos(y)))
        return [y.copy(), d_x.copy(), *(gradient.copy() for gradient in layer.gradients.values())]

    fresh = both(1)
    whole = both(x.shape[-1])
    for images, expected in (1, fresh), (x.shape[-1], whole), (1, fresh):
        for result, array in zip(both(images, spoil=hasattr(layer, "_held")), expected, strict=True):
            np.testing.assert_array_equal(result, array)


def test_buffers_are_kept_and_grow():
    layer = ReLU("relu")
    layer.device = Device()
    small = layer.buffer("y", (2, 3), np.float32)
    assert np.shares_memory(layer.buffer("y", (6,), np.float32), small)
    assert np.shares_memory(layer.buffer("y", (1, 2, 1), np.float32), small)
    assert not np.shares_memory(layer.buffer("d_x", (2, 3), np.float32), small)
    large = layer.buffer("y", (3, 3), np.float32)
    assert large.shape == (3, 3) and not np.shares_memory(large, small)
    assert np.shares_memory(layer.buffer("y", (2, 3), np.float32), large)
    assert layer.buffer("y", (2, 3), np.float64).dtype == np.float64


@pytest.mark.parametrize("layer, shape", [(Conv("conv", 4, 3), (6, 5, 5)), (Linear("linear", 4), (6, 2, 2))], ids=str)
def test_nobody_trains_the_image(rng, layer, shape):
    place(layer, 2, shape, rng)
    x = rng.standard_normal((*shape, 3))
    y = layer.forward(x, TRAINING)
    d_y = rng.standard_normal(y.shape)
    layer.backward(d_y.copy())
    expected = {name: gradient.copy() for name, gradient in layer.gradients.items()}
    layer.input_gradient = False
    assert layer.backward(d_y.copy()) is None
    for name, gradient in layer.gradients.items():
        np.testing.assert_array_equal(gradient, expected[name])


def test_conv_reads_its_column_or_all(rng):
    x = rng.standard_normal((6, 7, 7, 2))
    own = place(Conv("conv", 4, 3, stride=2, pad=(0, 1)), 2, (6, 7, 7), rng)
    assert own.values["weight"].shape == (4, 3, 3, 3)
    expected = conv.conv_forward(x, own.values["weight"], own.values["bias"], stride=2, pad=(0, 1), groups=2)
    np.testing.assert_array_equal(own.forward(x, TRAINING), expected)
    every = place(Conv("conv", 4, 3, pad=1, reads="all"), 2, (6, 7, 7), rng)
    assert every.values["weight"].shape == (4, 6, 3, 3)
    expected = conv.conv_forward(x, every.values["weight"], every.values["bias"], pad=(1, 1))
    np.testing.assert_array_equal(every.forward(x, TRAINING), expected)


def test_linear_reads_maps_row_by_row(rng):
    x = rng.standard_normal((3, 2, 2, 5))
    layer = place(Linear("linear", 4), 1, (3, 2, 2), rng)
    expected = linear.linear_forward(x.reshape(12, 5), layer.values["weight"], layer.values["bias"])
    np.testing.assert_array_equal(layer.forward(x, TRAINING), expected)


def test_lrn_stays_within_a_column(rng):
    x = rng.standard_normal((12, 2, 2, 3))
    layer = place(LRN("lrn", k=1.5, n=3, alpha=0.4, beta=0.6), 2, (12, 2, 2), rng)
    halves = [lrn.lrn_forward(half, k=1.5, n=3, alpha=0.4, beta=0.6) for half in (x[:6], x[6:])]
    np.testing.assert_array_equal(layer.forward(x, TRAINING), np.concatenate(halves))


def test_dropout_draws_by_layer_unit_and_image():
    layer = Dropout("dropout", rate=0.3)
    layer.device, layer.index, layer.first_unit = Device(), 7, 11
    mask = dropout.dropout_mask((9, 6), seed=3, step=4, layer=7, rate=0.3, first_unit=11, first_image=5)
    run = Pass(training=True, seed=3, step=4, first_image=5)
    np.testing.assert_array_equal(layer.forward(np.ones((9, 6)), run), mask)
    np.testing.assert_array_equal(layer.backward(np.full((9, 6), 2.0)), 2.0 * mask)
    np.testing.assert_array_equal(layer.forward(np.ones((9, 6)), Pass()), np.full((9, 6), 0.7))


def test_multiply_adds():
    """Every product of a filter's number with a pixel, those with padding included."""
    shape = 6, 9, 14  # 9 + 3 rows have four windows of 5 at steps of 2; 14 + 3 columns have seven
    assert Conv("conv", 8, 5, stride=2, pad=(1, 2), reads="all").multiply_adds(shape, 2) == 8 * 4 * 7 * 6 * 25
    assert Conv("conv", 8, 5, stride=2, pad=(1, 2)).multiply_adds(shape, 2) == 8 * 4 * 7 * 3 * 25
    assert Linear("linear", 7).multiply_adds((4, 2, 3), 2) == 7 * 24
    assert MaxPool("pool").multiply_adds(shape, 2) == 0

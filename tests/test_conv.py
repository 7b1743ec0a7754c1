from typing import NamedTuple

import numpy as np
import pytest

from cpnet.ops.conv import conv_backward, conv_forward, conv_shape
from tests import reference
from tests.conftest import CuemuBackend


class Case(NamedTuple):
    """Channels, height, width, images; filters, rows, columns; options. The filters have channels/groups channels."""

    x: tuple
    w: tuple
    stride: int = 1
    pad: tuple = (0, 0)
    groups: int = 1

    def options(self):
        return {"stride": self.stride, "pad": self.pad, "groups": self.groups}

    def arrays(self, rng, dtype):
        """x, w, b, d_y"""
        w_shape = (self.w[0], self.x[0] // self.groups, *self.w[1:])
        shapes = self.x, w_shape, w_shape[:1], conv_shape(self.x, w_shape, self.stride, self.pad)
        return [rng.standard_normal(shape).astype(dtype) for shape in shapes]

    def __str__(self):
        return "-".join("x".join(map(str, part)) if isinstance(part, tuple) else str(part) for part in self)


SMALL = [
    Case((3, 5, 6, 3), (4, 3, 3)),
    Case((3, 5, 6, 1), (4, 3, 3), pad=(1, 1)),
    Case((2, 3, 4, 130), (3, 3, 3), pad=(1, 1)),  # N beyond one tile of any kernel, and odd
    Case((3, 12, 12, 3), (2, 7, 7), stride=4, pad=(0, 3)),  # conv1 in small: the last window overhangs, the first does not
    Case((2, 7, 8, 2), (2, 3, 3), stride=2, pad=(2, 0)),
    Case((2, 6, 7, 3), (3, 3, 2), stride=2, pad=(1, 2)),
    Case((4, 6, 5, 3), (6, 3, 3), pad=(1, 1), groups=2),
    Case((6, 5, 5, 5), (3, 2, 3), stride=3, pad=(1, 0), groups=3),
    Case((2, 8, 9, 3), (2, 3, 3), stride=3),  # no window covers the last pixels
    Case((2, 9, 8, 2), (3, 2, 2), stride=4),  # nor those between two windows
    Case((5, 4, 3, 3), (4, 1, 1)),
    Case((3, 5, 6, 2), (4, 1, 1), stride=2, pad=(1, 1)),
    Case((1, 4, 5, 3), (1, 2, 3)),
    Case((2, 3, 2, 3), (2, 3, 2), pad=(5, 4)),  # windows that see nothing but padding
    Case((2, 3, 3, 2), (2, 2, 2), stride=3, pad=(4, 4)),
    Case((3, 4, 5, 3), (2, 4, 5)),  # the filter is as large as the image
    Case((1, 1, 1, 1), (1, 1, 1)),
]
LARGER = [
    Case((3, 35, 35, 5), (8, 11, 11), stride=4, pad=(0, 3)),
    Case((8, 27, 27, 7), (6, 5, 5), pad=(2, 2), groups=2),
    Case((16, 13, 13, 33), (24, 3, 3), pad=(1, 1), groups=2),
]


def run(backend, case, x, w, b, d_y):
    """y, d_x, d_w, d_b of the operation, on the device."""
    x, w, b, d_y = (backend.to_device(array) for array in (x, w, b, d_y))
    d_w, d_b = backend.empty(w.shape, w.dtype), backend.empty(b.shape, b.dtype)
    y = conv_forward(x, w, b, **case.options())
    d_x = conv_backward(d_y, x, w, d_w, d_b, **case.options())
    return y, d_x, d_w, d_b


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_the_formula(backend, dtype, rng, case):
    x, w, b, d_y = case.arrays(rng, dtype)
    y, d_x, d_w, d_b = run(backend, case, x, w, b, d_y)
    backend.assert_close(y, reference.conv_forward(x, w, b, *case[2:]), dtype)
    for result, expected in zip((d_x, d_w, d_b), reference.conv_backward(d_y, x, w, *case[2:]), strict=True):
        backend.assert_close(result, expected, dtype)


@pytest.mark.parametrize("case", SMALL + LARGER, ids=str)
def test_pytorch_agrees(backend, dtype, rng, torch, case):
    if case in LARGER and isinstance(backend, CuemuBackend):
        pytest.skip("half a minute; test_conv_kernels.py has it smaller")
    x, w, b, d_y = case.arrays(rng, dtype)
    results = run(backend, case, x, w, b, d_y)
    inputs = [torch.tensor(array, dtype=torch.float64, requires_grad=True) for array in (x, w, b)]
    padded = torch.nn.functional.pad(inputs[0].permute(3, 0, 1, 2), case.pad * 2)
    y = torch.nn.functional.conv2d(padded, *inputs[1:], stride=case.stride, groups=case.groups).permute(1, 2, 3, 0)
    y.backward(torch.tensor(d_y, dtype=torch.float64))
    for result, expected in zip(results, (y.detach(), *(each.grad for each in inputs)), strict=True):
        backend.assert_close(result, expected.numpy(), dtype)


@pytest.mark.parametrize("enough", [1, 1 << 30], ids=["shifts behind", "shifts before"])
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_both_orders_of_shift_and_product(rng, case, enough, monkeypatch):
    monkeypatch.setattr("cpnet.ops.conv.lines.ENOUGH", enough)
    x, w, b, d_y = case.arrays(rng, np.float64)
    d_x = conv_backward(d_y, x, w, np.empty_like(w), **case.options())
    np.testing.assert_allclose(conv_forward(x, w, b, **case.options()), reference.conv_forward(x, w, b, *case[2:]), atol=1e-12)
    np.testing.assert_allclose(d_x, reference.conv_backward(d_y, x, w, *case[2:])[0], atol=1e-12)


def test_the_first_layer_of_the_paper():
    assert conv_shape((3, 224, 224, 128), (48, 3, 11, 11), 4, (0, 3)) == (48, 55, 55, 128)


def test_buffers_and_what_may_be_left_out(backend, dtype, rng):
    case = Case((4, 5, 6, 3), (2, 3, 3), stride=2, pad=(1, 1), groups=2)
    x, w, b, d_y = (backend.to_device(array) for array in case.arrays(rng, dtype))
    host = backend.to_host

    out = backend.empty(d_y.shape, dtype)
    y = conv_forward(x, w, **case.options(), out=out)
    assert y is out
    with_bias = conv_forward(x, w, b, **case.options())
    backend.assert_close(with_bias, host(y).astype(np.float64) + host(b)[:, None, None, None], dtype)

    d_w, again, d_b = (backend.empty(array.shape, dtype) for array in (w, w, b))
    out = backend.empty(x.shape, dtype)
    d_x = conv_backward(d_y, x, w, d_w, d_b, **case.options(), out=out)
    assert d_x is out
    backend.assert_close(d_x, host(conv_backward(d_y, x, w, d_w, **case.options())), dtype)
    assert conv_backward(d_y, x, w, again, **case.options(), input_gradient=False) is None
    np.testing.assert_array_equal(host(again), host(d_w))


@pytest.mark.parametrize("case", [LARGER[0], LARGER[2], Case((4, 9, 9, 130), (6, 3, 3), pad=(1, 1))], ids=str)
def test_the_same_bits_on_any_number_of_threads(same_bits, rng, case):
    x, w, b, d_y = case.arrays(rng, np.float32)

    def results():
        d_w, d_b = np.empty_like(w), np.empty_like(b)
        y = conv_forward(x, w, b, **case.options())
        return y, conv_backward(d_y, x, w, d_w, d_b, **case.options()), d_w, d_b

    same_bits(results)


@pytest.mark.parametrize("channels, filters, groups", [(4, (2, 3, 3, 3), 1), (4, (2, 4, 3, 3), 2), (6, (4, 2, 3, 3), 3)])
def test_filters_that_do_not_fit_the_channels(backend, channels, filters, groups):
    x, w = (backend.to_device(np.zeros(shape, np.float32)) for shape in ((channels, 5, 5, 2), filters))
    with pytest.raises(ValueError, match=rf"{channels} channels in {groups} groups"):
        conv_forward(x, w, groups=groups)


def test_filters_larger_than_the_image(backend):
    x, w = (backend.to_device(np.zeros(shape, np.float32)) for shape in ((1, 5, 3, 2), (1, 1, 4, 5)))
    with pytest.raises(ValueError, match="4×5 does not fit in 5×3 pixels"):
        conv_forward(x, w, pad=(1, 0))
    assert conv_forward(x, w, pad=(1, 1)).shape == (1, 4, 1, 2)

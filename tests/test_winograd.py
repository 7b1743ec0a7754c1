"""Winograd's convolution: the algebra, exactly in float64; its rounding errors in float32; and when it is used."""
import numpy as np
import pytest

from cpnet import precision
from cpnet.ops.conv import conv_backward, conv_forward, lines, winograd
from cpnet.ops.conv.winograd_loops import P, Q
from tests.test_conv import Case

RAGGED = [
    Case((8, 6, 6, 64), (5, 3, 3), pad=(1, 1)),  # two tiles along both axes, the second with 2 of 4 results
    Case((8, 4, 9, 1), (8, 3, 3)),  # one image; no padding
    Case((16, 7, 5, 70), (6, 5, 5), pad=(2, 2), groups=2),  # more images than are transformed together
    Case((12, 3, 3, 33), (9, 3, 3), pad=(1, 1), groups=3),
    Case((8, 1, 1, 2), (4, 3, 3), pad=(1, 1)),  # tiles that are mostly padding
    Case((8, 3, 5, 3), (4, 5, 5), pad=(4, 4)),
    Case((8, 5, 5, 3), (4, 5, 5)),  # a single result
]
# The nets' own, of fewer images, and the largest error of y, d_x and d_w as a share of the largest value. Direct: 6e-7.
WIDE = [
    (Case((96, 27, 27, 32), (64, 5, 5), pad=(2, 2), groups=2), (2e-6, 2e-6, 6e-6)),  # conv2 of alexnet, of half the filters
    (Case((256, 13, 13, 32), (384, 3, 3), pad=(1, 1)), (4e-6, 4e-6, 3e-6)),  # conv3
    (Case((384, 13, 13, 32), (256, 3, 3), pad=(1, 1), groups=2), (4e-6, 4e-6, 3e-6)),  # conv5
    (Case((32, 14, 14, 65), (32, 5, 5), pad=(2, 2)), (2e-6, 2e-6, 6e-6)),  # conv2 of four-layer
]


def results(way, case, x, w, b, d_y, relu=False):
    """y, d_x, d_w of a way to compute."""
    y, d_x, d_w = np.empty_like(d_y), np.empty_like(x), np.empty_like(w)
    way.correlate(x, w, b, 1, case.pad[0], case.groups, relu, y)
    way.input_gradient(d_y, w, 1, case.pad[0], case.groups, d_x)
    way.weight_gradient(d_y, x, d_w, 1, case.pad[0], case.groups)
    return y, d_x, d_w


def error(result, expected):
    return np.abs(result - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("case", RAGGED, ids=str)
def test_the_same_sums_by_fewer_products(rng, case):
    arrays = case.arrays(rng, np.float64)
    for relu in False, True:
        found = results(winograd, case, *arrays, relu)
        for result, expected in zip(found, results(lines, case, *arrays, relu), strict=True):
            assert error(result, expected) < 1e-13
    x, w, _, d_y = arrays
    assert error(results(winograd, case, x, w, None, d_y)[0], results(lines, case, x, w, None, d_y)[0]) < 1e-13


@pytest.mark.parametrize("case, allowed", WIDE, ids=str)
def test_rounding_errors(rng, case, allowed):
    x, w, b, d_y = case.arrays(rng, np.float64)
    arrays = np.maximum(x, 0), w, b, d_y  # as a ReLU leaves them
    exact = results(lines, case, *arrays)
    for way, most in (winograd, allowed), (lines, 3 * [6e-7]):
        found = results(way, case, *(array.astype(np.float32) for array in arrays))
        errors = [error(result, expected) for result, expected in zip(found, exact, strict=True)]
        assert all(a <= b for a, b in zip(errors, most, strict=True)), errors


def test_filters_at_the_points():
    """The polynomials' product is right at each point, which G's rows are, but for what Bᵀ has brought in."""
    for rows in winograd.SIZES:
        matrix = winograd.filter_matrix(rows)
        for row, point in zip(matrix, winograd.points(), strict=False):
            np.testing.assert_allclose(row / row[0], [point**k for k in range(rows)], atol=1e-15)
        assert matrix[-1].tolist() == [0] * (rows - 1) + [1]
    assert abs(P * P - 0.5) < 1e-15 and abs(Q * Q - 2) < 1e-15


@pytest.fixture
def used(monkeypatch):
    """Which ways were taken, in order."""
    taken = []
    for way in winograd, lines:
        for name in "correlate", "weight_gradient", "input_gradient":
            monkeypatch.setattr(way, name, noting(taken, way, getattr(way, name)))
    return taken


def noting(taken, way, function):
    def spy(*arguments):
        taken.append(way)
        return function(*arguments)

    return spy


CASE = Case((8, 6, 6, 32), (8, 3, 3), pad=(1, 1))


@pytest.mark.parametrize("case, dtype, math, way", [
    (CASE, np.float32, "fp32", winograd),
    (CASE, np.float32, "tf32", winograd),
    (CASE, np.float32, "exact", lines),
    (CASE, np.float64, "fp32", lines),  # gradcheck's
    (CASE._replace(w=(8, 5, 5), pad=(2, 2)), np.float32, "fp32", winograd),
    (CASE._replace(stride=2), np.float32, "fp32", lines),
    (CASE._replace(w=(8, 3, 5)), np.float32, "fp32", lines),
    (CASE._replace(w=(8, 2, 2)), np.float32, "fp32", lines),
    (CASE._replace(groups=2), np.float32, "fp32", lines),  # few channels
    (CASE._replace(x=(8, 6, 6, 2)), np.float32, "fp32", lines),  # few images
])
def test_which_way_is_taken(rng, used, monkeypatch, case, dtype, math, way):
    monkeypatch.setattr(precision, "_math", math)
    x, w, b, d_y = case.arrays(rng, dtype)
    conv_forward(x, w, b, **case.options())
    conv_backward(d_y, x, w, np.empty_like(w), np.empty_like(b), **case.options())
    assert used == [way] * 3


@pytest.mark.parametrize("case", [RAGGED[0], RAGGED[2]], ids=str)
def test_the_same_bits_on_any_number_of_threads(same_bits, rng, case):
    arrays = case.arrays(rng, np.float32)
    same_bits(lambda: results(winograd, case, *arrays))


def test_an_infinity_stays_near(rng):
    """It spoils the tiles that see it, in its own image, and nothing else."""
    x, w, b, _ = CASE.arrays(rng, np.float32)
    x[0, 0, 0, 7] = np.inf
    y = conv_forward(x, w, b, **CASE.options())
    assert not np.isfinite(y[:, :2, :2, 7]).any()
    assert np.isfinite(np.delete(y, 7, axis=3)).all() and np.isfinite(y[:, 4:, 4:, 7]).all()

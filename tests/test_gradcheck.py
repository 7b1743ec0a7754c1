import numpy as np
import pytest

from cpnet.gradcheck import TOLERANCE, check_gradient, operations, relative_error, report

ROWS = list(operations())


@pytest.mark.parametrize("name, error", ROWS, ids=[name for name, _ in ROWS])
def test_operations(name, error):
    assert error <= 1e-6


def test_every_operation_is_there():
    for wanted in "conv", "groups", "stride", "lrn", "max pool", "average pool", "relu", "tanh", "dropout", "linear", "softmax":
        assert any(wanted in name for name, _ in ROWS), wanted


def cube_errors(rng, backward):
    x = rng.standard_normal((3, 4))
    return dict(check_gradient(lambda x: x ** 3, backward, {"x": x}, rng))["x"]


def test_right_gradients_pass_and_wrong_ones_do_not(rng):
    assert cube_errors(rng, lambda d_y, x: [3 * x ** 2 * d_y]) <= 1e-8
    wrong = [lambda d_y, x: [-3 * x ** 2 * d_y], lambda d_y, x: [np.zeros_like(x)], lambda d_y, x: [3 * x ** 2],
             lambda d_y, x: [3 * x ** 2 * d_y * np.where(np.arange(4) == 2, 0, 1)],
             lambda d_y, x: [3 * x ** 2 * d_y + 1e-3], lambda d_y, x: [np.roll(3 * x ** 2 * d_y, 1)]]
    for backward in wrong:
        assert cube_errors(rng, backward) > 1e-5


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_a_number_fails(rng, value):
    def backward(d_y, x):
        gradient = 3 * x ** 2 * d_y
        gradient[0, 0] = value
        return [gradient]

    assert not cube_errors(rng, backward) <= TOLERANCE
    assert not relative_error(value, 1.0) <= TOLERANCE
    assert not relative_error(1.0, value) <= TOLERANCE
    assert not relative_error(value, value) <= TOLERANCE


def test_relative_error():
    assert relative_error(0.0, 0.0) == 0
    assert relative_error(2.0, 1.0) == relative_error(1.0, 2.0) == 0.5
    assert relative_error(0.0, 1e-30) == 1


def test_gradients_must_have_their_inputs_shapes(rng):
    with pytest.raises(ValueError, match=r"gradient of x has shape \(3, 1\), not \(3, 4\)"):
        cube_errors(rng, lambda d_y, x: [(3 * x ** 2 * d_y).sum(axis=1, keepdims=True)])


def test_the_report_marks_what_is_wrong():
    lines = report([("right", 1e-9), ("too large", 1e-3), ("not a number", np.nan)]).splitlines()
    assert ["WRONG" in line for line in lines] == [False, True, True]
    assert "right" in lines[0] and "1.0e-09" in lines[0]

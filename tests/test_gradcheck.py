import numpy as np
import pytest

from cpnet import gradcheck, layers
from cpnet.gradcheck import (
    TOLERANCE,
    check_gradient,
    every_layer,
    network,
    operations,
    relative_error,
    report,
)
from cpnet.ops import pointwise

ROWS = list(operations())
LAYERS = list(every_layer())


@pytest.mark.parametrize("name, error", ROWS, ids=[name for name, _ in ROWS])
def test_operations(name, error):
    assert error <= 1e-6


@pytest.mark.parametrize("name, error", LAYERS, ids=[name for name, _ in LAYERS])
def test_layers(name, error):
    assert error <= 1e-6


def test_every_layer_is_there(rng):
    kinds = {kind for kind in vars(layers).values() if isinstance(kind, type) and issubclass(kind, layers.Layer)}
    checked = {type(layer) for layer, _, _ in gradcheck._layer_cases(rng)}
    assert checked == kinds - {layers.Layer, layers.Pool}


@pytest.mark.parametrize("name, devices, options", [
    ("mini", "cpu", {}), ("mini", "cpu,cpu", {}), ("mini", "cpu", {"image": (1, 28, 28), "images": 1}),
    ("mini", "cpu,cpu", {"profile": "as-run", "seed": 1}), ("mini", "cpu", {"activation": "tanh"}),
    ("mini", "cpu", {"profile": "as-run", "activation": "tanh"}), ("mini", "cpu", {"lrn": False, "pool": "2x2s2"}),
    ("mini", "cpu,cpu", {"exchange": False}), ("mini", "cpu", {"exchange": False, "dropout": False}),
    ("mini-conv6", "cpu", {"drop_layer": "conv3"}), ("mini", "cpu,cpu", {"drop_layer": "conv4"}),
    ("four-layer", "cpu", {}), ("four-layer", "cpu", {"activation": "tanh"})], ids=str)
def test_networks(name, devices, options):
    rows = list(network(name, devices, **options))
    assert len(rows) == {"four-layer": 8, "mini": 16, "mini-conv6": 18}[name] - 2 * ("drop_layer" in options)
    for row, error in rows:
        assert error <= 1e-6, row


def test_a_wrong_layer_shows_in_the_network(monkeypatch):
    monkeypatch.setattr(pointwise, "relu_backward", lambda d_y, y, out=None: d_y)  # lets everything through
    rows = dict(network("mini", image=(3, 12, 12)))
    assert rows["mini on cpu: fc8.weight"] <= 1e-6  # above every ReLU
    assert rows["mini on cpu: fc7.weight"] > 1e-3
    assert rows["mini on cpu: conv1.weight"] > 1e-3


def test_a_step_over_a_kink_is_noticed(monkeypatch):
    monkeypatch.setattr(gradcheck, "STEP", 1.0)  # so large that some ReLU changes its mind even within a 64th of it
    assert all(np.isnan(error) for name, error in network("mini", image=(3, 12, 12)) if name.endswith("conv1.weight"))


def test_everything():
    names = [name for name, _ in gradcheck.everything("mini", image=(3, 12, 12))]
    assert names[:len(ROWS)] == [name for name, _ in ROWS]
    for wanted in "layer conv: d_weight", "mini on cpu: conv1.weight", "mini on cpu,cpu: fc8.bias":
        assert wanted in names
    assert "four-layer on cpu: fc4.bias" in [name for name, _ in gradcheck.everything("four-layer", image=(3, 12, 12))]


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

"""How far float32 training is from float64, ours beside PyTorch's, on a small net on the CPU."""
import json
from dataclasses import replace

import numpy as np
import pytest

from cpnet.gpu.devices import Device
from cpnet.nets import build
from cpnet.network import Network


@pytest.fixture(scope="module")
def check(torch):
    from bench import check
    return check


def network():
    return Network(build("alexnet", (3, 64, 64), 10), [Device()], seed=1)


def test_distances(check):
    found = check.distances(network(), steps=(1,), images=2)  # after a step, biases that started at 1 have lost most of Δw
    names = list(network().parameters)
    assert [row[:2] for row in found] == [("logits", 0), ("loss", 0), *((name, step) for step in (0, 1) for name in names)]
    assert all(0 <= error < (0.2 if step else 1e-5) for _, step, *errors in found for error in errors)
    assert all(ours > 0 for what, _, ours, _ in found if what != "loss")  # float32 is not float64


def test_a_wrong_net_is_far(check, monkeypatch):
    wrong = network()
    for part in wrong.rows[1].copies:
        part.norm = replace(part.norm, alpha=1.5 * part.norm.alpha)  # conv1's
    found = check.distances(wrong, steps=(1,), images=2)
    assert not check.as_near(found)


@pytest.mark.parametrize("changed, near", [({}, True), ({"logits": 2.1e-5}, False), ({"loss": 2.1e-4}, False),
                                           ({"loss": 9e-7}, True), ({"b": 4.1e-5}, False), ({"a": 3.9e-5}, True),
                                           ({"b": np.nan}, False), ({"later": 1.0}, True)])
def test_as_near(check, changed, near):
    ours = {"logits": 1e-5, "loss": 1e-7, "a": 1e-5, "b": 1e-5, "later": 1e-5, **changed}
    found = [("logits", 0, ours["logits"], 1e-5), ("loss", 0, ours["loss"], 1e-4), ("a", 0, ours["a"], 1e-5),
             ("b", 0, ours["b"], 2e-5), ("a", 1, ours["later"], 1e-5)]
    assert check.as_near(found) == near


def test_the_file(check, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(check.gpu, "precision", lambda kind: None)
    monkeypatch.setattr(check, "of_size", lambda name: build("mini", (1, 8, 8), 4))
    monkeypatch.setattr(check, "distances", lambda net: [("logits", 0, 1e-5, 1e-5), ("loss", 0, 0.0, 0.0), ("w", 0, 1.0, 1e-5),
                                                      ("w", 1, 1.0, 1.0)])
    assert not check.measured_distances("cpu", "fp32", path=tmp_path / "check.json")
    result = json.loads((tmp_path / "check.json").read_text())
    assert (result["class"], result["as_near"]) == ("fp32", False)
    assert result["rows"][2] == {"what": "w", "steps": 0, "ours": 1.0, "torch": 1e-5}
    assert "after 1 step " in capsys.readouterr().out

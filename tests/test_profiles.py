"""Caffe's profiles: layer order, normalization across the columns, crops, and what fine-tuning makes sure of."""
import numpy as np
import pytest

import run as command_line
from cpnet.formats.export import Trained, to_checkpoint
from cpnet.gpu import memory
from cpnet.gpu.devices import Device
from cpnet.layers import LRN, Conv, MaxPool, Pass, ReLU
from cpnet.nets import build, crop_size
from cpnet.ops import lrn
from tests.helpers import lively, small_set

ORDERS = {"caffe-alexnet": [Conv, ReLU, LRN, MaxPool], "caffenet": [Conv, ReLU, MaxPool, LRN]}


@pytest.mark.parametrize("profile", ORDERS)
@pytest.mark.parametrize("name, size", [("alexnet", 227), ("mini", 28)])
def test_order_and_normalization(name, size, profile):
    table = build(name, (3, size, size), 10, profile)
    for block in "conv1", "conv2":
        assert [type(layer) for layer in table.layers if layer.name.split()[0] == block] == ORDERS[profile]
    constants = [(layer.k, layer.n, layer.alpha, layer.beta, layer.reads) for layer in table.layers if isinstance(layer, LRN)]
    assert constants == [(1, 5, 2e-5, 0.75, "all")] * 2
    alone = build(name, (3, size, size), 10, profile, exchange=False)
    assert {layer.reads for layer in alone.layers if isinstance(layer, LRN)} == {"column"}


def test_crops():
    assert [crop_size(256, profile) for profile in ("paper", "as-run", *ORDERS)] == [224, 224, 227, 227]
    shapes = [out for layer, _, out in build("alexnet", (3, 227, 227), 1000, "caffenet").shapes()
              if isinstance(layer, Conv | MaxPool)]
    assert shapes == [(96, 55, 55), (96, 27, 27), (256, 27, 27), (256, 13, 13), (384, 13, 13), (384, 13, 13), (256, 13, 13),
                      (256, 6, 6)]


@pytest.mark.parametrize("device", [0, 1])
def test_one_device_of_two(backend, rng, device):
    """Its maps are normalised with their neighbours on the other device; its gradient reaches those."""
    x, d_own = rng.standard_normal((12, 2, 3, 4)).astype(np.float32), rng.standard_normal((6, 2, 3, 4)).astype(np.float32)
    own = slice(6 * device, 6 * device + 6)

    class Place(Device):
        def empty(self, shape, dtype):
            return backend.empty(shape, dtype)

    layer = LRN("lrn", alpha=0.5, reads="all")
    layer.device, layer.columns, layer.first_unit, layer.units = Place(), 1, own.start, 6
    y = layer.forward(backend.to_device(x), Pass())
    d_x = layer.backward(backend.to_device(d_own))
    d_y = np.zeros(x.shape)
    d_y[own] = d_own
    wide = x.astype(np.float64)
    np.testing.assert_allclose(memory.to_host(y), lrn.lrn_forward(wide, alpha=0.5)[own], rtol=0, atol=1e-6)
    np.testing.assert_allclose(memory.to_host(d_x), lrn.lrn_backward(d_y, wide, alpha=0.5), rtol=0, atol=1e-6)
    across = slice(4, 6) if device else slice(6, 8)
    assert abs(memory.to_host(d_x)[across]).max() > 0.01


CLASSES = [f"place {k}" for k in range(4)]


def test_fine_tuning_wants_the_same_profile(tmp_path, capsys):
    data = small_set(tmp_path / "four.h5", channels=3, train=16, val=8)
    table = build("mini", (3, 14, 14), 4, "caffenet")
    network = lively(table, np.random.default_rng(0).uniform(-50, 50, (3, 14, 14, 3)).astype(np.float32))
    values = {name: network.get("values", name) for name in network.parameters}
    settings = {"table": table.settings, "data": None, "seed": 0}
    to_checkpoint(tmp_path / "net.h5", Trained(settings, values, np.zeros((3, 16, 16), np.float32), CLASSES), "net")
    words = ["--data", data, "--batch", 8, "--epochs", 1, "--runs", tmp_path / "runs", "--init-from", tmp_path / "net.h5"]
    assert command_line.main([str(word) for word in words]) == 1
    assert "net.h5: was trained with --profile caffenet: give that" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
    assert command_line.main([str(word) for word in [*words, "--profile", "caffenet"]]) == 0
    capsys.readouterr()
    assert command_line.main(["evaluate", str(tmp_path / "net.h5")]) == 1
    assert "give --data" in capsys.readouterr().err
    for command in (["evaluate", tmp_path / "net.h5", "--data", data], ["filters", tmp_path / "net.h5", tmp_path / "f.png"],
                    ["features", tmp_path / "net.h5", data, tmp_path / "features.h5"]):
        assert command_line.main([str(word) for word in command]) == 0

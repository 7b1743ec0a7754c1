import json
import os
import subprocess
import sys

import h5py
import numpy as np
import pytest

from cpnet import checkpoint
from cpnet.errors import CpnetError
from cpnet.gpu.devices import named
from cpnet.nets import build
from cpnet.network import Network
from tests.helpers import ROOT


def network(name="mini", placed="cpu", seed=0):
    table = build(name, (1, 10, 10), 4)
    net = Network(table, named(placed, table.columns), seed=seed)
    rng = np.random.default_rng(seed)
    for key, parameter in net.parameters.items():
        net.set("velocities", key, rng.standard_normal(parameter.shape, np.float32))
    return net


def save(path, net, **state):
    checkpoint.save(path, net, settings={"table": net.table.settings}, state=state,
                    mean=np.zeros((1, 12, 12), np.float32), classes=["a", "b", "ç", "d"])


@pytest.mark.parametrize("placed", ["cpu", "cpu,cpu"])
def test_round_trip_into_either_placement(tmp_path, placed):
    net = network(seed=1)
    save(tmp_path / "c.h5", net, step=7)
    saved, other = checkpoint.Checkpoint(tmp_path / "c.h5"), network(placed=placed, seed=2)
    saved.restore(other)
    assert saved.state == {"step": 7} and saved.classes == ["a", "b", "ç", "d"]
    for kind in checkpoint.KINDS:
        for name in net.kinds[kind]:
            np.testing.assert_array_equal(other.get(kind, name), net.get(kind, name), err_msg=f"{kind} {name}")


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path):
    """A limit on the size of files is met in the same way as a full disk: the write fails half-way."""
    net, path = network(), tmp_path / "c.h5"
    save(path, net, step=1)
    before = path.read_bytes()
    code = """
import resource, signal, sys
from tests.test_checkpoint import network, save, CpnetError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    save(sys.argv[1], network(), step=2)
except CpnetError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code, path], cwd=ROOT, capture_output=True, text=True)
    assert "c.h5: could not be written" in done.stdout, done.stderr
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["c.h5"]
    assert len(before) > 100_000  # the limit was in the way


@pytest.mark.parametrize("spoil, message", [
    (lambda path: path.unlink(), "no such checkpoint"),
    (lambda path: path.write_text("weights"), "cannot be read as a checkpoint"),
    (lambda path: path.write_bytes(path.read_bytes()[:50_000]), "cannot be read as a checkpoint"),
    (lambda path: edit(path, "format", "other"), "not a checkpoint of this program"),
    (lambda path: edit(path, "version", 2), "has version 2"),
    (lambda path: edit(path, "state", "{"), "cannot be read as a checkpoint"),
])
def test_foreign_and_broken_files(tmp_path, spoil, message):
    path = tmp_path / "c.h5"
    save(path, network())
    spoil(path)
    with pytest.raises(CpnetError, match=message) as error:
        checkpoint.Checkpoint(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def edit(path, key, value):
    with h5py.File(path, "r+") as file:
        file.attrs[key] = value


def test_a_checkpoint_of_another_net(tmp_path):
    save(tmp_path / "c.h5", network("four-layer"))
    with pytest.raises(CpnetError, match="c.h5: is of another net: conv2.bias is .32,. there, .64,. in the net"):
        checkpoint.Checkpoint(tmp_path / "c.h5").restore(network("mini"))


def test_values_that_are_not_finite_are_refused(tmp_path):
    net = network()
    net.set("values", "fc7.bias", np.full(1024, np.nan, np.float32))
    save(tmp_path / "c.h5", net)
    with pytest.raises(CpnetError, match="fc7.bias holds values that are not finite"):
        checkpoint.Checkpoint(tmp_path / "c.h5").restore(network())


def test_nothing_but_h5py_is_needed_to_read_one(tmp_path):
    net = network()
    save(tmp_path / "c.h5", net, step=3)
    with h5py.File(tmp_path / "c.h5") as file:
        assert json.loads(file.attrs["state"]) == {"step": 3}
        np.testing.assert_array_equal(file["values/conv2.weight"][()], net.get("values", "conv2.weight"))
        assert file["values/conv2.weight"].shape == (64, 16, 5, 5)

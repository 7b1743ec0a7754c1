"""Nets on GPUs (tests/gpus.py): on one, with both columns on one, and with each on its own; with peer access and without; with
tensor cores and without. The whole way from the data set to the checkpoint and back."""
import json
from itertools import islice

import numpy as np
import pytest

from cpnet import checkpoint, gradcheck, nets, precision
from cpnet.errors import CpnetError, Stopped
from cpnet.evaluate import evaluate
from cpnet.gpu import devices, memory, platform
from cpnet.gpu.devices import Device
from cpnet.layers import Pass
from cpnet.network import Network
from data.store.dataset import Dataset
from tests.gpus import SOFT, gpus, in_order, tiny
from tests.helpers import assert_same_arrays, small_set, trainer_of

CPU = [Device()]
SETTINGS = dict(epochs=1, batch=4, lr=0.01, momentum=0.9, decay=0.0005, schedule="2", seed=0, mirror=True, colour=True,
                checkpoint_minutes=1e9, loader_threads=1)


def net(placed, table=None, dtype=np.float64):
    return Network(table or tiny(), placed, seed=3, dtype=dtype)


def step(network, number, images, labels):
    network.forward(images, Pass(training=True, seed=4, step=number))
    network.backward(labels)
    network.update(0.01)


def assert_same(one, other, allowed=1e-13, kinds=("values", "velocities")):
    for kind in kinds:
        for name in one.parameters:
            a, b = one.get(kind, name), other.get(kind, name)
            assert abs(a - b).max() <= allowed * max(abs(a).max(), 1e-30), f"{kind} of {name}"


@pytest.mark.parametrize("where", ["0", "0,0", "0,1", "1", "2,3"])
def test_a_step_and_a_checkpoint_to_the_cpu_and_back(rng, tmp_path, where):
    placed, table = gpus(where), nets.build("mini", (1, 12, 12), 4)
    allowed = 1e-13 if SOFT else 1e-11  # a card's exp and pow round differently
    images, labels = 40 * rng.standard_normal((1, 12, 12, 3)), np.array([1, 0, 3], np.int32)
    on_cpu, on_gpu = net(CPU, table), net(placed, table)
    assert_same(on_cpu, on_gpu, 0)
    for each in on_cpu, on_gpu:
        step(each, 0, images, labels)
    assert_same(on_cpu, on_gpu, allowed, kinds=("values", "velocities", "gradients"))
    for number, (saved, other) in enumerate([(on_gpu, CPU), (on_cpu, placed)]):
        path = tmp_path / f"{number}.h5"
        checkpoint.save(path, saved, settings={}, state={}, mean=np.zeros((1, 14, 14)), classes=list("abcd"))
        continued = net(other, table)
        checkpoint.Checkpoint(path).restore(continued)
        assert_same(saved, continued, 0)
        if where == "0,1":
            step(saved, 1, images, labels)
            step(continued, 1, images, labels)
            assert_same(saved, continued, allowed)


@pytest.mark.parametrize("where, math, allowed", [("2", "fp32", 2e-6), ("2,3", "fp32", 2e-6), ("2", "tf32", 3e-3)])
def test_a_step_with_tensor_cores(rng, monkeypatch, where, math, allowed):
    """Float32, against the CPU's float64: the whole net's gradients, as a share of their norms."""
    placed = gpus(where)
    monkeypatch.setattr(precision, "_math", math)
    assert all(platform.gpus().tensor_cores(device.number) for device in placed)
    images, labels = rng.standard_normal((1, 8, 8, 5)), np.array([1, 0, 3, 3, 2], np.int32)
    expected, result = net(CPU), net(placed, dtype=np.float32)
    for each in expected, result:
        each.forward(images.astype(each.dtype), Pass(training=True, seed=4, step=0))
        each.backward(labels)
    for name in expected.parameters:
        a, b = expected.get("gradients", name), result.get("gradients", name)
        assert np.linalg.norm(a - b) <= allowed * np.linalg.norm(a), name


def trainer(dataset, path, placed, **options):
    return trainer_of(net(placed, tiny(dataset.height * 7 // 8), **options), dataset, path, {**SETTINGS, "epochs": 2})


def trained(dataset, path, placed):
    run = trainer(dataset, path, placed)
    run.train()
    return run.network, [json.loads(line) for line in (path / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    with Dataset(small_set(tmp_path_factory.mktemp("data") / "squares.h5", size=10, train=12, val=5)) as opened:
        yield opened


@pytest.fixture(scope="module")
def on_cpu(dataset, tmp_path_factory):
    """(the net, its log) after two epochs on the CPU."""
    return trained(dataset, tmp_path_factory.mktemp("cpu") / "run", CPU)


@pytest.mark.parametrize("where, mode, seed", [
    ("0", "late", 0), ("1", "late", 0), ("0,0", "late", 0), ("0,1", "late", 0), ("0,1", "skewed", 0),
    *[("0,1", "random", seed) for seed in (1, 2, 3)], *[("2,3", "random", seed) for seed in (1, 2, 3)]])
def test_two_epochs_of_training(dataset, on_cpu, tmp_path, where, mode, seed):
    """The same as on the CPU, in whatever order the devices work; so are ten crops by the net that came out."""
    placed = gpus(where)
    with in_order(mode, seed):
        network, lines = trained(dataset, tmp_path / "run", placed)
        ten = evaluate(network, dataset, crops=10, batch=20)
    assert_same(on_cpu[0], network)
    for line, expected in zip(lines, on_cpu[1], strict=True):
        for key in "train_loss", "train_top1", "val_loss", "val_top1", "val_top5":
            assert line[key] == pytest.approx(expected[key], rel=1e-12)
    assert ten == pytest.approx(evaluate(on_cpu[0], dataset, crops=10, batch=20), rel=1e-12)


@pytest.mark.parametrize("where", ["0", "0,1"])
def test_stopped_and_resumed_is_bit_identical(dataset, tmp_path, where):
    placed = gpus(where)
    trained(dataset, tmp_path / "whole", placed)
    for number, until in enumerate((2, 5, 6)):
        part = trainer_of(net(placed, tiny(dataset.height * 7 // 8)), dataset, tmp_path / "parts", {**SETTINGS, "epochs": 2},
                          resume=number > 0)
        part.stop = lambda part=part, until=until: part.state.step >= until and until < 6
        if until < 6:
            with pytest.raises(Stopped):
                part.train()
        else:
            part.train()
    for name in "checkpoint-last.h5", "checkpoint-best.h5":
        assert_same_arrays(tmp_path / "whole" / name, tmp_path / "parts" / name)


def test_a_loss_that_is_not_finite_names_its_layer(rng, dataset, tmp_path):
    run = trainer(dataset, tmp_path / "run", gpus("0,1"))
    run.network.set("values", "conv2.weight", np.full(run.network.parameters["conv2.weight"].shape, np.nan))
    before = {name: run.network.get("values", name) for name in run.network.parameters}
    images = rng.standard_normal((1, 8, 8, 3))
    for _ in range(2):
        run.step(images, np.array([1, 0, 3], np.int32))
    for name, value in before.items():  # nothing changes, on either GPU, from the first bad step on
        np.testing.assert_array_equal(run.network.get("values", name), value)
    with pytest.raises(CpnetError, match=r"the loss is nan at step 0 \(noticed 1 step later\): first in layer conv2"):
        run.read(images)


def test_gradients_of_operations_and_layers():
    device = gpus("1", 1)[0]
    rows = [*gradcheck.operations(device), *gradcheck.every_layer(device)]
    assert [row for row in rows if not row[1] <= gradcheck.TOLERANCE] == []


def test_gradients_of_the_net():
    gpus("0")
    rows = list(islice(gradcheck.network("mini", "0", image=(1, 10, 10), images=1), 2))
    assert [name for name, _ in rows] == ["mini on 0: conv1.weight", "mini on 0: conv1.bias"]
    assert all(error <= gradcheck.TOLERANCE for _, error in rows)


def test_what_does_not_fit_is_refused():
    one, other = (device.put(np.ones(3)) for device in gpus("0,1"))
    single = gpus("1", 1)[0].put(np.ones(3, np.float32))
    memory.copy([(one, other)])
    for to, source in (one, np.ones(3)), (np.ones(3), one), (one, other[:2]), (one, single):
        with pytest.raises(TypeError, match="^copy: from "):
            memory.copy([(to, source)])
    with pytest.raises(TypeError, match="not contiguous"):
        memory.copy([(one[::2], other[::2])])


# GPUs by name, on a machine that may have none


class Found:
    """What devices.py asks of gpus()."""

    def __init__(self, names, together=True):
        self.names, self.together = names, together

    def count(self):
        return len(self.names)

    def name(self, number):
        return self.names[number]

    def unfit(self, number):
        return f"GPU {number} is too old" if self.names[number] == "O" else ""

    def processors(self, number):
        return {"A": 10, "B": 20, "O": 30}[self.names[number]]

    def reaches(self, one, other):
        return self.together


@pytest.fixture
def found(monkeypatch):
    def find(*names, **options):
        monkeypatch.setattr(devices, "driver_installed", lambda: True)
        monkeypatch.setattr(devices, "gpus", lambda: Found(names, **options))
    return find


@pytest.mark.parametrize("text, numbers", [("0", [0]), ("1", [1]), ("0,1", [0, 1]), ("0,0", [0, 0])])
def test_gpus_by_number(found, text, numbers):
    found("A", "A")
    assert [(each.number, each.name) for each in devices.named(text, 2)] == [(k, f"GPU {k}, A") for k in numbers]
    assert devices.remarks(devices.named(text, 2)) == []


@pytest.mark.parametrize("names, count, text, line", [
    ("A", 2, "0", "--devices 0, A; or choose --devices cpu"),
    ("AA", 2, "0,1", "--devices 0,1, A, each with columns of its own; or choose --devices 0"),
    ("AA", 1, "0", "--devices 0, A; idle: GPU 1 (A); or choose --devices cpu"),
    ("AB", 2, "1", "--devices 1, B; idle: GPU 0 (A); or choose --devices cpu"),
    ("OAO", 2, "1", "--devices 1, A; idle: GPU 0 (O), 2 (O); or choose --devices cpu"),
    ("BAA", 2, "1,2", "--devices 1,2, A, each with columns of its own; idle: GPU 0 (B); or choose --devices 1"),
    ("AAA", 2, "0,1", "--devices 0,1, A, each with columns of its own; idle: GPU 2 (A); or choose --devices 0"),
    ("AAA", 4, "0,1", "--devices 0,1, A, each with columns of its own; idle: GPU 2 (A); or choose --devices 0"),
    ("OO", 2, "cpu", "on the CPU: GPU 0 is too old"), ("", 2, "cpu", "")])
def test_the_best_there_is(found, names, count, text, line):
    found(*names)
    assert devices.best(count) == (text, line)
    assert len(devices.named(text, count)) == len(text.split(","))


def test_remarks(found):
    found("A", "B", together=False)
    unequal, apart = devices.remarks(devices.named("0,1", 2))
    assert unequal.startswith("the GPUs are unequal (A, B)")
    assert apart.startswith("GPUs 0 and 1 cannot reach each other's memory: what crosses between them is staged in pinned")
    assert devices.remarks(devices.named("0,0", 2)) == devices.remarks(CPU * 2) == []


@pytest.mark.parametrize("text, message", [
    ("3", r"--devices 3: there is no GPU 3; there is 0 \(A\), 1 \(A\), 2 \(O\)$"), ("cpu,0", "--devices cpu,0: a net lies on"),
    ("-1", "--devices -1: there is no device '-1'"), ("0,0,0", "--devices 0,0,0: 2 columns cannot be shared"),
    ("2", "--devices 2: GPU 2 is too old$")])
def test_gpus_that_do_not_fit(found, text, message):
    found("A", "A", "O")
    with pytest.raises(CpnetError, match="^" + message):
        devices.named(text, 2)

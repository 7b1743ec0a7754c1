"""Nets on GPUs: on one, with both columns on one, and with each on its own. The GPUs are emulated, and real where there are
any; an array that was not copied to an emulated GPU is refused by its kernels. The whole way from the data set to the
checkpoint and back."""
import json
import sys
from collections import defaultdict
from contextlib import contextmanager
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest

from cpnet import checkpoint, columns, cupy_gpus, gradcheck, launch, nets
from cpnet.columns import Device
from cpnet.errors import CpnetError
from cpnet.evaluate import evaluate
from cpnet.layers import Pass
from cpnet.network import Network
from data.dataset import Dataset
from tests import cuemu, device
from tests.device import Emulated
from tests.helpers import missing, small_set, trainer_of

cuemu.require()
CPU = [Device()]
ONE, TWICE, TWO = [Emulated("gpu 0")], [Emulated("gpu 0")] * 2, [Emulated("gpu 0"), Emulated("gpu 1")]
SETTINGS = dict(epochs=1, batch=4, lr=0.01, momentum=0.9, decay=0.0005, schedule="2", seed=0, mirror=True, colour=True,
                checkpoint_minutes=1e9, loader_threads=1)


@pytest.fixture(autouse=True)
def one_order(monkeypatch):
    monkeypatch.setattr(device, "SEEDS", (1,))


def net(placed, crop=12, **options):
    return Network(nets.build("mini", (1, crop, crop), 4, **options), placed, seed=3, dtype=np.float64)


def step(network, number, images, labels):
    network.forward(images, Pass(training=True, seed=4, step=number))
    network.backward(labels)
    network.update(0.01)


def assert_same(one, other, allowed=1e-13, kinds=("values", "velocities")):
    for kind in kinds:
        for name in one.parameters:
            a, b = one.get(kind, name), other.get(kind, name)
            assert abs(a - b).max() <= allowed * max(abs(a).max(), 1e-30), f"{kind} of {name}"


PLACES = {"emulated 0": ONE, "emulated 0,0": TWICE, "emulated 0,1": TWO}


@pytest.mark.parametrize("where", [*PLACES, "0", "0,0", "0,1"])
def test_a_step_and_a_checkpoint_to_the_cpu_and_back(rng, tmp_path, where):
    if where not in PLACES and missing(where):
        pytest.skip(missing(where))
    placed = PLACES.get(where) or columns.devices(where, 2)
    allowed = 1e-13 if where in PLACES else 1e-11  # a card's exp and pow round differently
    images, labels = 40 * rng.standard_normal((1, 12, 12, 3)), np.array([1, 0, 3], np.int32)
    on_cpu, on_gpu = net(CPU), net(placed)
    assert_same(on_cpu, on_gpu, 0)
    for each in on_cpu, on_gpu:
        step(each, 0, images, labels)
    assert_same(on_cpu, on_gpu, allowed, kinds=("values", "velocities", "gradients"))
    for number, (saved, other) in enumerate([(on_gpu, CPU), (on_cpu, placed)]):
        path = tmp_path / f"{number}.h5"
        checkpoint.save(path, saved, settings={}, state={}, mean=np.zeros((1, 14, 14)), classes=list("abcd"))
        continued = net(other)
        checkpoint.Checkpoint(path).restore(continued)
        assert_same(saved, continued, 0)
        if placed is not TWICE and placed is not ONE:
            step(saved, 1, images, labels)
            step(continued, 1, images, labels)
            assert_same(saved, continued, allowed)


def trainer(dataset, path, placed):
    crop = dataset.height * 7 // 8
    return trainer_of(net(placed, crop), dataset, path, SETTINGS)


def trained(dataset, path, placed):
    run = trainer(dataset, path, placed)
    run.train()
    return run.network, json.loads((path / "log.jsonl").read_text())


def test_an_epoch_of_training(tmp_path):
    with Dataset(small_set(tmp_path / "squares.h5", size=14, train=8, val=3)) as dataset:
        (on_cpu, expected), (on_gpu, line) = (trained(dataset, tmp_path / name, placed) for name, placed in
                                              (("cpu", CPU), ("gpu", TWO)))
        assert_same(on_cpu, on_gpu)
        for key in "train_loss", "train_top1", "val_loss", "val_top1", "val_top5":
            assert line[key] == pytest.approx(expected[key], rel=1e-12)
        ten = [evaluate(network, dataset, crops=10, batch=20) for network in (on_cpu, on_gpu)]
        assert ten[1] == pytest.approx(ten[0], rel=1e-12)


def test_a_loss_that_is_not_finite_names_its_layer(rng, tmp_path):
    with Dataset(small_set(tmp_path / "squares.h5", size=14, train=8, val=3)) as dataset:
        run = trainer(dataset, tmp_path / "run", TWO)
    run.network.set("values", "conv3.weight", np.full(run.network.parameters["conv3.weight"].shape, np.nan))
    before = {name: run.network.get("values", name) for name in run.network.parameters}
    for _ in range(2):
        run.step(rng.standard_normal((1, 12, 12, 3)), np.array([1, 0, 3], np.int32))
    for name, value in before.items():  # nothing changes, on either GPU, from the first bad step on
        np.testing.assert_array_equal(run.network.get("values", name), value)
    with pytest.raises(CpnetError, match=r"the loss is nan at step 0 \(noticed 1 step later\): first in layer conv3"):
        run.read(rng.standard_normal((1, 12, 12, 3)))


def test_gradients_of_operations_and_layers():
    rows = [*gradcheck.operations(TWO[1]), *gradcheck.every_layer(TWO[1])]
    assert [row for row in rows if not row[1] <= gradcheck.TOLERANCE] == []


def test_gradients_of_the_net(monkeypatch):
    monkeypatch.setattr(columns, "devices", lambda text, count: ONE)
    rows = list(islice(gradcheck.network("mini", "0", image=(1, 10, 10), images=1), 2))
    assert [name for name, _ in rows] == ["mini on 0: conv1.weight", "mini on 0: conv1.bias"]
    assert all(error <= gradcheck.TOLERANCE for _, error in rows)


def test_what_does_not_fit_is_refused():
    one, other = (where.put(np.ones(3)) for where in TWO)
    launch.copy([(one, other)])
    for to, source in (one, np.ones(3)), (np.ones(3), one), (one, other[:2]), (one, TWO[1].put(np.ones(3, np.float32))):
        with pytest.raises(TypeError, match="^copy: from "):
            launch.copy([(to, source)])
    with pytest.raises(TypeError, match="not contiguous"):
        launch.copy([(one[::2], other[::2])])


# The order of copies between GPUs: streams that know what has been done before whatever they are given next


class Stream:
    def __init__(self, non_blocking=False):
        self.known, self.ptr = set(), id(self)

    def record(self, event):
        event.known = frozenset(self.known)
        return event

    def wait_event(self, event):
        self.known |= event.known


class FakeCupy:
    """As much of CuPy as cupy_gpus.Cupy.copy needs."""

    def __init__(self):
        self.cuda, self.runtime = self, self
        self.current, self.streams, self.copies = 0, defaultdict(Stream), {}
        self.Stream = Stream

    def Event(self, disable_timing):
        return SimpleNamespace()

    @contextmanager
    def Device(self, number):
        before, self.current = self.current, number
        yield
        self.current = before

    def get_current_stream(self):
        return self.streams[self.current]

    def array(self, name, device):
        def copy_from_device_async(source, nbytes, stream):
            self.copies[name] = frozenset(stream.known)
            stream.known.add(name)
        data = SimpleNamespace(copy_from_device_async=copy_from_device_async)
        return SimpleNamespace(data=data, nbytes=8, device=SimpleNamespace(id=device))


def test_copies_between_gpus_are_ordered():
    fake = FakeCupy()
    platform = object.__new__(cupy_gpus.Cupy)
    platform.cupy, platform.copy_streams = fake, {}
    for number in 0, 1:
        fake.streams[number].known.add(f"work on {number}")
    platform.copy([(fake.array("0 to 1", 1), fake.array("a", 0)), (fake.array("1 to 0", 0), fake.array("b", 1)),
                   (fake.array("0 to 0", 0), fake.array("a", 0))])
    work = {"work on 0", "work on 1"}
    assert fake.copies["0 to 1"] == fake.copies["1 to 0"] == work  # after both devices' work, and at the same time
    assert "work on 0" in fake.copies["0 to 0"] and not fake.copies["0 to 0"] & {"0 to 1", "1 to 0"}
    for number in 0, 1:  # whoever goes on knows that both copies are done: neither content nor source is in use
        assert fake.streams[number].known >= {f"work on {number}", "0 to 1", "1 to 0"}
    assert fake.current == 0 and sorted(platform.copy_streams) == [0, 1]


# GPUs by name, on a machine that may have none


class Found:
    """What columns.py asks of launch.gpus()."""

    def __init__(self, names, together=True):
        self.names, self.together = names, together

    def count(self):
        return len(self.names)

    def name(self, number):
        return self.names[number]

    def processors(self, number):
        return {"A": 10, "B": 20}[self.names[number]]

    def reaches(self, one, other):
        return self.together


@pytest.fixture
def found(monkeypatch):
    return lambda *names, **options: monkeypatch.setattr(launch, "gpus", lambda: Found(names, **options))


@pytest.mark.parametrize("text, numbers", [("0", [0]), ("1", [1]), ("0,1", [0, 1]), ("0,0", [0, 0])])
def test_gpus_by_number(found, text, numbers):
    found("A", "A")
    assert [(each.number, each.name) for each in columns.devices(text, 2)] == [(k, f"GPU {k}, A") for k in numbers]
    assert columns.remarks(columns.devices(text, 2)) == []


@pytest.mark.parametrize("names, count, text, line", [
    ("A", 2, "0", "--devices 0, A; or choose --devices cpu"),
    ("AA", 2, "0,1", "--devices 0,1, A, each with columns of its own; or choose --devices 0"),
    ("AA", 1, "0", "--devices 0, A; idle: GPU 1 (A); or choose --devices cpu"),
    ("AB", 2, "1", "--devices 1, B; idle: GPU 0 (A); or choose --devices cpu"),
    ("BAA", 2, "1,2", "--devices 1,2, A, each with columns of its own; idle: GPU 0 (B); or choose --devices 1"),
    ("AAA", 2, "0,1", "--devices 0,1, A, each with columns of its own; idle: GPU 2 (A); or choose --devices 0"),
    ("AAA", 4, "0,1", "--devices 0,1, A, each with columns of its own; idle: GPU 2 (A); or choose --devices 0"),
    ("", 2, "cpu", "")])
def test_the_best_there_is(found, names, count, text, line):
    found(*names)
    assert columns.choose(count) == (text, line)
    assert len(columns.devices(text, count)) == len(text.split(","))


def test_remarks(found):
    found("A", "B", together=False)
    unequal, apart = columns.remarks(columns.devices("0,1", 2))
    assert unequal.startswith("the GPUs are unequal (A, B)")
    assert apart.startswith("GPUs 0 and 1 cannot reach each other's memory: what crosses between them is staged in pinned")
    assert columns.remarks(columns.devices("0,0", 2)) == columns.remarks(CPU * 2) == []


@pytest.mark.parametrize("text, message", [
    ("2", r"--devices 2: there is no GPU 2; there is 0 \(A\), 1 \(A\)$"), ("cpu,0", "--devices cpu,0: a net lies on"),
    ("-1", "--devices -1: there is no device '-1'"), ("0,0,0", "--devices 0,0,0: 2 columns cannot be shared")])
def test_gpus_that_do_not_fit(found, text, message):
    found("A", "A")
    with pytest.raises(CpnetError, match="^" + message):
        columns.devices(text, 2)


def test_without_cupy_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    launch.gpus.cache_clear()
    with pytest.raises(CpnetError, match=r"^--devices 0: CuPy cannot be used \(.*\): pip install -r requirements-cuda13.txt$"):
        columns.devices("0", 2)
    monkeypatch.setattr(columns.shutil, "which", lambda name: None)
    assert columns.choose(2) == ("cpu", "")
    monkeypatch.setattr(columns.shutil, "which", lambda name: "/usr/bin/" + name)
    text, line = columns.choose(2)
    assert text == "cpu" and line.endswith("pip install -r requirements-cuda13.txt") and "\n" not in line

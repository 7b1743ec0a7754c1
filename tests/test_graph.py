"""The step as graphs: what is replayed does the same as what is launched, bit by bit. The GPUs are emulated."""
import json
from types import SimpleNamespace

import numpy as np
import pytest

from cpnet import cupy_gpus, launch, nets
from cpnet.columns import Device
from cpnet.errors import CpnetError
from cpnet.evaluate import Stopped
from cpnet.graph import GraphStep
from cpnet.layers import LRN, Conv, Dropout, Linear, MaxPool, ReLU
from cpnet.network import Network
from cpnet.step import Step
from data.dataset import Dataset
from tests import cuemu, device
from tests.device import Emulated, host
from tests.helpers import assert_same_arrays, run, small_set, trainer_of

cuemu.require()
GPU = Emulated("gpu 0")
RATES = 0.01, 0.01, 0.01, 0.001, 0.002


@pytest.fixture(autouse=True)
def one_order(monkeypatch):
    monkeypatch.setattr(device, "SEEDS", (1,))


def network(placed=(GPU,), size=8):
    """All kinds of layers, as small as they can be."""
    table = nets.Table({"name": "tiny", "image": (1, size, size), "classes": 4}, (1, size, size), 2, [
        Conv("conv1", 4, 3, pad=1, reads="all", std=0.3), ReLU("relu1"), LRN("lrn1"), MaxPool("pool1"),
        Conv("conv2", 4, 3, pad=1, std=0.3), ReLU("relu2"), Linear("fc3", 8, std=0.3), ReLU("relu3"), Dropout("dropout3"),
        Linear("fc4", 4, std=0.3, undivided=True)], 0.01, 0.0005)
    return Network(table, list(placed), seed=3)


def batches(rng, count, images=3):
    return [(40 * rng.standard_normal((1, 8, 8, images), dtype=np.float32), rng.integers(4, size=images).astype(np.int32))
            for _ in range(count)]


def same_bits(one, other):
    for kind in "values", "velocities", "gradients":
        for a, b in zip(getattr(one, kind), getattr(other, kind), strict=True):
            np.testing.assert_array_equal(host(a), host(b))


@pytest.mark.parametrize("on_device", [False, True], ids=["NumPy batches", "batches on the device"])
def test_a_replayed_step_is_the_eager_one(rng, on_device):
    """Five steps of other images, labels, dropped neurons and rates; the last three are replays."""
    eager, graph = (kind(network(), seed=7) for kind in (Step, GraphStep))
    for each in eager, graph:
        each.restart(0, 0, 40)
    for number, (batch, rate) in enumerate(zip(batches(rng, len(RATES)), RATES, strict=True), 40):
        eager(*batch, step=number, rate=rate)
        graph(*(map(GPU.put, batch) if on_device else batch), step=number, rate=rate)
        same_bits(eager.network, graph.network)
        assert eager.read() == graph.read() and graph.read()[2] == number + 1
    assert all(isinstance(captured, device.Graph) for captured in graph.graphs.values()) and len(graph.graphs) == 2
    with pytest.raises(ValueError, match=r"a graph of images \(1, 8, 8, 3\), not \(1, 8, 8, 5\)"):
        graph(*batches(rng, 1, 5)[0], step=45, rate=0.1)


def test_each_thing_that_changes_reaches_a_replay(rng):
    """A step from the same weights, replayed with one thing changed, is another step."""
    work = GraphStep(network(), seed=7)
    (images, labels), (other, _) = batches(rng, 2)
    start = {kind: host(getattr(work.network, kind)[0]).copy() for kind in ("values", "velocities")}

    def outcome(images=images, labels=labels, step=1, rate=0.01):
        for kind, array in start.items():
            launch.assign(getattr(work.network, kind)[0], array)
        work.restart(0, 0, step)
        work(images, labels, step=step, rate=rate)
        return host(work.network.values[0]).tobytes()

    outcome(), outcome()
    expected = outcome()
    assert outcome() == expected
    changes = {"images": other, "labels": labels[::-1].copy() if labels[0] != labels[-1] else (labels + 1) % 4, "step": 2,
               "rate": 0.02}
    assert len({expected, *(outcome(**{name: value}) for name, value in changes.items())}) == 5


def test_a_larger_batch_in_between_takes_nothing_from_the_graph(rng):
    """It makes the layers set more memory aside; the graph goes on with its own."""
    eager, graph = (kind(network(), seed=7) for kind in (Step, GraphStep))
    between = batches(rng, 1, 9)[0][0]
    for number, batch in enumerate(batches(rng, 5)):
        outputs = []
        for each in eager, graph:
            each(*batch, step=number, rate=0.01)
            if number in (0, 2, 3):
                outputs.append(host(each.network.forward(between)).copy())
        same_bits(eager.network, graph.network)
        assert not outputs or np.array_equal(*outputs)


def test_a_step_that_is_not_finite_changes_nothing_and_says_which_it_was(rng):
    eager, graph = (kind(network(), seed=7) for kind in (Step, GraphStep))
    given = batches(rng, 6)
    given[3][1][1] = -1  # no class
    for each in eager, graph:
        for number, batch in enumerate(given):
            each(*batch, step=number, rate=0.01)
            if number == 2:
                kept = host(each.network.values[0]).copy()
        assert np.isfinite(kept).all()
        np.testing.assert_array_equal(host(each.network.values[0]), kept)
        loss, _, steps = each.read()
        assert np.isnan(loss) and steps == 3


def test_a_capture_runs_nothing_and_a_launch_reads_what_is_there():
    x, y = GPU.put(np.ones(5, np.float32)), GPU.put(np.zeros(5, np.float32))
    graph = launch.capture(x, lambda: launch.copy([(y, x)]))
    assert host(y).tolist() == [0] * 5
    launch.assign(x, np.full(5, 7, np.float32))
    graph.launch()
    assert host(y).tolist() == [7] * 5


@pytest.mark.parametrize("work, what", [
    (lambda x: launch.to_host(x), "copied to the host"), (lambda x: launch.assign(x, np.ones(5)), "copied from the host"),
    (lambda x: launch.empty((2, 3), np.float32, x), r"memory for \(2, 3\)"), (lambda x: x + 1, "outside a kernel"),
    (lambda x: np.sum(x), "a NumPy function")])
def test_what_cannot_be_captured_is_refused(work, what):
    x = GPU.put(np.ones(5))
    with pytest.raises((RuntimeError, TypeError), match=what):
        launch.capture(x, lambda: work(x))
    launch.to_host(x)  # the capture is over


def test_a_step_that_allocates_cannot_be_captured(rng, monkeypatch):
    work = GraphStep(network(), seed=7)
    monkeypatch.setattr(work, "array", lambda name, shape, dtype: GPU.empty(shape, dtype))
    given = batches(rng, 2)
    work(*given[0], step=0, rate=0.01)
    work.graphs = {"passes": None}
    monkeypatch.setattr(work, "_fixed", lambda name, values: GPU.put(values))
    with pytest.raises(RuntimeError, match="memory for .* is asked for while a graph is captured"):
        work(*given[1], step=1, rate=0.01)


def test_graphs_are_for_one_gpu():
    for placed in [Device()], [Device()] * 2, [GPU, Emulated("gpu 1")]:
        with pytest.raises(CpnetError, match="--graph needs a net on one GPU"):
            GraphStep(network(placed))


def test_the_option_is_refused_before_anything_is_written(tmp_path):
    done = run("--graph", "--devices", "cpu", "--runs", tmp_path / "runs", check=1)
    assert done.stderr == "error: --graph needs a net on one GPU: choose --devices 0, or --no-graph\n"
    assert not (tmp_path / "runs").exists()


def trainer(dataset, path, *, graph, resume=False, stop=lambda: False):
    net = network(size=dataset.height * 7 // 8)
    settings = dict(epochs=2, batch=4, lr=0.01, momentum=0.9, decay=0.0005, schedule="1", seed=0, mirror=True, colour=True,
                    checkpoint_minutes=1e9, loader_threads=1, graph=graph)
    return trainer_of(net, dataset, path, settings, resume=resume, stop=stop)


def test_training_stopped_and_resumed(tmp_path):
    """Two epochs of three steps with a drop of the rate: the same as without graphs, stopped in mid-epoch or not."""
    with Dataset(small_set(tmp_path / "squares.h5", size=10, train=12, val=4)) as dataset:
        trainer(dataset, tmp_path / "eager", graph=False).train()
        for step in 2, 5:
            part = trainer(dataset, tmp_path / "graph", graph=True, resume=step > 2)
            part.stop = lambda part=part, step=step: part.state.step >= step
            with pytest.raises(Stopped):
                part.train()
        trainer(dataset, tmp_path / "graph", graph=True, resume=True).train()
    for name in "checkpoint-last.h5", "checkpoint-best.h5":
        assert_same_arrays(tmp_path / "eager" / name, tmp_path / "graph" / name)
    lines = [[{key: value for key, value in json.loads(line).items() if key not in ("seconds", "images_per_s")}
              for line in (tmp_path / name / "log.jsonl").read_text().splitlines()] for name in ("eager", "graph")]
    assert lines[0] == lines[1] and len(lines[0]) == 2


def test_a_gpu_is_waited_for_only_when_somebody_asks(tmp_path, monkeypatch):
    """The loss once an epoch, after its last batch; what is read after that is validation's and the files'."""
    with Dataset(small_set(tmp_path / "squares.h5", size=10, train=12, val=4)) as dataset:
        training = trainer(dataset, tmp_path / "run", graph=True)
        monkeypatch.setattr("cpnet.train.READ_SECONDS", 1e9)
        read = []
        monkeypatch.setattr(training, "save", lambda best=False: None)
        monkeypatch.setattr(training, "_validate", lambda: {"loss": 1.0, "top1": 0.5, "top5": 0.0})
        monkeypatch.setattr(device.RUNNER, "to_host", lambda array: read.append(training.state.batch) or host(array).copy())
        training.train()
        assert [batch for batch in read if batch] == [3, 3]


# CuPy's side


class FakeCupy:
    """As much of CuPy as Cupy.capture needs."""

    def __init__(self):
        self.cuda, self.runtime, self.streamCaptureModeThreadLocal = self, self, 1
        self.said = []

    def Stream(self, non_blocking=False):
        assert not non_blocking
        return self

    def begin_capture(self, mode):
        self.said.append(("begin", mode))

    def end_capture(self):
        self.said.append("end")
        return SimpleNamespace(launch=lambda: None)

    def __enter__(self):
        self.said.append("enter")

    def __exit__(self, *error):
        self.said.append("exit")

    def empty(self, shape, dtype):
        return np.empty(shape, dtype)


def test_capture_by_cupy():
    platform = object.__new__(cupy_gpus.Cupy)
    platform.cupy, platform.capturing = fake, _ = FakeCupy(), False
    assert platform.capture(lambda: fake.said.append("work")).launch
    assert fake.said == ["enter", ("begin", 1), "work", "end", "exit"]
    with pytest.raises(RuntimeError, match=r"memory for \(3,\) is asked for while a graph is captured"):
        platform.capture(lambda: platform.empty((3,), np.float32))
    assert fake.said[-2:] == ["end", "exit"] and platform.empty((3,), np.float32).shape == (3,)

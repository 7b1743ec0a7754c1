"""The step as graphs: what is replayed does the same as what is launched, bit by bit, on whichever GPU (tests/gpus.py)."""
import json

import numpy as np
import pytest

from cpnet.errors import CpnetError, Stopped
from cpnet.gpu import graph, memory, platform
from cpnet.gpu.devices import Device
from cpnet.gpu.graph import GraphStep
from cpnet.gpu.memory import to_host
from cpnet.network import Network
from cpnet.step import Step
from data.store.dataset import Dataset
from tests.gpus import gpus, tiny
from tests.helpers import assert_same_arrays, run, small_set, trainer_of

RATES = 0.01, 0.01, 0.01, 0.001, 0.002


def network(where="0", size=8):
    return Network(tiny(size), gpus(where), seed=3)


def batches(rng, count, images=3):
    return [(40 * rng.standard_normal((1, 8, 8, images), dtype=np.float32), rng.integers(4, size=images).astype(np.int32))
            for _ in range(count)]


def same_bits(one, other):
    for kind in "values", "velocities", "gradients":
        for a, b in zip(getattr(one, kind), getattr(other, kind), strict=True):
            np.testing.assert_array_equal(to_host(a), to_host(b))


@pytest.mark.parametrize("where", ["0", "1", "2"])
@pytest.mark.parametrize("on_device", [False, True], ids=["NumPy batches", "batches on the device"])
def test_a_replayed_step_is_the_eager_one(rng, on_device, where):
    """Five steps of other images, labels, dropped neurons and rates; the last three are replays."""
    eager, graph = (kind(network(where), seed=7) for kind in (Step, GraphStep))
    for each in eager, graph:
        each.restart(0, 0, 40)
    for number, (batch, rate) in enumerate(zip(batches(rng, len(RATES)), RATES, strict=True), 40):
        eager(*batch, step=number, rate=rate)
        graph(*(map(graph.first.put, batch) if on_device else batch), step=number, rate=rate)
        same_bits(eager.network, graph.network)
        assert eager.read() == graph.read() and graph.read()[2] == number + 1
    assert all(graph.graphs.values()) and len(graph.graphs) == 2
    with pytest.raises(ValueError, match=r"a graph of images \(1, 8, 8, 3\), not \(1, 8, 8, 5\)"):
        graph(*batches(rng, 1, 5)[0], step=45, rate=0.1)


def test_each_thing_that_changes_reaches_a_replay(rng):
    """A step from the same weights, replayed with one thing changed, is another step."""
    work = GraphStep(network(), seed=7)
    (images, labels), (other, _) = batches(rng, 2)
    start = {kind: to_host(getattr(work.network, kind)[0]) for kind in ("values", "velocities")}

    def outcome(images=images, labels=labels, step=1, rate=0.01):
        for kind, array in start.items():
            memory.assign(getattr(work.network, kind)[0], array)
        work.restart(0, 0, step)
        work(images, labels, step=step, rate=rate)
        return to_host(work.network.values[0]).tobytes()

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
                outputs.append(to_host(each.network.forward(between)))
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
                kept = to_host(each.network.values[0])
        assert np.isfinite(kept).all()
        np.testing.assert_array_equal(to_host(each.network.values[0]), kept)
        loss, _, steps = each.read()
        assert np.isnan(loss) and steps == 3


@pytest.mark.parametrize("where", ["0", "1"])
def test_a_capture_runs_nothing_and_a_launch_reads_what_is_there(order, where):
    """The launch is in the order of its own device, whichever is the current one."""
    (device,) = gpus(where, 1)
    x, y = device.put(np.ones(5, np.float32)), device.put(np.zeros(5, np.float32))
    captured = graph.capture(x, lambda: memory.copy([(y, x)]))
    assert to_host(y).tolist() == [0] * 5
    memory.copy([(x, device.put(np.full(5, 7, np.float32)))])  # still to be done
    captured.launch()
    memory.copy([(x, y)])
    assert to_host(x).tolist() == [7] * 5


REFUSED = {
    "to the host": lambda x: to_host(x), "from the host": lambda x: memory.assign(x, np.ones(5)),
    "an allocation": lambda x: memory.empty((2, 3), np.float32, x), "waiting": lambda x: memory.wait(x, memory.mark(x))}


@pytest.mark.parametrize("work", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_captured_is_refused(work):
    """With the error of what was done, not that of ending a capture that it spoiled; and the GPU is as it was before."""
    x = gpus("0")[0].put(np.ones(5))
    with pytest.raises(Exception) as caught:
        graph.capture(x, lambda: work(x))
    assert "Invalidated" not in str(caught.value)
    assert to_host(x).tolist() == [1] * 5
    graph.capture(x, lambda: memory.copy([(x[:1], x[1:2])])).launch()


def test_an_error_while_capturing_is_the_one_that_is_raised():
    x = gpus("0")[0].put(np.ones(5))

    def work():
        memory.copy([(x[:1], x[1:2])])
        raise ZeroDivisionError("of my own")

    with pytest.raises(ZeroDivisionError, match="of my own"):
        graph.capture(x, work)
    assert to_host(x).tolist() == [1] * 5


def test_a_step_that_allocates_cannot_be_captured(rng, monkeypatch):
    work = GraphStep(network(), seed=7)
    monkeypatch.setattr(work, "array", lambda name, shape, dtype: work.first.empty(shape, dtype))
    given = batches(rng, 2)
    work(*given[0], step=0, rate=0.01)
    work.graphs = {"passes": None}
    monkeypatch.setattr(work, "_fixed", lambda name, values: work.first.put(values))
    with pytest.raises(RuntimeError, match="memory for .* is asked for while a graph is captured"):
        work(*given[1], step=1, rate=0.01)


def test_graphs_are_for_one_gpu():
    for placed in [Device()], [Device()] * 2, gpus("0,1"):
        with pytest.raises(CpnetError, match="--graph needs a net on one GPU"):
            GraphStep(Network(tiny(), placed))


def test_the_option_is_refused_before_anything_is_written(tmp_path):
    done = run("--graph", "--devices", "cpu", "--runs", tmp_path / "runs", check=1)
    assert done.stderr == "error: --graph needs a net on one GPU: choose --devices 0, or --no-graph\n"
    assert not (tmp_path / "runs").exists()


def trainer_at(dataset, path, *, graph, where="0", resume=False, stop=lambda: False):
    net = network(where, size=dataset.height * 7 // 8)
    settings = dict(epochs=2, batch=4, lr=0.01, momentum=0.9, decay=0.0005, schedule="1", seed=0, mirror=True, colour=True,
                    checkpoint_minutes=1e9, loader_threads=1, graph=graph)
    return trainer_of(net, dataset, path, settings, resume=resume, stop=stop)


@pytest.mark.parametrize("where", ["0", "1", "2"])
def test_training_stopped_and_resumed(tmp_path, where):
    """Two epochs of three steps with a drop of the rate: the same as without graphs, stopped in mid-epoch or not."""
    def trainer(*arguments, **options):
        return trainer_at(*arguments, where=where, **options)

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
        training = trainer_at(dataset, tmp_path / "run", graph=True)
        monkeypatch.setattr("cpnet.train.READ_SECONDS", 1e9)
        read = []
        monkeypatch.setattr(training, "save", lambda best=False: None)
        monkeypatch.setattr(training, "_validate", lambda: {"loss": 1.0, "top1": 0.5, "top5": 0.0})
        copy = platform.gpus().to_host
        monkeypatch.setattr(platform.gpus(), "to_host", lambda array: read.append(training.state.batch) or copy(array))
        training.train()
        assert [batch for batch in read if batch] == [3, 3]

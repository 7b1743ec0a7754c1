"""What orders the work of GPUs: each event, wait and synchronisation of the program is taken away in turn, and on softcuda,
which does in the most awkward order whatever nothing orders, one of the scenarios below comes to another end."""
import inspect
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from cpnet.gpu import feed, graph, memory, nvidia, platform
from cpnet.gpu.devices import Device
from cpnet.network import Network
from cpnet.ops import pointwise
from data.store.dataset import Dataset
from tests import softcuda
from tests.gpus import ORDERS, SOFT, gpus, in_order, put, tiny
from tests.helpers import small_set

CPU = Device()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    with Dataset(small_set(tmp_path_factory.mktemp("data") / "set.h5", size=10, train=17, val=5)) as opened:
        yield opened


# Scenarios: each returns what must be the same in every order


def exchange(dataset):
    """Two devices compute, copy to each other, and then write over what was copied, and read what they have got."""
    placed = gpus("0,1")
    x, received = ([put(device, np.arange(64.0) + d) for d, device in enumerate(placed)] for _ in range(2))
    for _ in range(3):
        for d in range(2):
            pointwise.add(x[d], x[d], out=x[d])
        memory.copy([(received[0], x[1]), (received[1], x[0])])
        for d in range(2):
            pointwise.add(x[d], x[d], out=x[d])
        for d in range(2):
            pointwise.add(x[d], received[d], out=x[d])
    return [memory.to_host(array) for array in x]


def feeds(dataset, where="0,1"):
    """Two epochs of the same net, the second begun before the devices have done the first."""
    placed, copies = gpus(where), []
    network = Network(tiny(9), placed, seed=3)
    for epoch in range(2):
        with feed.Feed(network, dataset, "train", batch=3, ring=2, threads=2, epoch=epoch) as batches:
            for images, labels, _ in batches:
                kept = [device.empty(part.shape, part.dtype) for device, part in zip(placed, images, strict=True)]
                kept.append(placed[0].empty(labels.shape, labels.dtype))
                memory.copy(list(zip(kept, [*images, labels], strict=True)))
                copies += kept
    return [memory.to_host(array) for array in copies]


def dropped(dataset):
    """A feed that ends in mid-epoch frees its slots, with a copy out of them still to be done."""
    with softcuda.without_pool(device=False) if SOFT else nullcontext():
        with feed.Feed(Network(tiny(9), gpus("1"), seed=3), dataset, "train", batch=3, ring=6) as batches:
            next(batches)
    return []


def reused(dataset):
    """Pinned memory is written over as soon as `assign` has returned."""
    x = put(gpus("1")[0], np.zeros(8))
    values = memory.pinned(x, 64).view(np.float64)
    values[:] = 1
    memory.assign(x, values)
    values[:] = 2
    return [memory.to_host(x)]


def replay(dataset):
    """A graph of device 1 is launched between other work of that device, which is not the current one."""
    other = gpus("0")[0].put(np.zeros(64))
    x, y = (put(gpus("1")[0], np.ones(64)) for _ in range(2))
    captured = graph.capture(x, lambda: pointwise.add(x, y, out=y))
    for _ in range(2):
        pointwise.add(x, x, out=x)
        pointwise.add(other, other, out=other)  # which makes device 0 the current one
        captured.launch()
        pointwise.add(y, y, out=y)
    return [memory.to_host(x), memory.to_host(y)]


def unnoticed(dataset):
    """Work for the default stream in a capture, which would not be in the graph, is an error."""
    x = put(gpus("0")[0], np.ones(8))
    cuda = platform.gpus().cupy.cuda
    try:
        graph.capture(x, lambda: cuda.runtime.memsetAsync(x.data.ptr, 0, x.nbytes, cuda.Stream.null.ptr))
    except cuda.runtime.CUDARuntimeError:
        return [np.ones(1)]
    return [np.zeros(1)]


def overlap(dataset):
    """The next batch arrives before the device has computed with this one."""
    with in_order("late"), feed.Feed(Network(tiny(9), gpus("0"), seed=3), dataset, "train", batch=3, ring=4) as batches:
        while len(batches.loader._ring.done) < 2:  # so that the second is sent with the first
            time.sleep(0.001)
        next(batches)
        (lane,) = batches.lanes.values()
        lane.wait(lane.arrived)
        return [np.array(lane.used[0].done)]


SCENARIOS = exchange, feeds, dropped, reused, replay, unnoticed, overlap

# (module, what stands there, what stands there instead, the scenarios that notice it)
MUTANTS = {
    "assign: the CPU does not wait": (
        nvidia, "        self._current().synchronize()\n", "        pass\n", reused),
    "copy: not after the receiver's work": (
        nvidia, "            stream.wait_event(ready[device])\n", "", exchange),
    "copy: not after the sender's work": (
        nvidia, "            stream.wait_event(ready[origin])\n", "", exchange),
    "copy: the receiver does not wait": (
        nvidia, "            for device in place:\n", "            for device in place[1:]:\n", exchange),
    "copy: the sender does not wait": (
        nvidia, "            for device in place:\n", "            for device in place[:1]:\n", exchange),
    "copy: its end is marked in another stream": (
        nvidia, "((device, origin), self._record(stream))", "((device, origin), self._record(self._current()))", exchange),
    "copy: in the receiver's own stream, at once": (
        nvidia, "origin, to.nbytes, stream.ptr)", "origin, to.nbytes, self._current().ptr)", exchange),
    "upload: into bytes that are still read": (
        nvidia, "        stream.wait_event(after)\n", "", feeds),
    "upload: its end is marked in another stream": (
        nvidia, "        return self._record(stream)\n", "        return self._record(self._current())\n", feeds),
    "streams of copies wait for the default stream": (
        nvidia, "self.cupy.cuda.Stream(non_blocking=True)", "self.cupy.cuda.Stream()", overlap),
    "follow: does not wait": (
        nvidia, "\n        self._current().wait_event(event)\n", "", feeds),
    "wait: does not wait": (
        nvidia, "        event.synchronize()\n", "        pass\n", feeds),
    "capture: in a stream that the default one does not wait for": (
        nvidia, "stream = self.cupy.cuda.Stream()\n", "stream = self.cupy.cuda.Stream(non_blocking=True)\n", unnoticed),
    "a graph is launched on the current device": (
        nvidia, "        self.platform.use(self.device)\n", "", replay),
    "feed: a slot is filled before it was copied": (
        feed, "        self.loader.keep(functools.partial(_wait, self.lanes, events))\n", "", feeds),
    "feed: crops are cut before their bytes arrive": (
        feed, "        memory.follow(self.mean, sent.arrived[self.device])\n", "", feeds),
    "feed: bytes are written before their crops are cut": (
        feed, "        self.used[sent.turn] = memory.mark(self.mean)\n", "", feeds),
    "feed: slots are freed before they were copied": (
        feed, "                lane.wait(lane.arrived)\n", "                pass\n", dropped),
}

# The same, but nothing can notice them: with the reason
HARMLESS = {
    # Who makes a lane sends it the mean image, and waits for the device to have it.
    "feed: bytes are written before the last feed's crops are cut": (
        feed, "        self.used = [memory.mark(self.mean)] * 2\n",
        "        self.used = [platform.gpus().cupy.cuda.Event()] * 2\n", feeds),
}


def outcome(scenario, dataset, mode, seed):
    """What a scenario returns in this order, or else what was noticed."""
    for streams in platform.gpus().upload_streams, platform.gpus().copy_streams:  # made anew, by the code as it is now
        streams.clear()
    try:
        with in_order(mode, seed):
            result = [array.tobytes() for array in scenario(dataset)]
    except Exception as error:
        result = f"{type(error).__name__}: {error}"
    faults = softcuda.forgive() if SOFT else []
    return faults[0] if faults else result


@pytest.fixture(scope="module")
def expected(dataset):
    """What each scenario returns, as the program stands."""
    return {scenario: outcome(scenario, dataset, *ORDERS[0]) for scenario in SCENARIOS}


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_every_order_comes_to_the_same_end(dataset, expected, scenario):
    assert isinstance(expected[scenario], list), expected[scenario]
    for mode, seed in ORDERS:
        assert outcome(scenario, dataset, mode, seed) == expected[scenario]
    if scenario is exchange:  # and to the right one
        x, received = ([np.arange(64.0) + d for d in range(2)] for _ in range(2))
        for _ in range(3):
            received = [2 * x[1], 2 * x[0]]
            x = [4 * x[d] + received[d] for d in range(2)]
        assert expected[scenario] == [array.tobytes() for array in x]


@pytest.mark.skipif(not SOFT, reason="a card is not awkward enough")
@pytest.mark.parametrize("name", [*MUTANTS, *HARMLESS])
def test_without_it_some_order_comes_to_another(dataset, expected, monkeypatch, name):
    module, old, new, scenario = {**MUTANTS, **HARMLESS}[name]
    replace(monkeypatch, module, old, new)
    noticed = noticed_in(scenario, dataset, expected)
    assert bool(noticed) == (name in MUTANTS), noticed


def noticed_in(scenario, dataset, expected):
    """{order: what came out}, of the orders in which something else came out than it should."""
    found = {f"{mode} {seed}": outcome(scenario, dataset, mode, seed) for mode, seed in ORDERS}
    return {order: what if isinstance(what, str) else "other numbers" for order, what in found.items()
            if what != expected[scenario]}


def replace(monkeypatch, module, old, new):
    """Run a module's classes and functions from now on with `new` in the place of `old`."""
    text = Path(module.__file__).read_text()
    assert text.count(old) == 1, old
    made = {"__name__": module.__name__}
    exec(compile(text.replace(old, new), module.__file__, "exec"), made)
    for name, thing in list(vars(module).items()):
        if getattr(thing, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(thing):
            monkeypatch.setattr(module, name, made[name])
        elif inspect.isclass(thing):
            for key, value in vars(made[name]).items():
                if inspect.isfunction(value):
                    monkeypatch.setattr(thing, key, value)

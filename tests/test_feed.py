"""The way from the loader to the net's devices: the same images and labels as on a CPU, however late a device does its work."""
from types import SimpleNamespace

import numpy as np
import pytest

from cpnet import cupy_gpus, launch, nets
from cpnet.columns import Device
from cpnet.evaluate import evaluate
from cpnet.feed import Feed
from cpnet.network import Network
from data.dataset import Dataset
from data.ring import Health
from tests import cuemu, device
from tests.device import RUNNER, Emulated
from tests.helpers import small_set

cuemu.require()
CPU, ONE, TWICE = [Device()], [Emulated("gpu 0")], [Emulated("gpu 0")] * 2
TWO = [Emulated("gpu 0"), Emulated("gpu 1")]


@pytest.fixture(autouse=True)
def one_order(monkeypatch):
    monkeypatch.setattr(device, "SEEDS", (1,))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    path = small_set(tmp_path_factory.mktemp("data") / "set.h5", size=10, channels=3, train=17, val=5)
    with Dataset(path) as opened:
        yield opened


def net(placed, channels, crop=9):
    return Network(nets.build("mini", (channels, crop, crop), 4), placed, seed=3, dtype=np.float32)


def epoch(dataset, placed, split="train", **options):
    """[(images of each device, labels, indices)] of an epoch, each copied by its device before the next is asked for."""
    copies = []
    with Feed(net(placed, dataset.channels), dataset, split, **options) as feed:
        assert len(feed) == -(-len(dataset.split(split)) // options["batch"])
        for images, labels, indices in feed:
            parts = images if isinstance(images, list) else [images]
            kept = [each.empty(part.shape, part.dtype) for each, part in zip(placed, parts, strict=True)]
            label = placed[0].empty(labels.shape, labels.dtype)
            launch.copy([*zip(kept, parts, strict=True), (label, labels)])
            copies.append((kept, label, indices))
    return [([launch.to_host(part) for part in kept], launch.to_host(label), indices) for kept, label, indices in copies]


def assert_same_epoch(got, expected):
    assert len(got) == len(expected)
    for (parts, labels, indices), ((right,), right_labels, right_indices) in zip(got, expected, strict=True):
        for part in parts:
            np.testing.assert_array_equal(part, right)
        np.testing.assert_array_equal(labels, right_labels)
        np.testing.assert_array_equal(indices, right_indices)


@pytest.mark.parametrize("placed, options", [
    (ONE, dict(batch=3, ring=2)), (TWICE, dict(batch=4, ring=2)), (TWO, dict(batch=4, ring=3, threads=2)),
    (ONE, dict(batch=4, ring=1)), (TWO, dict(split="val", batch=3, mode="centre", ring=2)),
    (ONE, dict(split="val", batch=2, mode="ten", ring=2))],
    ids=["train", "0,0", "0,1 and two threads", "one slot", "centre on 0,1", "ten views"])
def test_a_device_sees_what_the_cpu_sees(dataset, placed, options):
    expected = epoch(dataset, CPU, **options)
    assert_same_epoch(epoch(dataset, placed, **options), expected)
    for late in "", "uploads":
        with RUNNER.late(late):
            assert_same_epoch(epoch(dataset, placed, **options), expected)


def test_grey_images(tmp_path):
    with Dataset(small_set(tmp_path / "grey.h5", size=10, train=7, val=1)) as grey:
        assert_same_epoch(epoch(grey, ONE, batch=4), epoch(grey, CPU, batch=4))


@pytest.mark.parametrize("broken, late", [("slots", ""), ("arrival", "uploads"), ("buffers", "")])
def test_each_wait_is_needed(dataset, monkeypatch, broken, late):
    """Without any of the three, a device that works late sees other images."""
    expected = epoch(dataset, CPU, batch=3, ring=2)
    if broken == "slots":  # a slot is filled anew before the copy out of it
        monkeypatch.setattr(Feed, "_wait", lambda self, events: None)
    elif broken == "arrival":  # the kernel runs before the copy
        monkeypatch.setattr(launch, "follow", lambda array, event: None)
    else:  # the bytes of the batch after the next arrive before the kernel has read these
        monkeypatch.setattr(launch, "upload", lambda array, values, after: upload_at_once(array, values))
    with pytest.raises((AssertionError, cuemu.CuemuError)), RUNNER.late(late):
        assert_same_epoch(epoch(dataset, ONE, batch=3, ring=2), expected)


def upload_at_once(array, values):
    RUNNER._write(array, values)
    return RUNNER.mark()


def test_a_batch_is_copied_while_the_step_before_computes(dataset):
    steps = []
    with RUNNER.late() as streams:
        with Feed(net(ONE, dataset.channels), dataset, "train", batch=4, ring=4) as feed:
            for number in range(3):
                next(feed)
                streams.give("gpu 0", lambda number=number: steps.append(number))
                feed.lanes[ONE[0]].wait(feed.lanes[ONE[0]].arrived)
                assert len(steps) <= max(0, number - 1)  # the bytes are those of the last batch but one, whose kernel is done
    assert steps == [0, 1, 2]


def test_the_floats_lie_at_one_place(dataset):
    network, places = net(ONE, dataset.channels), set()
    for split in "train", "val", "train":
        with Feed(network, dataset, split, batch=5, mode="train", drop_last=True) as feed:
            places |= {(images[0].ctypes.data, labels.ctypes.data) for images, labels, _ in feed}
    assert len(places) == 1


def test_the_ten_views_of_an_evaluation(dataset):
    results = [evaluate(net(placed, dataset.channels), dataset, crops=10, batch=20) for placed in (CPU, ONE)]
    assert results[0] == pytest.approx(results[1], rel=1e-5)


def test_closing_in_mid_epoch_waits_for_the_copies(dataset):
    with RUNNER.late() as streams:
        feed = Feed(net(ONE, dataset.channels), dataset, "train", batch=4, ring=3)
        next(feed)
        arrived = next(iter(feed.lanes.values())).arrived
        assert not arrived.passed
        feed.close()
        assert arrived.passed and not streams.queues["gpu 0, uploads"]
        assert not any(thread.is_alive() for thread in feed.loader._ring.threads)


def test_an_error_after_good_batches_comes_in_its_place(dataset, monkeypatch):
    """The batch before it, which may be on its way while the next is looked for, is delivered."""
    pixels = dataset.split("train").pixels
    crop = pixels.crop
    monkeypatch.setattr(pixels, "crop", lambda indices, *others: 1 // (13 not in indices) and crop(indices, *others))
    with Feed(net(ONE, dataset.channels), dataset, "train", batch=5, mode="centre", ring=4) as feed:
        assert [next(feed).indices[0] for _ in range(2)] == [0, 5]
        with pytest.raises(Exception, match="batch 2 of 'train' could not be made: ZeroDivisionError"):
            next(feed)


@pytest.mark.parametrize("waited, threads, words", [
    (0.5, 1, ""), (4, 1, "40% of the time the net waited for images: try --loader-threads 2"),
    (4, 64, "40% of the time the net waited for images: all cores are at work")])
def test_who_sets_the_pace(dataset, monkeypatch, waited, threads, words):
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    with Feed(net(CPU, dataset.channels), dataset, "train", batch=5, threads=threads) as feed:
        monkeypatch.setattr(feed.loader, "health", lambda: Health(9, 0.5, 3, waited))
        assert feed.remark(10).startswith(words) and bool(feed.remark(10)) == bool(words)


# What CuPy is asked to do


class Stream:
    def __init__(self, non_blocking=False):
        self.non_blocking, self.given = non_blocking, []

    def record(self, event):
        event.after = list(self.given)
        return event

    def wait_event(self, event):
        self.given.append(("wait", event))


def test_uploads_run_beside_the_device_s_own_stream():
    own, copied = Stream(), []
    cuda = SimpleNamespace(Stream=Stream, get_current_stream=lambda: own,
                           Event=lambda **kind: SimpleNamespace(kind=kind, synchronize=lambda: copied.append("waited")),
                           alloc_pinned_memory=lambda size: bytearray(size + 100))
    platform = object.__new__(cupy_gpus.Cupy)
    platform.cupy, platform.upload_streams = SimpleNamespace(cuda=cuda), {}

    def copy_from_host_async(pointer, size, stream):
        copied.append((pointer, size))
        stream.given.append("copy")

    array = SimpleNamespace(device=SimpleNamespace(id=0), data=SimpleNamespace(copy_from_host_async=copy_from_host_async))
    values = platform.pinned(24)
    assert values.dtype == np.uint8 and values.shape == (24,) and values.flags.writeable
    used = platform.mark()
    arrived = platform.upload(array, values, used)
    assert copied == [(values.ctypes.data, 24)]
    (stream,) = platform.upload_streams.values()
    assert stream.non_blocking and stream is not own and own.given == []  # the device's own work does not wait for it
    assert arrived.after == [("wait", used), "copy"]
    assert arrived.kind == {"block": True, "disable_timing": True}  # the thread that waits sleeps
    platform.follow(arrived)
    assert own.given == [("wait", arrived)]
    platform.wait(arrived)
    assert copied[-1] == "waited"


def test_an_upload_that_does_not_fit_is_refused():
    array = ONE[0].put(np.zeros(8, np.uint8))
    with pytest.raises(TypeError, match=r"^upload: uint8 \(9,\) to uint8 \(8,\)"):
        launch.upload(array, np.zeros(9, np.uint8), None)

"""The way from the loader to the net's devices: the same images and labels as on a CPU, however late a device does its work."""
import gc
import weakref

import numpy as np
import pytest

from cpnet.evaluate import evaluate
from cpnet.gpu import memory
from cpnet.gpu.devices import Device
from cpnet.gpu.feed import Feed
from cpnet.network import Network
from data.loading.ring import Health
from data.store.dataset import Dataset
from tests.gpus import SOFT, gpus, in_order, tiny
from tests.helpers import small_set

CPU = [Device()]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    path = small_set(tmp_path_factory.mktemp("data") / "set.h5", size=10, channels=3, train=17, val=5)
    with Dataset(path) as opened:
        yield opened


def net(placed, channels, crop=9):
    return Network(tiny(crop, channels), placed, seed=3, dtype=np.float32)


def epoch(dataset, placed, split="train", **options):
    """[(images of each device, labels, indices)] of an epoch, each copied by its device before the next is asked for."""
    copies = []
    with Feed(net(placed, dataset.channels), dataset, split, **options) as feed:
        assert len(feed) == -(-len(dataset.split(split)) // options["batch"])
        for images, labels, indices in feed:
            parts = images if isinstance(images, list) else [images]
            kept = [each.empty(part.shape, part.dtype) for each, part in zip(placed, parts, strict=True)]
            label = placed[0].empty(labels.shape, labels.dtype)
            memory.copy([*zip(kept, parts, strict=True), (label, labels)])
            copies.append((kept, label, indices))
    return [([memory.to_host(part) for part in kept], memory.to_host(label), indices) for kept, label, indices in copies]


def assert_same_epoch(got, expected):
    assert len(got) == len(expected)
    for (parts, labels, indices), ((right,), right_labels, right_indices) in zip(got, expected, strict=True):
        for part in parts:
            np.testing.assert_array_equal(part, right)
        np.testing.assert_array_equal(labels, right_labels)
        np.testing.assert_array_equal(indices, right_indices)


EPOCHS = {
    "train": ("0", dict(batch=3, ring=2)), "0,0": ("0,0", dict(batch=4, ring=2)),
    "0,1 and two threads": ("0,1", dict(batch=4, ring=3, threads=2)), "one slot": ("1", dict(batch=4, ring=1)),
    "centre on 2,3": ("2,3", dict(split="val", batch=3, mode="centre", ring=2)),
    "ten views": ("0", dict(split="val", batch=2, mode="ten", ring=2))}


@pytest.mark.parametrize("case", EPOCHS)
def test_a_device_sees_what_the_cpu_sees(dataset, order, case):
    where, options = EPOCHS[case]
    assert_same_epoch(epoch(dataset, gpus(where), **options), epoch(dataset, CPU, **options))


def test_grey_images(tmp_path):
    with Dataset(small_set(tmp_path / "grey.h5", size=10, train=7, val=1)) as grey:
        assert_same_epoch(epoch(grey, gpus("0"), batch=4), epoch(grey, CPU, batch=4))


def test_a_batch_is_copied_while_the_step_before_computes(dataset):
    """Waiting for the bytes of the next batch does not wait for what the device computes: its last event has not passed."""
    with in_order("late"), Feed(net(gpus("0"), dataset.channels), dataset, "train", batch=4, ring=4) as feed:
        for _ in range(3):
            next(feed)
            (lane,) = feed.lanes.values()
            computed = memory.mark(lane.mean)
            lane.wait(lane.arrived)
            assert not SOFT or not computed.done  # a card may have been quick
            memory.wait(lane.mean, computed)


def test_the_floats_lie_at_one_place(dataset):
    network, places = net(gpus("0"), dataset.channels), set()
    for split in "train", "val", "train":
        with Feed(network, dataset, split, batch=5, mode="train", drop_last=True) as feed:
            places |= {(memory.address(images[0]), memory.address(labels)) for images, labels, _ in feed}
    assert len(places) == 1


def test_the_ten_views_of_an_evaluation(dataset):
    results = [evaluate(net(placed, dataset.channels), dataset, crops=10, batch=20) for placed in (CPU, gpus("1"))]
    assert results[0] == pytest.approx(results[1], rel=1e-5)


def test_closing_in_mid_epoch_waits_for_the_copies(dataset):
    with in_order("late"):
        feed = Feed(net(gpus("0"), dataset.channels), dataset, "train", batch=4, ring=3)
        next(feed)
        arrived = next(iter(feed.lanes.values())).arrived
        feed.close()
        assert arrived.done
        assert not any(thread.is_alive() for thread in feed.loader._ring.threads)


@pytest.mark.parametrize("closed", [True, False])
def test_a_feed_that_is_dropped_gives_its_slots_back(dataset, closed):
    """At once, without the garbage collector; pinned memory is dear."""
    network = net(gpus("0"), dataset.channels)
    gc.disable()
    try:
        feed = Feed(network, dataset, "train", batch=4, ring=3)
        next(feed), next(feed)
        slots = [weakref.ref(memory) for memory, _ in feed.loader._ring.work.slots]
        if closed:
            feed.close()
        del feed
        assert [slot() for slot in slots] == [None] * 3
    finally:
        gc.enable()


def test_an_error_after_good_batches_comes_in_its_place(dataset, monkeypatch):
    """The batch before it, which may be on its way while the next is looked for, is delivered."""
    pixels = dataset.split("train").pixels
    crop = pixels.crop
    monkeypatch.setattr(pixels, "crop", lambda indices, *others: 1 // (13 not in indices) and crop(indices, *others))
    with Feed(net(gpus("0"), dataset.channels), dataset, "train", batch=5, mode="centre", ring=4) as feed:
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


def test_an_upload_that_does_not_fit_is_refused():
    array = gpus("0")[0].put(np.zeros(8, np.uint8))
    with pytest.raises(TypeError, match=r"^upload: uint8 \(9,\) to uint8 \(8,\)"):
        memory.upload(array, np.zeros(9, np.uint8), None)

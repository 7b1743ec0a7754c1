"""The loader against a naive reference, one image at a time; and that nothing waits for ever."""

import gc
import os
import time

import numpy as np
import pytest

from cpnet.ops.crops import center_crops
from data.errors import DataError
from data.loading.augment import random_views
from data.loading.loader import Loader
from data.store import crops
from data.store.dataset import Dataset
from data.store.moments import Statistics
from data.store.writer import Writer
from tests.helpers import loader_threads, within

pytestmark = pytest.mark.usefixtures("no_test_hangs")

COUNT = 23


@pytest.fixture(scope="module", params=["grey", "colour"])
def data(request, tmp_path_factory):
    """A data set of 23 images, 1×9×8 or 3×9×8."""
    generator = np.random.default_rng(5)
    shape = (1 if request.param == "grey" else 3, 9, 8)
    path = str(tmp_path_factory.mktemp("loader") / "set.h5")
    images = generator.integers(0, 256, (COUNT, *shape), dtype=np.uint8)
    with Writer(path, ["a", "b", "c"], shape, source="a test") as writer:
        writer.add_split("train", np.arange(COUNT) % 3)
        writer.write("train", 0, images)
        writer.set_statistics(Statistics(images[:7]))
    with Dataset(path) as opened:
        yield opened


def collect(data, **options):
    """Every batch of an epoch, copied, since its buffer is used again."""
    with Loader(data, "train", **options) as loader:
        return [type(b)(b.images.copy(), b.labels.copy(), b.indices.copy()) for b in loader]


def by_index(batches):
    return {int(i): batch.images[..., n] for batch in batches for n, i in enumerate(batch.indices)}


def look(data, index, top, left, mirror, crop, shift=0.0):
    """One image as the net sees it, the plain way: float64 (C, crop, crop)."""
    image = data.read("train", [index])[0].astype(np.float64) - data.mean
    image = image[:, top:top + crop, left:left + crop]
    if mirror:
        image = image[:, :, ::-1]
    return image + np.reshape(shift, (-1, 1, 1))


@pytest.mark.parametrize("strip_bytes", [1, 500, 1 << 20])
def test_train_mode_is_the_naive_one(data, monkeypatch, strip_bytes):
    monkeypatch.setattr(crops, "STRIP_BYTES", strip_bytes)
    views = random_views(COUNT, (data.channels, 9, 8), 6, 3, 2, pca=data.pca)
    assert views.mirror.any() and not views.mirror.all()
    batches = collect(data, batch=5, crop=6, seed=3, epoch=2)
    assert [len(b.indices) for b in batches] == [5, 5, 5, 5, 3]
    seen = by_index(batches)
    assert sorted(seen) == list(range(COUNT)) and list(seen) != list(range(COUNT))
    for i, image in seen.items():
        shift = views.shift[i] if data.pca else 0.0
        expected = look(data, i, views.top[i], views.left[i], views.mirror[i], 6, shift)
        np.testing.assert_allclose(image, expected, atol=1e-4)
    for batch in batches:
        assert batch.images.dtype == np.float32 and batch.images.flags.c_contiguous
        assert batch.images.shape == (data.channels, 6, 6, len(batch.indices))
        assert batch.labels.dtype == np.int32 and batch.indices.dtype == np.int64
        np.testing.assert_array_equal(batch.labels, batch.indices % 3)


def test_centre_mode_is_the_naive_one(data):
    batches = collect(data, batch=10, crop=5, mode="centre")
    np.testing.assert_array_equal(np.concatenate([b.indices for b in batches]), np.arange(COUNT))
    for i, image in by_index(batches).items():
        np.testing.assert_allclose(image, look(data, i, 2, 1, False, 5), atol=1e-4)


def test_ten_mode_is_the_naive_one(data):
    places = [(0, 0), (0, 2), (3, 0), (3, 2), (1, 1)]
    batches = collect(data, batch=9, crop=6, mode="ten", threads=2)
    assert [b.images.shape[-1] for b in batches] == [90, 90, 50]
    for batch in batches:
        n = len(batch.indices)
        assert batch.images.flags.c_contiguous and len(batch.labels) == n
        for v in range(10):
            for i in range(n):
                expected = look(data, batch.indices[i], *places[v % 5], v >= 5, 6)
                np.testing.assert_allclose(batch.images[..., v * n + i], expected, atol=1e-4)


def test_whole_images(data):
    for i, image in by_index(collect(data, batch=4, crop=8, mode="centre")).items():
        np.testing.assert_allclose(image, look(data, i, 0, 0, False, 8), atol=1e-4)


def test_compressed_sets_give_the_same(data, tmp_path):
    path = str(tmp_path / "small.h5")
    with Writer(path, data.classes, data.mean.shape, source="", compress=True) as writer:
        writer.add_split("train", data.splits["train"].labels)
        images = data.read("train", range(COUNT))
        writer.write("train", 0, images)
        writer.set_statistics(Statistics(images[:7]))
    with Dataset(path) as small:
        for a, b in zip(collect(small, batch=7, crop=6), collect(data, batch=7, crop=6), strict=True):
            np.testing.assert_array_equal(a.images, b.images)


def test_threads_ring_batch_and_start_change_nothing(data):
    reference = collect(data, batch=4, crop=6, seed=1)
    for options in (dict(threads=3), dict(threads=2, ring=1), dict(threads=4, ring=2), dict(ring=9, threads=9)):
        for a, b in zip(collect(data, batch=4, crop=6, seed=1, **options), reference, strict=True):
            for x, y in zip(a, b, strict=True):
                np.testing.assert_array_equal(x, y)
    for start in range(7):
        rest = collect(data, batch=4, crop=6, seed=1, start=start, threads=2, ring=4)
        assert len(rest) == 6 - start
        for a, b in zip(rest, reference[start:], strict=True):
            np.testing.assert_array_equal(a.images, b.images)
            np.testing.assert_array_equal(a.indices, b.indices)
    whole = by_index(reference)
    for i, image in by_index(collect(data, batch=7, crop=6, seed=1)).items():
        np.testing.assert_array_equal(image, whole[i])


def test_seed_and_epoch_change_everything(data):
    runs = [collect(data, batch=COUNT, crop=6, seed=s, epoch=e)[0] for s, e in ((0, 0), (0, 1), (1, 0))]
    for i in range(3):
        assert (runs[i].indices != runs[i - 1].indices).any()
        assert (by_index([runs[i]])[0] != by_index([runs[i - 1]])[0]).any()


def test_leaving_out_mirror_or_colour_changes_nothing_else(data):
    views = random_views(COUNT, (data.channels, 9, 8), 6, 0, 0)
    seen = by_index(collect(data, batch=5, crop=6, mirror=False, colour=False))
    for i, image in seen.items():
        np.testing.assert_allclose(image, look(data, i, views.top[i], views.left[i], False, 6), atol=1e-4)


def test_length_and_last_batch(data):
    with Loader(data, "train", batch=5, crop=6) as a, Loader(data, "train", batch=5, crop=6, drop_last=True) as b:
        assert (len(a), len(b)) == (5, 4)
        assert [x.images.shape[-1] for x in b] == [5] * 4
    with Loader(data, "train", batch=5, crop=6, start=3) as loader:
        assert len(loader) == 2 and len(list(loader)) == 2
    with Loader(data, "train", batch=5, crop=6, start=5) as loader:
        assert len(loader) == 0 and list(loader) == []


def test_a_batch_stays_as_it_is_until_the_next_is_asked_for(data):
    """Threads race ahead while the consumer dawdles; the batch it holds must not change, for every size of ring."""
    reference = collect(data, batch=2, crop=6)
    for ring in (1, 2, 3):
        with Loader(data, "train", batch=2, crop=6, ring=ring, threads=3) as loader:
            for expected, batch in zip(reference, loader, strict=True):
                time.sleep(0.005)
                np.testing.assert_array_equal(batch.images, expected.images)


def test_buffers_come_from_allocate_and_are_reused(data):
    made = []

    def allocate(shape, dtype):
        made.append(np.full(shape, np.nan, dtype))
        return made[-1]

    with Loader(data, "train", batch=4, crop=6, ring=2, dtype=np.float64, allocate=allocate) as loader:
        for batch in loader:
            assert batch.images.dtype == np.float64 and np.isfinite(batch.images).all()
            assert any(np.shares_memory(batch.images, buffer) for buffer in made)
    assert len(made) == 2


def test_an_error_in_a_thread_arrives_in_its_place(data, monkeypatch):
    split = data.splits["train"]
    crop = split.pixels.crop
    bad = 4  # file order, batches of 3: image 13 spoils batch 4

    def fail(indices, *others):
        if 13 in indices:
            raise DataError("image 13 is broken")
        crop(indices, *others)

    monkeypatch.setattr(split.pixels, "crop", fail)
    for options in (dict(), dict(threads=3, ring=2), dict(ring=1), dict(threads=5, ring=8)):
        with Loader(data, "train", batch=3, crop=6, mode="centre", **options) as loader:
            good = within(10, lambda loader=loader: [next(loader).indices[0] for _ in range(bad)])
            assert good == [0, 3, 6, 9]
            for _ in range(2):
                with pytest.raises(DataError, match="image 13 is broken"):
                    within(10, lambda loader=loader: next(loader))
        assert not loader_threads()


def test_a_file_cut_short_while_loading(data, tmp_path):
    path = str(tmp_path / "cut.h5")
    with open(data.path, "rb") as source, open(path, "wb") as target:
        target.write(source.read())
    with Dataset(path) as cut:
        os.truncate(path, cut.splits["train"].pixels.places[0] + 12 * cut.mean.size)
        with Loader(cut, "train", batch=5, crop=6, mode="centre", threads=2) as loader:
            with pytest.raises(DataError, match="cut.h5: .*cut short while open"):
                within(10, lambda: [None for _ in loader])


@pytest.mark.parametrize("taken", [0, 1, 5])
def test_close_at_any_time(data, taken):
    for threads, ring in ((1, 1), (2, 4), (4, 2)):
        loader = Loader(data, "train", batch=2, crop=6, threads=threads, ring=ring)
        for _ in range(taken):
            next(loader)
        time.sleep(0.01)  # let the ring fill
        within(10, loader.close)
        within(10, loader.close)
        assert not loader_threads()
        with pytest.raises(RuntimeError, match="closed"):
            within(10, lambda loader=loader: next(loader))


def test_a_dropped_loader_ends_its_threads(data):
    loader = Loader(data, "train", batch=2, crop=6, threads=2)
    next(loader)
    threads = loader_threads()
    del loader
    gc.collect()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


def test_arguments_that_do_not_fit(data):
    good = dict(batch=4, crop=6)
    for error, words, change in [
        (DataError, "no split 'val'; it has train", dict(split="val")),
        (DataError, "cannot cut 9×9 out of images of 9×8", dict(crop=9)),
        (DataError, "cannot cut 0×0", dict(crop=0)),
        (DataError, "23 images, not one full batch of 24", dict(batch=24, drop_last=True)),
        (ValueError, "mode must be one of train, centre, ten", dict(mode="center")),
        (ValueError, "must be at least 1", dict(batch=0)),
        (ValueError, "must be at least 1", dict(threads=0)),
        (ValueError, "must be at least 1", dict(ring=0)),
        (ValueError, "start must be a batch in 0..6, not 7", dict(start=7)),
        (ValueError, "floating-point", dict(dtype=np.uint8)),
        (ValueError, "shuffle must be one of full, blocks, not 'none'", dict(shuffle="none")),
        (ValueError, "rank must be in 0..1, not 2", dict(rank=2, ranks=2)),
        (DataError, "23 images, not one full batch of 24", dict(batch=8, ranks=3, drop_last=True)),
    ]:
        options = {"split": "train", **good, **change}
        with pytest.raises(error, match=words):
            Loader(data, options.pop("split"), **options)


@pytest.mark.parametrize("mode, options", [("train", dict(threads=2)), ("train", dict(mirror=False, colour=False)),
                                           ("centre", {}), ("ten", dict(threads=3, ring=2))])
def test_raw_batches(data, mode, options):
    """Centred and mirrored as a GPU does it (ops/crops), raw batches are the others."""
    expected = collect(data, batch=5, crop=6, mode=mode, seed=2, **options)
    with Loader(data, "train", batch=5, crop=6, mode=mode, seed=2, raw=True, **options) as loader:
        for batch, right in zip(loader, expected, strict=True):
            packed = batch.packed
            assert packed.images.dtype == np.uint8 and packed.images.shape[1:] == (data.channels, 6, 6)
            assert all(np.shares_memory(field, batch.memory) and field.ctypes.data % 4 == 0 for field in packed)
            images = center_crops(packed.images, data.mean, *packed[2:])
            np.testing.assert_array_equal(images, right.images)
            np.testing.assert_array_equal(batch.labels, right.labels)
            np.testing.assert_array_equal(batch.indices, right.indices)


def test_raw_batches_mirrored_here(data):
    def crops(**options):
        with Loader(data, "train", batch=23, crop=8, raw=True, **options) as loader:
            packed = next(loader).packed
            return packed.images.copy(), packed.mirror.copy()

    (as_they_are, mirror), (mirrored, none) = crops(), crops(flip=True)
    assert mirror.any() and not mirror.all() and not none.any()
    as_they_are[mirror] = as_they_are[mirror][..., ::-1]
    np.testing.assert_array_equal(mirrored, as_they_are)


@pytest.mark.parametrize("shuffle", ["full", "blocks"])
@pytest.mark.parametrize("drop_last", [True, False])
def test_ranks_share_one_loader_s_batches(data, shuffle, drop_last):
    options = dict(crop=6, seed=4, epoch=1, shuffle=shuffle, drop_last=drop_last)
    whole = collect(data, batch=6, **options)
    shares = [collect(data, batch=2, rank=rank, ranks=3, **options) for rank in range(3)]
    assert [len(share) for share in shares] == [len(whole)] * 3
    for batch, *parts in zip(whole, *shares, strict=True):
        np.testing.assert_array_equal(np.concatenate([part.indices for part in parts]), batch.indices)
        np.testing.assert_array_equal(np.concatenate([part.images for part in parts], axis=-1), batch.images)

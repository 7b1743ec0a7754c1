"""Crops of images wherever they are kept, by compiled code: the right bytes, and no harm where a file is not what it was."""
import gc
import os

import numpy as np
import pytest

from data.errors import DataError
from data.loading.augment import centre_view, random_views, ten_views
from data.loading.loader import Loader
from data.store import crops, pixels
from data.store.dataset import Dataset
from data.store.pixels import FilePixels, JpegPixels, MemoryPixels
from tests.helpers import small_set

SHAPE = 3, 11, 29


class ArrayPixels(JpegPixels):
    """Images that come one by one, as JPEGs do."""

    def __init__(self, images):
        self.images, self.shape = images, images.shape[1:]

    def _load(self, image, out):
        out[...] = self.images[image]

    def _check_unchanged(self):
        pass


@pytest.fixture
def images(rng):
    return rng.integers(256, size=(40, *SHAPE)).astype(np.uint8)


@pytest.fixture(params=["memory", "file", "one by one"])
def kept(request, images, tmp_path):
    """The same images, in one of three ways."""
    if request.param == "memory":
        return MemoryPixels(images)
    if request.param == "one by one":
        return ArrayPixels(images)
    path = tmp_path / "images"
    path.write_bytes(bytes(13) + images.tobytes())
    file = open(path, "rb")
    request.addfinalizer(file.close)
    return FilePixels(file.fileno(), str(path), "train", SHAPE, 13 + np.arange(len(images) + 1) * images[0].nbytes)


@pytest.fixture
def squares(tmp_path):
    with Dataset(small_set(tmp_path / "squares.h5", train=48, val=4)) as dataset:
        yield dataset


@pytest.mark.parametrize("crop", [11, 8, 3, 1])
@pytest.mark.parametrize("indices", [[7], [3, 4, 5, 39, 0, 3], []])
def test_crops_and_mirrors(kept, images, indices, crop):
    """One view of each image, and several: view v of image i is crop v·n + i."""
    indices = np.array(indices, np.int64)
    for view in (random_views(len(indices), SHAPE, crop, 0, 1), random_views(3 * len(indices), SHAPE, crop, 0, 2)):
        out = np.empty((len(view.top), 3, crop, crop), np.uint8)
        kept.crop(indices, view.top, view.left, view.mirror, out)
        for k, (top, left, mirror) in enumerate(zip(*view[:3], strict=True)):
            expected = images[indices[k % len(indices)], :, top:top + crop, left:left + crop]
            np.testing.assert_array_equal(out[k], expected[..., ::-1] if mirror else expected)


def test_whole_images(kept, images):
    indices = np.array([5, 6, 0, 5])
    out = np.empty((4, *SHAPE), np.uint8)
    kept.read(indices, out)
    np.testing.assert_array_equal(out, images[indices])


@pytest.mark.parametrize("top, left", [(-1, 0), (0, -1), (4, 0), (0, 22)])
def test_crops_from_outside(kept, rng, top, left):
    corner, plain = [np.array([each], np.int32) for each in (top, left)], np.zeros(1, bool)
    out = np.empty((1, 3, 8, 8), np.uint8)
    with pytest.raises(ValueError, match="a crop lies outside its image"):
        kept.crop(np.array([0]), *corner, plain, out)
    with pytest.raises(ValueError, match="a crop lies outside the mean image"):
        crops.centre(out, np.zeros(SHAPE), *corner, plain, np.zeros((1, 3)), np.empty((3, 8, 8, 1)))


def test_other_channels(kept, rng):
    """Compiled code would read past the end, where NumPy refuses."""
    corner, plain = np.zeros(1, np.int32), np.zeros(1, bool)
    for channels in 1, 4:
        with pytest.raises(ValueError, match="a crop lies outside its image"):
            kept.crop(np.array([0]), corner, corner, plain, np.empty((1, channels, 8, 8), np.uint8))
        with pytest.raises(ValueError, match="a crop lies outside the mean image"):
            crops.centre(np.empty((1, channels, 8, 8), np.uint8), np.zeros(SHAPE), corner, corner, plain,
                         np.zeros((1, channels)), np.empty((channels, 8, 8, 1)))


def test_fixed_views_are_inside():
    for views in (centre_view(SHAPE, 8), ten_views(SHAPE, 8)):
        assert views.top.min() >= 0 and views.top.max() <= 3 and views.left.min() >= 0 and views.left.max() <= 21


@pytest.mark.parametrize("left", [0, 13 + 957, 13 + 5 * 957 + 400])
def test_a_file_cut_short_is_no_end(tmp_path, images, left):
    path = tmp_path / "images"
    path.write_bytes(bytes(13) + images.tobytes())
    os.truncate(path, left)
    indices, places = np.array([0, 5, 20]), 13 + np.arange(40) * images[0].nbytes
    view, out = random_views(3, SHAPE, 8, 0, 0), np.empty((3, 3, 8, 8), np.uint8)
    with open(path, "rb") as file:
        assert not crops.read(file.fileno(), places, indices, np.empty((3, *SHAPE), np.uint8))
        assert not crops.read_and_cut(file.fileno(), places, indices, np.empty(SHAPE, np.uint8), *view[:3], out)


def test_what_failed_once_is_read_again(squares, monkeypatch):
    """A read that a signal interrupts, say: Python's own reads go on after it."""
    def epoch():
        with Loader(squares, "train", batch=4, crop=14, raw=True, flip=True) as loader:
            return [batch.packed.images.copy() for batch in loader]

    expected = epoch()
    monkeypatch.setattr(crops, "read_and_cut", lambda *arguments: False)
    np.testing.assert_array_equal(epoch(), expected)
    whole = squares.read("train", range(48))
    monkeypatch.setattr(crops, "read", lambda *arguments: False)
    np.testing.assert_array_equal(squares.read("train", range(48)), whole)


def test_a_closed_data_set_is_not_read(squares):
    split, one = squares.split("train"), np.zeros(1, np.int32)
    squares.close()
    with pytest.raises(DataError, match="cannot be read: Bad file descriptor"):
        split.read([0])
    with pytest.raises(DataError, match="cannot be read: Bad file descriptor"):
        split.pixels.crop(np.array([0]), one, one, one.astype(bool), np.empty((1, 1, 14, 14), np.uint8))


@pytest.mark.parametrize("quick, hinted", [(0, pixels.HINTED), (np.inf, 12)], ids=["from memory", "from a disk"])
def test_hints_end_when_the_file_is_in_memory(squares, monkeypatch, quick, hinted):
    monkeypatch.setattr(pixels, "QUICK", quick)
    hints, hint = [], squares.split("train").pixels.hint
    monkeypatch.setattr(squares.split("train").pixels, "hint", lambda indices: hints.append(indices) or hint(indices))
    with Loader(squares, "train", batch=4, crop=14) as loader:
        batches = [batch.indices for batch in loader]
    assert len(batches) == 12 and len(hints) == hinted
    np.testing.assert_array_equal(hints, batches[:hinted])


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="this system does not list open files")
def test_files_are_closed(tmp_path):
    def open_files():
        gc.collect()
        return sorted(os.listdir("/proc/self/fd"))

    before = open_files()
    with Dataset(small_set(tmp_path / "squares.h5", train=48, val=4)) as dataset:
        with Loader(dataset, "train", batch=4, crop=14, threads=2) as loader:
            next(loader)
        del loader
    del dataset
    assert open_files() == before

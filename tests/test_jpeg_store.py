"""Data sets whose images are stored as JPEGs, and how a file's images are fetched from the disk."""
import io
import os

import h5py
import numpy as np
import pytest
from PIL import Image

from data.errors import DataError
from data.loading.loader import Loader
from data.store import pixels
from data.store.dataset import Dataset
from tests.helpers import as_jpegs, encode, small_set


@pytest.fixture(params=[1, 3], ids=["grey", "colour"])
def both(request, tmp_path):
    """The same images raw and as JPEGs: two open data sets."""
    raw = small_set(tmp_path / "raw.h5", size=24, channels=request.param, train=13, val=3)
    with Dataset(raw) as a, Dataset(as_jpegs(raw, tmp_path / "jpeg.h5")) as b:
        yield a, b


def decoded(path, part="train"):
    """The images by Pillow, the plain way: (N, C, H, W)."""
    with h5py.File(path) as file:
        stored, offsets = file[f"{part}/jpeg"][()], file[f"{part}/offsets"][()]
    images = []
    for start, stop in zip(offsets, offsets[1:], strict=False):
        image = np.asarray(Image.open(io.BytesIO(stored[start:stop].tobytes())))
        images.append(image[None] if image.ndim == 2 else image.transpose(2, 0, 1))
    return np.stack(images)


@pytest.mark.parametrize("indices", [range(13), [5], [12, 3, 4, 5, 0, 0], []])
def test_what_pillow_sees(both, indices):
    _, jpeg = both
    images = jpeg.read("train", list(indices))
    expected = decoded(jpeg.path)[list(indices)]
    np.testing.assert_array_equal(images, expected.reshape(images.shape))


def test_batches(both):
    _, jpeg = both
    images = decoded(jpeg.path, "val").astype(np.float32)
    with Loader(jpeg, "val", batch=2, crop=24, mode="centre", threads=2) as loader:
        seen = np.concatenate([batch.images.copy() for batch in loader], axis=-1)
    np.testing.assert_array_equal(seen, (images - jpeg.mean).transpose(1, 2, 3, 0))


class SimpleJpeg:
    """simplejpeg's one function, by Pillow."""

    @staticmethod
    def decode_jpeg(data, colorspace, strict):
        assert strict
        image = np.asarray(Image.open(io.BytesIO(data)))
        assert colorspace == ("GRAY" if image.ndim == 2 else "RGB")
        return image.reshape(*image.shape[:2], -1)


def test_simplejpeg_where_it_is_installed(both, monkeypatch):
    _, jpeg = both
    expected = jpeg.read("train", range(13))
    monkeypatch.setattr(pixels, "simplejpeg", SimpleJpeg)
    np.testing.assert_array_equal(jpeg.read("train", range(13)), expected)
    with pytest.raises(ValueError, match="24×24 pixels, not 24×23"):
        pixels.decode(encode(Image.new("L", (24, 24))), np.empty((1, 24, 23), np.uint8))


DAMAGE = {
    "cut": (lambda jpeg: jpeg[:len(jpeg) // 2], "truncated"),
    "zeros": (lambda jpeg: bytes(len(jpeg)), "cannot identify"),
    "a byte": (lambda jpeg: b"\xff", "cannot identify"),
    "a PNG": (lambda jpeg: encode(Image.new("RGB", (24, 24)), "PNG"), "cannot identify"),
    "another size": (lambda jpeg: encode(Image.new("RGB", (24, 23))), "23×24 pixels in RGB, not 24×24 in RGB"),
    "grey": (lambda jpeg: encode(Image.new("L", (24, 24))), "24×24 pixels in L, not 24×24 in RGB"),
    "no tables": (lambda jpeg: jpeg[:20] + jpeg[300:], ""),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_jpeg_is_named(tmp_path, kind):
    damage, words = DAMAGE[kind]
    raw = small_set(tmp_path / "raw.h5", size=24, channels=3, train=9, val=3)
    path = as_jpegs(raw, tmp_path / "jpeg.h5", lambda part, k, jpeg: damage(jpeg) if (part, k) == ("train", 5) else jpeg)
    with Dataset(path) as data:
        data.read("train", [0, 4, 6, 8])
        with pytest.raises(DataError, match=rf"jpeg\.h5: image 5 of 'train' is a damaged JPEG \(.*{words}.*\)") as caught:
            data.read("train", range(9))
    assert "\n" not in str(caught.value)


def change(path, name, value):
    with h5py.File(path, "a") as file:
        del file[name]
        file[name] = value


@pytest.mark.parametrize("name, value, words", [
    ("train/offsets", lambda old: old[::-1].copy(), "/train/offsets must rise from 0 to"),
    ("train/offsets", lambda old: old + 1, "/train/offsets must rise from 0 to"),
    ("train/offsets", lambda old: np.append(old[:-1], old[-1] - 1), "/train/offsets must rise from 0 to"),
    ("train/offsets", lambda old: np.insert(old[:-1], 2, old[2]), "/train/offsets must rise from 0 to"),
    ("train/offsets", lambda old: old.astype(np.int32), r"/train/offsets must be int64 \(N \+ 1,\), not int32"),
    ("train/offsets", lambda old: old[:1], r"/train/offsets must be int64 \(N \+ 1,\), not int64 \(1,\)"),
    ("train/offsets", lambda old: np.delete(old, 3), "/train/labels must be one integer for each of the 8 images"),
    ("train/jpeg", lambda old: old.reshape(1, -1), r"/train/jpeg must be one contiguous.*not uint8 \(1, "),
    ("train/jpeg", lambda old: old.astype(np.int8), "/train/jpeg must be one contiguous.*not int8"),
    ("train/jpeg", lambda old: old[:-1], "/train/offsets must rise from 0 to")])
def test_what_does_not_fit_is_refused_on_opening(tmp_path, name, value, words):
    path = as_jpegs(small_set(tmp_path / "raw.h5", train=9, val=3), tmp_path / "jpeg.h5")
    with h5py.File(path) as file:
        old = file[name][()]
    change(path, name, value(old))
    with pytest.raises(DataError, match=f"jpeg.h5: .*{words}"):
        Dataset(path)


def test_a_store_that_was_cut_short_is_refused_on_opening(tmp_path):
    path = as_jpegs(small_set(tmp_path / "raw.h5", train=9, val=3), tmp_path / "jpeg.h5")
    os.truncate(path, os.path.getsize(path) - 1)
    with pytest.raises(DataError, match="jpeg.h5: is truncated"):
        Dataset(path)


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="this system takes no such hints")
def test_hints_cover_the_images_and_little_else(both, monkeypatch):
    asked = []
    monkeypatch.setattr(pixels, "HINT_BYTES", 700)
    monkeypatch.setattr(os, "posix_fadvise", lambda fd, place, length, advice: asked.append((place, length, advice)))
    for data in both:
        split = data.split("train")
        places = split.pixels.places
        split.hint(np.array([2, 3, 4, 9]))
        split.hint(np.array([], np.int64))
        assert all(length <= 700 and advice == os.POSIX_FADV_WILLNEED for _, length, advice in asked)
        covered = sorted(byte for place, length, _ in asked for byte in range(place, place + length))
        assert covered == [*range(places[2], places[5]), *range(places[9], places[10])]
        asked.clear()

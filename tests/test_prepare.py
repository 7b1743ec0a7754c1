"""Preparing data sets: the pixels, mean and colours against a plain computation; splits; sources that are not in order."""

import io
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from data.errors import DataError
from data.prepare import prepare, synthetic
from data.sources.image import load_image
from data.sources.split import stratified_split
from data.store.dataset import Dataset
from data.store.moments import Statistics


def photograph(rng, width, height):
    """Smooth random colours, so that a JPEG keeps them nearly as they are."""
    small = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def folders(root, rng, counts, prefix=""):
    for name, count in counts.items():
        os.makedirs(root / prefix / name)
        for i in range(count):
            photograph(rng, 30 + i, 24 + 2 * (i % 7)).save(root / prefix / name / f"{i:03d}.png")
    return str(root)


def prepared(source, out, **options):
    """The path of the data set made of `source`."""
    return prepare(source, out, **options).out


def plain(path, size):
    """Section 2, step by step: scale the shorter side, then cut out the centre."""
    image = Image.open(path).convert("RGB")
    scale = size / min(image.size)
    width, height = (round(side * scale) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return np.asarray(image)[top:top + size, left:left + size].transpose(2, 0, 1)


@pytest.mark.parametrize("width, height", [(64, 40), (40, 64), (40, 40), (20, 28), (300, 200)])
def test_geometry(tmp_path, rng, width, height):
    path = str(tmp_path / "a.png")
    photograph(rng, width, height).save(path)
    image = load_image(path, 20)
    assert image.shape == (3, 20, 20) and image.dtype == np.uint8 and image.flags.c_contiguous
    assert np.abs(image.astype(int) - plain(path, 20)).max() <= 1
    with open(path, "rb") as file:
        np.testing.assert_array_equal(load_image(io.BytesIO(file.read()), 20, name="a member of a tar"), image)


def test_large_jpegs_are_decoded_smaller(tmp_path, rng):
    path = str(tmp_path / "large.jpg")
    photograph(rng, 1600, 1200).save(path, quality=95)
    assert np.abs(load_image(path, 30).astype(int) - plain(path, 30)).max() <= 3


def test_other_kinds_of_image(tmp_path, rng):
    base = photograph(rng, 20, 20)
    base.save(tmp_path / "rgb.png")
    expected = load_image(tmp_path / "rgb.png", 20).astype(int)
    for image, name, kind in ((base.convert("RGBA"), "a.png", "PNG"), (base.convert("CMYK"), "c.jpg", "JPEG"),
                              (base.quantize(256), "p.gif", "GIF"), (base, "really a png.JPEG", "PNG")):
        image.save(tmp_path / name, kind)
        assert np.abs(load_image(tmp_path / name, 20) - expected).mean() < 5, name
    base.convert("L").save(tmp_path / "grey.png")
    grey = np.asarray(base.convert("L"))
    np.testing.assert_array_equal(load_image(tmp_path / "grey.png", 20), [grey] * 3)
    np.testing.assert_array_equal(load_image(tmp_path / "rgb.png", 20, channels=1), [grey])


def test_files_that_are_no_images(tmp_path, rng):
    (tmp_path / "text.jpg").write_text("hello\nworld\n" * 10)
    (tmp_path / "empty.jpg").write_bytes(b"")
    photograph(rng, 200, 200).save(tmp_path / "whole.jpg")
    data = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[:len(data) // 2])
    photograph(rng, 60, 60).save(tmp_path / "whole.png")
    data = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[:100] + bytes(50) + data[150:])
    (tmp_path / "folder.jpg").mkdir()
    for name in ("text.jpg", "empty.jpg", "cut.jpg", "cut.png", "folder.jpg", "missing.jpg"):
        with pytest.raises(DataError) as caught:
            load_image(str(tmp_path / name), 20)
        assert name in str(caught.value) and "\n" not in str(caught.value)


def test_train_and_val_folders(tmp_path, rng):
    source = folders(tmp_path / "s", rng, {"zebra": 3, "ape": 40, "b c": 5}, "train")
    folders(tmp_path / "s", rng, {"zebra": 2, "ape": 1}, "val")
    folders(tmp_path / "s", rng, {"b c": 2}, "test")
    out = prepared(source, str(tmp_path / "out.h5"), size=16)
    with Dataset(out) as data:
        assert data.classes == ["ape", "b c", "zebra"]
        assert (data.channels, data.height, data.width) == (3, 16, 16)
        assert [np.bincount(s.labels, minlength=3).tolist() for s in data.splits.values()] == [
            [40, 5, 3], [1, 0, 2], [0, 2, 0]]
        for name, split in data.splits.items():
            paths = [path for label in data.classes for path in sorted((tmp_path / "s" / name / label).glob("*"))]
            expected = np.stack([load_image(path, 16) for path in paths])
            np.testing.assert_array_equal(data.read(name, range(len(split))), expected)
        train = data.read("train", range(48)).astype(np.float64)
        np.testing.assert_array_equal(data.mean, train.mean(axis=0).astype(np.float32))
        covariance = np.cov(train.transpose(1, 0, 2, 3).reshape(3, -1), bias=True)
        np.testing.assert_allclose((data.pca.vectors * data.pca.std**2) @ data.pca.vectors.T, covariance, rtol=1e-9)


def test_workers_change_nothing(tmp_path, rng, monkeypatch):
    monkeypatch.setattr("data.prepare.PIECE", 3)
    source = folders(tmp_path / "s", rng, {"a": 20, "b": 11})
    files = []
    for workers in (1, 2, 5):
        prepare(source, str(tmp_path / "out.h5"), size=12, workers=workers)
        files.append((tmp_path / "out.h5").read_bytes())
    assert files[0] == files[1] == files[2]


def test_validation_is_split_off_the_only_folder(tmp_path, rng):
    source = folders(tmp_path / "s", rng, {"a": 20, "b": 10})
    (tmp_path / "s" / "a" / "deeper").mkdir()
    photograph(rng, 16, 16).save(tmp_path / "s" / "a" / "deeper" / "x.bmp")
    (tmp_path / "s" / "a" / "notes.txt").write_text("not an image")
    (tmp_path / "s" / "a" / ".hidden.png").write_text("not an image")
    chosen = []
    for seed in (0, 0, 1):
        with Dataset(prepared(source, str(tmp_path / "out.h5"), size=8, val_fraction=0.2, seed=seed)) as data:
            assert [np.bincount(s.labels).tolist() for s in data.splits.values()] == [[17, 8], [4, 2]]
            train, val = (data.read(name, range(len(split))) for name, split in data.splits.items())
            assert not {x.tobytes() for x in train} & {x.tobytes() for x in val}
            np.testing.assert_allclose(data.mean, train.mean(axis=0), rtol=1e-6)
            chosen.append(val.tobytes())
    assert chosen[0] == chosen[1] != chosen[2]


def test_sums_are_exact(rng):
    for shape in ((600, 3, 4, 5), (2, 3, 2, 700), (3, 1, 6, 6)):
        images = rng.integers(0, 256, shape, dtype=np.uint8)
        images[: shape[0] // 2] = 255  # the largest sums
        statistics = Statistics(images[:1]) + Statistics(images[1:])
        x = images.astype(np.int64)
        assert statistics.count == shape[0]
        np.testing.assert_array_equal(statistics.total, x.sum(axis=0))
        if shape[1] == 3:
            np.testing.assert_array_equal(statistics.products, np.einsum("nihw,njhw->ij", x, x))


def test_folders_that_are_not_in_order(tmp_path, rng):
    def refuse(words, source=None, **options):
        with pytest.raises(DataError, match=words):
            prepare(source or str(tmp_path / "s"), str(tmp_path / "out.h5"), **options)
        assert not (tmp_path / "out.h5").exists()

    refuse("no such folder")
    (tmp_path / "file.tar").write_bytes(b"")
    refuse("is a file", str(tmp_path / "file.tar"))
    os.makedirs(tmp_path / "s")
    refuse("there are no folders in it")
    photograph(rng, 9, 9).save(tmp_path / "s" / "loose.png")
    refuse("there are no folders in it")
    folders(tmp_path / "s", rng, {"a": 2})
    refuse("only 'a'")
    os.makedirs(tmp_path / "s" / "b")
    refuse("class b holds no images; fill or remove it")
    photograph(rng, 9, 9).save(tmp_path / "s" / "b" / "0.png")
    refuse("val_fraction must lie between 0 and 1, not 1.5", val_fraction=1.5)
    refuse("leave one of each class", val_fraction=0.9)
    refuse("size must be at least 1", size=0)
    shutil.rmtree(tmp_path / "s")
    folders(tmp_path / "s", rng, {"a": 2, "b": 2}, "train")
    folders(tmp_path / "s", rng, {"a": 2, "c": 2}, "val")
    refuse("'val' has a class c that the training set does not have")
    shutil.rmtree(tmp_path / "s" / "val")
    os.makedirs(tmp_path / "s" / "val" / "a")
    refuse("val: holds no images")
    shutil.rmtree(tmp_path / "s")
    for split in "train", "val":
        os.makedirs(tmp_path / "s" / split)
        photograph(rng, 9, 9).save(tmp_path / "s" / split / "0.png")
    refuse("train: holds images, but not in a folder for each class")


def test_a_folder_that_may_not_be_read(tmp_path, rng, monkeypatch):
    source = folders(tmp_path / "s", rng, {"a": 2, "b": 2})
    true = os.scandir

    def scandir(path):
        if str(path).endswith("/b"):
            raise PermissionError(13, "Permission denied", str(path))
        return true(path)

    monkeypatch.setattr(os, "scandir", scandir)  # root may read everything
    with pytest.raises(DataError, match="s/b: cannot be read: Permission denied"):
        prepare(source, str(tmp_path / "out.h5"), size=8)


def test_the_file_may_lie_among_the_class_folders(tmp_path, rng):
    source = folders(tmp_path / "s", rng, {"a": 4, "b": 4})
    (tmp_path / "s" / "out.h5.part").mkdir()  # begun earlier
    with Dataset(prepared(source, str(tmp_path / "s" / "out.h5"), size=8)) as data:
        assert data.classes == ["a", "b"]


def test_a_class_called_train(tmp_path, rng):
    source = folders(tmp_path / "s", rng, {"bus": 5, "train": 5})
    with Dataset(prepared(source, str(tmp_path / "out.h5"), size=8)) as data:
        assert data.classes == ["bus", "train"]


def test_stratified_split():
    labels = np.repeat([0, 1, 2, 5], [50, 30, 3, 1])
    rest, chosen = stratified_split(labels, 20, seed=4)
    assert np.array_equal(np.sort(np.concatenate([rest, chosen])), np.arange(84)) and len(chosen) == 20
    assert np.bincount(labels[chosen], minlength=6).tolist() == [12, 7, 1, 0, 0, 0]
    np.testing.assert_array_equal(chosen, stratified_split(labels, 20, seed=4)[1])
    assert (chosen != stratified_split(labels, 20, seed=5)[1]).any()
    rest, chosen = stratified_split(labels, 80)
    assert np.bincount(labels[rest], minlength=6).tolist() == [1, 1, 1, 0, 0, 1]
    for count in (0, 81):
        with pytest.raises(DataError, match=f"cannot take {count} of 84"):
            stratified_split(labels, count)


def test_synthetic(tmp_path):
    out = synthetic(str(tmp_path / "out.h5"), images=70, classes=12, size=32)
    with Dataset(out) as data:
        assert {name: len(split) for name, split in data.splits.items()} == {"train": 70, "val": 3}
        assert len(data.classes) == 12 and data.mean.shape == (3, 32, 32)
        train = data.read("train", range(70))
        np.testing.assert_allclose(data.mean, train.mean(axis=0), rtol=1e-6)
        assert len(np.unique(train[:, 0, 0, 0])) > 40
    first = (tmp_path / "out.h5").read_bytes()
    synthetic(out, images=70, classes=12, size=32)
    assert (tmp_path / "out.h5").read_bytes() == first
    with pytest.raises(DataError, match="at least 1 image"):
        synthetic(out, images=0)

"""Preparing data sets: the pixels, mean and colours against a plain computation; splits; sources that are not in order."""

import gzip
import io
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from data import bundle
from data.dataset import DataError, Dataset
from data.idx import FASHION, choose_names, read_idx
from data.image import load_image
from data.prepare import prepare, prepare_folder, prepare_idx, synthetic
from data.split import stratified_split


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
    out = prepare(source, str(tmp_path / "out.h5"), size=16)
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
        prepare_folder(source, str(tmp_path / "out.h5"), size=12, workers=workers)
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
        with Dataset(prepare(source, str(tmp_path / "out.h5"), size=8, val_fraction=0.2, seed=seed)) as data:
            assert [np.bincount(s.labels).tolist() for s in data.splits.values()] == [[17, 8], [4, 2]]
            train, val = (data.read(name, range(len(split))) for name, split in data.splits.items())
            assert not {x.tobytes() for x in train} & {x.tobytes() for x in val}
            np.testing.assert_allclose(data.mean, train.mean(axis=0), rtol=1e-6)
            chosen.append(val.tobytes())
    assert chosen[0] == chosen[1] != chosen[2]


def test_left_out_files_are_counted(tmp_path, rng, capsys):
    source = folders(tmp_path / "s", rng, {"a": 2, "b": 2})
    (tmp_path / "s" / "b" / "notes.txt").write_text("not an image")
    prepare(source, str(tmp_path / "out.h5"), size=8)
    assert "left out 1 files not named like images, first" in capsys.readouterr().err


def test_a_damaged_image_is_named_and_nothing_is_left(tmp_path, rng):
    source = folders(tmp_path / "s", rng, {"a": 40, "b": 40})
    (tmp_path / "s" / "b" / "017.png").write_bytes(b"\x89PNG but not really")
    (tmp_path / "o").mkdir()
    with pytest.raises(DataError, match=r"b/017\.png: is not an image"):
        prepare(source, str(tmp_path / "o" / "out.h5"), size=8, workers=2)
    assert os.listdir(tmp_path / "o") == []


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
    refuse("b: holds no images; fill or remove it")
    photograph(rng, 9, 9).save(tmp_path / "s" / "b" / "0.png")
    refuse("val_fraction must lie between 0 and 1, not 1.5", val_fraction=1.5)
    refuse("leave one of each class", val_fraction=0.9)
    refuse("size must be at least 1", size=0)
    shutil.rmtree(tmp_path / "s")
    folders(tmp_path / "s", rng, {"a": 2, "b": 2}, "train")
    folders(tmp_path / "s", rng, {"a": 2, "c": 2}, "val")
    refuse("val/c: is a class that the training set does not have")
    shutil.rmtree(tmp_path / "s" / "val")
    os.makedirs(tmp_path / "s" / "val" / "a")
    refuse("val: holds no images")


def test_a_class_called_train(tmp_path, rng):
    source = folders(tmp_path / "s", rng, {"bus": 5, "train": 5})
    with Dataset(prepare(source, str(tmp_path / "out.h5"), size=8)) as data:
        assert data.classes == ["bus", "train"]


def write_idx(path, array):
    data = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def idx_folder(root, rng, train=200, test=30, suffix=".gz"):
    """IDX files whose every image is different: its first two pixels hold its number. 10 classes, uneven."""
    root.mkdir()
    arrays = {}
    for part, count in (("train", train), ("t10k", test)):
        images = rng.integers(0, 256, (count, 6, 6), dtype=np.uint8)
        images[:, 0, 0], images[:, 0, 1] = np.arange(count) % 256, np.arange(count) // 256 + (part == "t10k") * 128
        labels = np.minimum(np.arange(count) % 14, 9)
        write_idx(root / f"{part}-images-idx3-ubyte{suffix}", images)
        write_idx(root / f"{part}-labels-idx1-ubyte{suffix}", labels)
        arrays[part] = images, labels
    return arrays


@pytest.mark.parametrize("suffix", [".gz", ""])
def test_idx(tmp_path, rng, suffix):
    arrays = idx_folder(tmp_path / "digits", rng, suffix=suffix)
    out = prepare(str(tmp_path / "digits"), str(tmp_path / "out.h5"), val=40, seed=3)
    with Dataset(out) as data:
        assert data.classes == list("0123456789")
        assert {name: len(split) for name, split in data.splits.items()} == {"train": 160, "val": 40, "test": 30}
        train, val, test = (data.read(name, range(len(split))) for name, split in data.splits.items())
        images, labels = arrays["train"]
        numbers = [(x[:, 0, 0, 0] + 256 * x[:, 0, 0, 1].astype(int)).tolist() for x in (train, val)]
        assert sorted(numbers[0] + numbers[1]) == list(range(200))
        for number, name, pixels in zip(numbers, ("train", "val"), (train, val), strict=True):
            np.testing.assert_array_equal(pixels[:, 0], images[number])
            np.testing.assert_array_equal(data.splits[name].labels, labels[number])
        np.testing.assert_array_equal(test[:, 0], arrays["t10k"][0])
        share = np.bincount(data.splits["val"].labels) - np.bincount(labels) * 40 / 200
        assert (np.abs(share) < 1).all()
        np.testing.assert_allclose(data.mean, train.mean(axis=0), rtol=1e-6)
        assert data.pca is None
    with Dataset(prepare(str(tmp_path / "digits"), out, val=40, seed=4)) as data:
        assert (data.read("val", range(40)) != val).any()


def test_idx_class_names(tmp_path, rng):
    labels = np.arange(10)
    assert choose_names("/x/Fashion-MNIST/", labels) == list(FASHION)
    assert choose_names("/x/fashion-mnist", labels[:9]) == list("012345678")
    assert choose_names("/fashion/mnist", labels) == list("0123456789")
    idx_folder(tmp_path / "s", rng)
    names = [f"class {c}" for c in "abcdefghij"]
    with Dataset(prepare_idx(str(tmp_path / "s"), str(tmp_path / "out.h5"), val=20, class_names=names)) as data:
        assert data.classes == names
    with pytest.raises(DataError, match="9 class names given, but there is a label 9"):
        prepare_idx(str(tmp_path / "s"), str(tmp_path / "out.h5"), val=20, class_names=names[:9])


def test_idx_files_that_are_not_in_order(tmp_path, rng):
    idx_folder(tmp_path / "s", rng)
    source, out = str(tmp_path / "s"), str(tmp_path / "out.h5")
    with pytest.raises(DataError, match="cannot take 5000 of 200 images"):
        prepare(source, out)
    path = tmp_path / "s" / "train-labels-idx1-ubyte.gz"
    whole = path.read_bytes()
    for data, words in ((whole[:-20], "cannot be read"), (gzip.compress(gzip.decompress(whole)[:-1]), "but holds 199"),
                        (b"", "is not an IDX file"), (b"\0\0\x0d\1", "is not an IDX file"), (b"\0\0\x08\3\0", "not an IDX")):
        path.write_bytes(data)
        with pytest.raises(DataError, match=f"{path.name}: .*{words}"):
            read_idx(str(path))
    write_idx(path, np.zeros(199))
    with pytest.raises(DataError, match="do not belong together"):
        prepare(source, out, val=20)
    path.unlink()
    with pytest.raises(DataError, match="but not the labels"):
        prepare(source, out, val=20)
    assert not os.path.exists(out)


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


def test_the_bundle_is_made_from_idx_files(tmp_path, rng, monkeypatch):
    monkeypatch.setattr(bundle, "IMAGES", 60)
    monkeypatch.setattr(bundle, "VAL", 10)
    images, labels = idx_folder(tmp_path / "s", rng)["train"]
    out = str(tmp_path / "o.h5")
    with pytest.raises(DataError, match="LICENSE"):
        bundle.bundle(str(tmp_path / "s"), out)
    (tmp_path / "s" / "LICENSE").write_text("a licence")
    bundle.bundle(str(tmp_path / "s"), out)
    assert (tmp_path / "fashion-mnist-LICENSE").read_text() == "a licence"
    with Dataset(out) as data:
        assert {name: len(split) for name, split in data.splits.items()} == {"train": 50, "val": 10}
        for name, split in data.splits.items():
            pixels = data.read(name, range(len(split)))
            number = pixels[:, 0, 0, 0].astype(int)
            np.testing.assert_array_equal(pixels[:, 0], images[number])
            np.testing.assert_array_equal(split.labels, labels[number])

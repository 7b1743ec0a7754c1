"""The data set file: what is written comes back, and every kind of bad file is refused in one clear line."""

import os
import threading

import h5py
import numpy as np
import pytest

from data.bundle import DEFAULT
from data.errors import DataError
from data.sources.idx import FASHION
from data.store.dataset import Dataset
from data.store.moments import Statistics
from data.store.pixels import FilePixels, MemoryPixels
from data.store.writer import Writer

SHAPE = (3, 7, 5)
CLASSES = ["cat", "dog", "größe"]


def write(path, rng, train=11, val=4, shape=SHAPE, **options):
    """A small data set at `path`. Returns {split: (images, labels)}."""
    parts = {}
    with Writer(path, CLASSES, shape, source="a test", **options) as writer:
        for name, count in (("train", train), ("val", val)):
            images = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
            parts[name] = images, rng.integers(0, len(CLASSES), count)
            writer.add_split(name, parts[name][1])
            writer.write(name, 3, images[3:])
            writer.write(name, 0, images[:3])
        writer.set_statistics(Statistics(parts["train"][0]))
    return parts


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "set.h5")


def refuse(path, *words):
    """Opening `path` raises DataError: one line that names the file and holds the words."""
    with pytest.raises(DataError) as caught:
        Dataset(path)
    message = str(caught.value)
    assert "\n" not in message and path in message, message
    for word in words:
        assert word in message, message


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("shape", [SHAPE, (1, 6, 6)])
def test_what_is_written_comes_back(path, rng, compress, shape):
    parts = write(path, rng, shape=shape, compress=compress)
    with Dataset(path) as data:
        assert (data.channels, data.height, data.width) == shape
        assert data.path == path and data.classes == CLASSES and data.source == "a test"
        assert list(data.splits) == ["train", "val"]
        assert isinstance(data.split("train").pixels, MemoryPixels if compress else FilePixels)
        np.testing.assert_allclose(data.mean, parts["train"][0].mean(axis=0), rtol=1e-6)
        assert data.mean.dtype == np.float32 and (data.pca is None) == (shape[0] == 1)
        for name, (images, labels) in parts.items():
            split = data.splits[name]
            assert len(split) == len(images) and split.labels.dtype == np.int32
            np.testing.assert_array_equal(split.labels, labels)
            for indices in ([0], range(len(images)), [3, 1, 1, 2, 3, 0], []):
                np.testing.assert_array_equal(data.read(name, indices), images[list(indices)])
            out = np.zeros((2, *shape), np.uint8)
            assert data.read(name, [2, 3], out) is out
            np.testing.assert_array_equal(out, images[2:4])


def test_layout_is_readable_with_h5py_alone(path, rng):
    parts = write(path, rng)
    with h5py.File(path) as file:
        assert file.attrs["format"] == b"cpnet-dataset" and file.attrs["version"] == 1
        images = file["train/images"]
        assert images.chunks is None and images.compression is None and images.dtype == np.uint8
        np.testing.assert_array_equal(images[:], parts["train"][0])
        assert file["train/labels"].dtype == np.int32
        assert [name.decode() for name in file["classes"]] == CLASSES
        assert file["pca/std"].dtype == file["pca/vectors"].dtype == np.float64


def test_mean_and_colour_are_those_of_a_direct_computation(rng):
    images = (rng.integers(0, 256, (9, 1, 6, 5)) * [[[[1.0]], [[0.7]], [[0.2]]]] + rng.integers(0, 40, (9, 3, 6, 5)))
    images = images.clip(0, 255).astype(np.uint8)
    whole, parts = Statistics(images), Statistics(images[:2]) + Statistics(images[2:])
    np.testing.assert_array_equal(whole.mean(), images.mean(axis=0).astype(np.float32))
    np.testing.assert_array_equal(whole.mean(), parts.mean())
    covariance = np.cov(images.transpose(1, 0, 2, 3).reshape(3, -1), bias=True)
    std, vectors = whole.colour()
    assert (np.diff(std) < 0).all()
    np.testing.assert_allclose((vectors * std**2) @ vectors.T, covariance, rtol=1e-9)
    np.testing.assert_allclose(std[0] ** 2, np.linalg.eigvalsh(covariance)[-1])
    for column in vectors.T:
        assert column[np.abs(column).argmax()] > 0
    for a, b in zip(whole.colour(), parts.colour(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_missing_folder_and_foreign_files(path, tmp_path):
    refuse(path, "no such file")
    refuse(str(tmp_path), "is a folder")
    with open(path, "wb") as file:
        file.write(b"not at all" * 1000)
    refuse(path, "not an HDF5 file")
    open(path, "wb").close()
    refuse(path, "not an HDF5 file")
    with h5py.File(path, "w") as file:
        file["images"] = np.zeros(3)
    refuse(path, "no data set of ours")


def test_truncated(path, rng):
    write(path, rng)
    os.truncate(path, os.path.getsize(path) - 100)
    refuse(path, "truncated")


def test_block_past_the_end_of_the_file(path, rng, monkeypatch):
    write(path, rng)
    monkeypatch.setattr(os, "fstat", lambda fd: os.stat_result([0] * 6 + [2500] + [0] * 3))
    refuse(path, "truncated", "/train/images ends at byte", "2500")


def test_never_written(path, rng):
    write(path, rng)
    with h5py.File(path, "a") as file:
        del file["val/images"]
        file.create_dataset("val/images", (4, *SHAPE), np.uint8)
    refuse(path, "/val/images", "never written")


def replace(name, value):
    def change(file):
        if name in file:
            del file[name]
        if value is not None:
            file[name] = value
    return change


def set_version(file):
    file.attrs["version"] = 2


@pytest.mark.parametrize("change, words", [
    (set_version, ["version 2", "reads 1"]),
    (replace("mean", None), ["no /mean"]),
    (replace("mean", np.zeros((3, 7, 5))), ["/mean", "float32"]),
    (replace("mean", np.full(SHAPE, np.nan, np.float32)), ["/mean", "finite"]),
    (replace("mean", np.zeros((3, 7, 6), np.float32)), ["/train/images", "(11, 3, 7, 5)"]),
    (replace("classes", None), ["no /classes"]),
    (replace("classes", np.arange(3)), ["/classes"]),
    (replace("pca", None), ["no /pca/std"]),
    (replace("pca/vectors", np.zeros((3, 2))), ["/pca", "(3, 2)"]),
    (replace("pca/vectors", np.full((3, 3), np.nan)), ["/pca must hold finite std"]),
    (replace("pca/std", np.full(3, np.inf)), ["/pca must hold finite std"]),
    (replace("train", None), ["no split /train"]),
    (replace("train/images", None), ["no /train/images"]),
    (replace("train/images", np.zeros((11, *SHAPE), np.int16)), ["/train/images", "int16"]),
    (replace("train/labels", np.zeros(10, np.int32)), ["/train/labels", "11 images"]),
    (replace("train/labels", np.zeros(11)), ["/train/labels", "float64"]),
    (replace("train/labels", np.array([0, 1, 3] + [0] * 8)), ["label 3 of image 2 of 'train'", "3 classes"]),
    (replace("val/labels", np.array([0, 1, 2, -1])), ["label -1 of image 3 of 'val'"]),
])
def test_what_does_not_fit_is_named(path, rng, change, words):
    write(path, rng)
    with h5py.File(path, "a") as file:
        change(file)
    refuse(path, *words)


def test_damaged_compressed_pixels(path, rng):
    write(path, rng, compress=True)
    with h5py.File(path) as file:
        place = file["train/images"].id.get_chunk_info(0)
    with open(path, "r+b") as file:
        file.seek(place.byte_offset + 20)
        file.write(bytes(40))
    refuse(path, "images cannot be read")


def test_chunks_too_large_for_memory(path, rng, monkeypatch):
    write(path, rng, compress=True)
    monkeypatch.setattr("data.store.dataset.MEMORY_LIMIT", 100)
    refuse(path, "too large to hold in memory")


def test_file_cut_short_while_open(path, rng):
    write(path, rng, val=30)
    with Dataset(path) as data:
        with h5py.File(path) as file:
            offset = file["val/images"].id.get_offset()
        os.truncate(path, offset + 17 * int(np.prod(SHAPE)) + 8)
        with pytest.raises(DataError, match="set.h5: was cut short while open, from "):
            data.read("val", range(17))  # whole images, but who knows what else was done to the file
        with pytest.raises(DataError, match=r"set.h5: the file ends inside image 17 of 'val'"):
            data.read("val", [3, 15, 16, 17, 18])


def test_wrong_arguments_and_a_closed_set(path, rng):
    write(path, rng)
    with Dataset(path) as data:
        with pytest.raises(DataError, match="no split 'test'; it has train, val"):
            data.split("test")
        for wrong in ([11], [-1]):
            with pytest.raises(IndexError, match=r"images 0\.\.10"):
                data.read("train", wrong)
        for out in (np.zeros((2, *SHAPE), np.int8), np.zeros((3, *SHAPE), np.uint8),
                    np.zeros((4, *SHAPE), np.uint8)[::2]):
            with pytest.raises(ValueError, match="contiguous uint8"):
                data.read("train", [0, 1], out)
    with open(path, "rb"):  # this takes the file number that the data set had
        with pytest.raises(DataError, match="cannot be read"):
            data.read("train", [0])
    data.close()


def test_threads_read_the_same_bytes(path, rng):
    images = write(path, rng, train=300)["train"][0]
    wrong = []
    with Dataset(path) as data:
        def look(seed):
            own = np.random.default_rng(seed)
            for _ in range(200):
                indices = own.integers(0, 300, 9)
                if not (data.read("train", indices) == images[indices]).all():
                    wrong.append(indices)
        threads = [threading.Thread(target=look, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_a_failed_writer_leaves_nothing_and_keeps_what_was_there(path, tmp_path, rng):
    with pytest.raises(ZeroDivisionError), Writer(path, CLASSES, SHAPE, source="") as writer:
        writer.add_split("train", [0])
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == []
    with open(path, "w") as file:
        file.write("old")
    with pytest.raises(ValueError, match="2 images of 'train' were never written, first 1"):
        with Writer(path, CLASSES, SHAPE, source="") as writer:
            writer.add_split("train", [0, 1, 2])
            writer.write("train", 0, np.zeros((1, *SHAPE), np.uint8))
            writer.set_statistics(Statistics(np.zeros((1, *SHAPE), np.uint8)))
            assert len(os.listdir(tmp_path)) == 2  # OUT has not been touched yet
    with pytest.raises(ValueError, match="statistics"), Writer(path, CLASSES, SHAPE, source=""):
        pass
    with open(path) as file:
        assert file.read() == "old"
    assert os.listdir(tmp_path) == ["set.h5"]
    write(path, rng)
    assert os.listdir(tmp_path) == ["set.h5"]
    Dataset(path).close()


def test_writer_refuses(path, tmp_path, monkeypatch):
    with pytest.raises(DataError, match="at least two classes, there is only 'cat'"):
        Writer(path, ["cat"], SHAPE, source="")
    with pytest.raises(DataError, match="folder does not exist"):
        Writer(str(tmp_path / "no" / "set.h5"), CLASSES, SHAPE, source="")
    with pytest.raises(DataError, match="is a folder"):
        Writer(str(tmp_path), CLASSES, SHAPE, source="")
    with pytest.raises(DataError, match="GB free"), Writer(path, CLASSES, (3, 256, 256), source="") as writer:
        monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 1000}))
        writer.add_split("train", np.zeros(1000, int))
    with Writer(path, CLASSES, SHAPE, source="") as writer:
        writer.add_split("train", [0, 1])
        for wrong, start in ((np.zeros((2, *SHAPE), np.uint8), 1), (np.zeros((2, *SHAPE)), 0)):
            with pytest.raises(ValueError, match="'train' takes uint8"):
                writer.write("train", start, wrong)
        writer.write("train", 0, np.zeros((2, *SHAPE), np.uint8))
        writer.set_statistics(Statistics(np.zeros((2, *SHAPE), np.uint8)))


def test_bundled_set():
    assert os.path.getsize(DEFAULT) < 6_000_000
    with open(os.path.join(os.path.dirname(DEFAULT), "fashion-mnist-LICENSE")) as file:
        assert "MIT License" in file.read()
    with Dataset(DEFAULT) as data:
        assert data.classes == list(FASHION) and (data.channels, data.height, data.width) == (1, 28, 28)
        assert {name: np.bincount(split.labels).tolist() for name, split in data.splits.items()} == {
            "train": [1000] * 10, "val": [200] * 10}
        train = data.read("train", range(10_000))
        np.testing.assert_allclose(data.mean, train.mean(axis=0), rtol=1e-6)
        known = {image.tobytes() for image in train}
        assert sum(image.tobytes() in known for image in data.read("val", range(2000))) < 5  # the set has a few twins
        # Trousers, bags and boots look as they should: a nearest class mean is right far more often than chance.
        flat, val = train.reshape(len(train), -1).astype(float), data.read("val", range(500)).reshape(500, -1)
        means = np.stack([flat[data.splits["train"].labels == k].mean(axis=0) for k in range(10)])
        nearest = ((val[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
        assert (nearest == data.splits["val"].labels[:500]).mean() > 0.6

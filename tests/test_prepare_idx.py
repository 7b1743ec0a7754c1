"""Preparing small sets that come as arrays: IDX files (MNIST, Fashion-MNIST), CIFAR-10's binary archive, and the bundle."""

import gzip
import io
import os
import tarfile

import numpy as np
import pytest

from data import bundle
from data.errors import DataError
from data.prepare import prepare
from data.sources import cifar
from data.sources.idx import FASHION, choose_names, read_idx
from data.store.dataset import Dataset


def write_idx(path, array):
    data = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def prepared(source, out, **options):
    """The path of the data set made of `source`."""
    return prepare(source, out, **options).out


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
    out = prepared(str(tmp_path / "digits"), str(tmp_path / "out.h5"), val=40, seed=3)
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
    with Dataset(prepared(str(tmp_path / "digits"), out, val=40, seed=4)) as data:
        assert (data.read("val", range(40)) != val).any()


def test_idx_class_names(tmp_path, rng):
    labels = np.arange(10)
    assert choose_names("/x/Fashion-MNIST/", labels) == list(FASHION)
    assert choose_names("/x/fashion-mnist", labels[:9]) == list("012345678")
    assert choose_names("/fashion/mnist", labels) == list("0123456789")
    idx_folder(tmp_path / "s", rng)
    names = [f"class {c}" for c in "abcdefghij"]
    with Dataset(prepared(str(tmp_path / "s"), str(tmp_path / "out.h5"), val=20, class_names=names)) as data:
        assert data.classes == names
    with pytest.raises(DataError, match="9 class names given, but there is a label 9"):
        prepare(str(tmp_path / "s"), str(tmp_path / "out.h5"), val=20, class_names=names[:9])


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


def cifar_files(rng, count=30):
    """The files of CIFAR-10's binary version, with `count` images each, as {name: bytes}."""
    def batch():
        labels = (np.arange(count) % 10).astype(np.uint8)
        return np.concatenate([labels[:, None], rng.integers(0, 256, (count, 3072), dtype=np.uint8)], axis=1).tobytes()

    names = "airplane automobile bird cat deer dog frog horse ship truck".split()
    return {name: batch() for name in (*cifar.TRAIN, cifar.TEST)} | {cifar.NAMES: ("\n".join(names) + "\n\n").encode()}


def cifar_archive(path, files):
    with tarfile.open(path, "w:gz") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(f"{cifar.FOLDER}/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def test_cifar(tmp_path, rng):
    files = cifar_files(rng)
    archive = tmp_path / "get" / cifar.ARCHIVE
    os.makedirs(tmp_path / "get")
    cifar_archive(archive, files)
    os.makedirs(tmp_path / "unpacked" / cifar.FOLDER)
    for name, data in files.items():
        (tmp_path / "unpacked" / cifar.FOLDER / name).write_bytes(data)
    rows = np.frombuffer(b"".join(files[name] for name in cifar.TRAIN), np.uint8).reshape(-1, 3073)
    sources = archive, archive.parent, tmp_path / "unpacked", tmp_path / "unpacked" / cifar.FOLDER
    for k, source in enumerate(sources):
        with Dataset(prepared(str(source), str(tmp_path / f"{k}.h5"), val=20)) as data:
            assert data.classes[:2] == ["airplane", "automobile"] and len(data.classes) == 10
            assert {name: len(split) for name, split in data.splits.items()} == {"train": 130, "val": 20, "test": 30}
            pixels = np.concatenate([data.read(name, range(len(data.splits[name]))) for name in ("train", "val")])
            labels = np.concatenate([data.splits[name].labels for name in ("train", "val")])
            assert sorted(bytes([y]) + x.tobytes() for x, y in zip(pixels, labels, strict=True)) == sorted(map(bytes, rows))
            assert data.read("test", [7])[0].tobytes() == files[cifar.TEST][7 * 3073 + 1:8 * 3073]


def test_cifar_that_is_not_in_order(tmp_path, rng):
    def refuse(source, words, **options):
        with pytest.raises(DataError, match=words):
            prepare(str(source), str(tmp_path / "out.h5"), val=20, **options)
        assert not (tmp_path / "out.h5").exists()

    files, archive = cifar_files(rng), tmp_path / cifar.ARCHIVE
    cifar_archive(archive, files | {cifar.TEST: files[cifar.TEST][:-1]})
    refuse(archive, "test_batch.bin: has 92189 bytes, not a multiple of 3073")
    cifar_archive(archive, files | {cifar.TRAIN[1]: b"\x0a" + files[cifar.TRAIN[1]][1:]})
    refuse(archive, "data_batch_2.bin: has a label 10, but there are 10 classes")
    cifar_archive(archive, {name: data for name, data in files.items() if name != cifar.TRAIN[2]})
    refuse(archive, "holds no data_batch_3.bin")
    cifar_archive(archive, files)
    refuse(archive, "stored raw", store="jpeg")
    archive.write_bytes(archive.read_bytes()[:-3000])
    refuse(archive, "cannot be read")
    (tmp_path / "p" / "cifar-10-batches-py").mkdir(parents=True)
    refuse(tmp_path / "p", "a pickle.*cifar-10-binary.tar.gz")
    refuse(tmp_path / "p" / "cifar-10-batches-py", "a pickle")
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"")
    refuse(tmp_path / "cifar-10-python.tar.gz", "a pickle")

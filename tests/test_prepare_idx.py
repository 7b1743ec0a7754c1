"""Preparing small sets that come as arrays: IDX files (MNIST, Fashion-MNIST), CIFAR-10's binary archive, and the bundle."""

import gzip
import io
import json
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
    path.write_bytes(gzip.compress(data) if path.suffix.lower() == ".gz" else data)


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


@pytest.mark.parametrize("names", [
    "emnist-letters-{}-{}-idx{}-ubyte.gz", "emnist-letters-{}-{}-idx{}-ubyte", "{}-{}.idx{}-ubyte", "{}-{}.idx{}-ubyte.gz",
    "{}-{}-idx{}.ubyte", "{}_{}_idx{}_ubyte.gz", "Kannada.{}-{}-idx{}-ubyte", "{}-{}-idx{}.GZ", "{}-{}.idx"])
def test_idx_file_names(tmp_path, rng, names):
    (tmp_path / "s").mkdir()
    images, labels = rng.integers(0, 256, (40, 6, 6), dtype=np.uint8), np.arange(40) % 10
    for part in "train", "test" if "emnist" in names else "t10k":
        for what, number, array in (("images", 3, images), ("labels", 1, labels)):
            write_idx(tmp_path / "s" / names.format(part, what, number), array)
    done = prepare(str(tmp_path / "s"), str(tmp_path / "out.h5"), val=10)
    with Dataset(done.out) as data:
        assert {name: len(split) for name, split in data.splits.items()} == {"train": 30, "val": 10, "test": 40}
        np.testing.assert_array_equal(data.read("test", range(40))[:, 0], images)
    assert done.left_out == {}


def test_idx_files_of_several_sets(tmp_path, rng):
    idx_folder(tmp_path / "s", rng)
    idx_folder(tmp_path / "s" / "unpacked", rng, suffix="")
    (tmp_path / "s" / "t10k-images-idx3-ubyte").write_bytes((tmp_path / "s/unpacked/t10k-images-idx3-ubyte").read_bytes())
    (tmp_path / "s" / "._train-images-idx3-ubyte").write_bytes(b"Mac OS X")
    (tmp_path / "s" / "LICENSE").write_text("a licence")
    done = prepare(str(tmp_path / "s"), str(tmp_path / "out.h5"), val=40)
    assert done[1:] == (230, 0, {"is no part of the data set": 6, "is hidden": 1})
    listed = (tmp_path / "out.skipped.jsonl").read_text().splitlines()
    assert json.loads(listed[0]) == {"split": None, "index": None, "image": "._train-images-idx3-ubyte", "reason": "is hidden"}
    assert any("t10k-images-idx3-ubyte.gz" in line for line in listed)  # the same, gzipped
    (tmp_path / "s" / "train-images.idx3-ubyte").write_bytes(b"")
    with pytest.raises(DataError, match="holds both train-images-idx3-ubyte.gz and train-images.idx3-ubyte; move one of"):
        prepare(str(tmp_path / "s"), str(tmp_path / "out.h5"), val=40)
    (tmp_path / "s" / "train-images.idx3-ubyte").rename(tmp_path / "s" / "emnist-letters-train-images-idx3-ubyte")
    with pytest.raises(DataError, match="holds IDX files of 2 sets, such as emnist-letters-train.*, t10k.*; put those of one"):
        prepare(str(tmp_path / "s"), str(tmp_path / "out.h5"), val=40)


def test_a_list_that_cannot_be_written(tmp_path, rng):
    idx_folder(tmp_path / "s", rng)
    (tmp_path / "s" / "LICENSE").write_text("a licence")
    (tmp_path / "out.skipped.jsonl").mkdir()
    (tmp_path / "out.h5").write_bytes(b"as it was")
    with pytest.raises(DataError, match="out.skipped.jsonl: cannot be written: Is a directory; mend that"):
        prepare(str(tmp_path / "s"), str(tmp_path / "out.h5"), val=40)
    assert (tmp_path / "out.h5").read_bytes() == b"as it was"
    assert sorted(os.listdir(tmp_path)) == ["out.h5", "out.skipped.jsonl", "s"]


def test_labels_from_1(tmp_path, rng):
    """EMNIST's letters: 26 classes, 1 is the first. A label that only some of the files lack moves nothing."""
    (tmp_path / "s").mkdir()
    images, labels = rng.integers(0, 256, (104, 6, 6), dtype=np.uint8), np.arange(104) % 26 + 1
    for part in "train", "test":
        write_idx(tmp_path / "s" / f"emnist-letters-{part}-images-idx3-ubyte.gz", images)
        write_idx(tmp_path / "s" / f"emnist-letters-{part}-labels-idx1-ubyte.gz", labels)
    source, out = str(tmp_path / "s"), str(tmp_path / "out.h5")
    letters = list("abcdefghijklmnopqrstuvwxyz")
    for names, classes, first in ((None, [str(k) for k in range(1, 27)], 1), (letters, letters, 1), (["none", *letters],
                                                                                                     ["none", *letters], 0)):
        with Dataset(prepared(source, out, val=26, class_names=names)) as data:
            assert data.classes == classes
            np.testing.assert_array_equal(data.splits["test"].labels, labels - first)
            both = np.concatenate([data.splits[name].labels for name in ("train", "val")])
            np.testing.assert_array_equal(np.bincount(both), [0] * (1 - first) + [4] * 26)
    with pytest.raises(DataError, match="25 class names given, but there is a label 26"):
        prepare(source, out, val=26, class_names=letters[:25])
    write_idx(tmp_path / "s" / "emnist-letters-test-labels-idx1-ubyte.gz", labels - 1)
    with Dataset(prepared(source, out, val=26)) as data:
        assert data.classes == [str(k) for k in range(27)] and data.splits["test"].labels.min() == 0


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


def test_what_lies_beside_cifar(tmp_path, rng):
    files = cifar_files(rng)
    cifar_archive(tmp_path / "s.tar.gz", files | {"readme.html": b"<p>"})
    (tmp_path / "s").mkdir()
    (tmp_path / "s.tar.gz").rename(tmp_path / "s" / cifar.ARCHIVE)
    (tmp_path / "s" / "notes.txt").write_text("")
    for source, listed in (("s", ["notes.txt", f"{cifar.ARCHIVE}/readme.html"]),
                           (f"s/{cifar.ARCHIVE}", [f"{cifar.ARCHIVE}/readme.html"])):
        done = prepare(str(tmp_path / source), str(tmp_path / "out.h5"), val=20)
        assert done.left_out == {"is no part of the data set": len(listed)}
        rows = [json.loads(line) for line in (tmp_path / "out.skipped.jsonl").read_text().splitlines()]
        assert [row["image"] for row in rows] == listed


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

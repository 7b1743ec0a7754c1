"""Some of a data set's classes as a data set of its own: labels, pixels, statistics, and what is refused."""
import h5py
import numpy as np
import pytest

import run as command_line
from data import subset as module
from data.errors import DataError
from data.store.dataset import Dataset
from data.store.moments import Statistics
from data.store.writer import Writer
from data.subset import choose_classes, subset
from tests.helpers import BUNDLED, as_jpegs, small_set


@pytest.fixture(params=["grey", "colour", "jpeg"])
def five(request, tmp_path):
    """A data set of five classes, 41 + 13 images, raw or as JPEGs."""
    path = small_set(tmp_path / "five.h5", size=12, channels=1 if request.param == "grey" else 3, classes=5, train=41, val=13)
    with Dataset(as_jpegs(path, tmp_path / "jpeg.h5") if request.param == "jpeg" else path) as dataset:
        yield dataset


@pytest.mark.parametrize("piece", [1, 1000, 1 << 24])
def test_images_labels_and_statistics(five, tmp_path, monkeypatch, piece):
    monkeypatch.setattr(module, "PIECE_BYTES", piece)
    assert subset(five, tmp_path / "part.h5", [1, 2, 4]) == sum(
        np.isin(split.labels, [1, 2, 4]).sum() for split in five.splits.values())
    with Dataset(tmp_path / "part.h5") as part:
        assert part.classes == ["place 1", "place 2", "place 4"] and list(part.splits) == ["train", "val"]
        assert part.source == f"squares; classes 1, 2, 4 of {five.path.rpartition('/')[2]}"
        for name, split in five.splits.items():
            own = np.isin(split.labels, [1, 2, 4])
            np.testing.assert_array_equal(part.splits[name].labels, np.searchsorted([1, 2, 4], split.labels[own]))
            images = five.read(name, np.flatnonzero(own))
            np.testing.assert_array_equal(part.read(name, range(own.sum())), images)
            if name == "train":
                exact = Statistics(images)
                np.testing.assert_allclose(part.mean, images.mean(axis=0), rtol=1e-6)
                assert (part.pca is None) == (five.channels == 1)
                if part.pca:
                    pixels = images.transpose(0, 2, 3, 1).reshape(-1, 3).astype(np.float64)
                    covariance = np.cov(pixels.T, bias=True)
                    np.testing.assert_allclose((part.pca.vectors * part.pca.std**2) @ part.pca.vectors.T, covariance, rtol=1e-9)
                    np.testing.assert_array_equal(part.pca.std, exact.colour().std)
                assert (np.abs(part.mean - five.mean) > 0.1).any()  # not the whole set's


def test_halves_of_the_bundled_set(tmp_path, capsys):
    assert command_line.main(["subset", str(BUNDLED), str(tmp_path / "half.h5"), "--classes", "0-3,Bag"]) == 0
    assert "half.h5: ready, 6,000 images of 5 classes: T-shirt/top, Trouser, Pullover, Dress, Bag" in capsys.readouterr().out
    with Dataset(tmp_path / "half.h5") as half, Dataset(BUNDLED) as whole:
        assert np.bincount(half.split("train").labels).tolist() == [1000] * 5
        own = np.flatnonzero(whole.split("val").labels == 8)
        np.testing.assert_array_equal(half.read("val", np.flatnonzero(half.split("val").labels == 4)), whole.read("val", own))


@pytest.mark.parametrize("text, expected", [
    ("0-4", [0, 1, 2, 3, 4]), ("3", [3]), ("4, 0-1,1", [0, 1, 4]), ("place 3,place 1", [1, 3]), ("place 2,0", [0, 2])])
def test_choices(five, text, expected):
    assert choose_classes(five, text) == expected


def test_wnids_choose_and_stay(tmp_path):
    images = np.arange(3 * 4 * 4, dtype=np.uint8).reshape(3, 1, 4, 4)
    with Writer(tmp_path / "cranes.h5", ["crane", "tench, Tinca tinca", "crane"], (1, 4, 4), source="a test",
                synsets=["n1", "n2", "n3"]) as writer:
        writer.add_split("train", [0, 1, 2])
        writer.write("train", 0, images)
        writer.set_statistics(Statistics(images))
    with Dataset(tmp_path / "cranes.h5") as cranes:
        assert choose_classes(cranes, "n3,1") == [1, 2]
        with pytest.raises(DataError, match="crane is the name of classes 0 and 2; give the number"):
            choose_classes(cranes, "crane")
        subset(cranes, tmp_path / "part.h5", [1, 2])
    with h5py.File(tmp_path / "part.h5") as file:
        assert list(file["synsets"].asstr()) == ["n2", "n3"]
        assert list(file["classes"].asstr()) == ["tench, Tinca tinca", "crane"]


@pytest.mark.parametrize("classes, message", [
    ("0-5", "has no class '0-5'; its classes are 0-4: place 0, place 1"), ("7", "no class '7'"), ("3-1", "no class '3-1'"),
    ("", "no class ''"), ("0,,1", "no class ''"), ("Bag", "no class 'Bag'"), ("-1", "no class '-1'"),
    ("2", "needs at least two classes, there is only 'place 2'"), ("0,4", "'val' has no images of the classes chosen")])
def test_classes_that_cannot_be(tmp_path, capsys, classes, message):
    five_in_training(tmp_path / "five.h5")
    refused(capsys, tmp_path, ["subset", tmp_path / "five.h5", tmp_path / "out.h5", f"--classes={classes}"], message)


def five_in_training(path):
    """A data set of five classes, of which 'val' has images of the classes 1 to 3 only."""
    with Writer(path, [f"place {k}" for k in range(5)], (1, 4, 4), source="a test") as writer:
        for name, labels in (("train", [0, 1, 2, 3, 4]), ("val", [1, 2, 3])):
            writer.add_split(name, labels)
            writer.write(name, 0, np.zeros((len(labels), 1, 4, 4), np.uint8))
        writer.set_statistics(Statistics(np.zeros((5, 1, 4, 4), np.uint8)))


@pytest.mark.parametrize("data, out, message", [
    ("five.h5", "five.h5", "five.h5: exists already; delete it"), ("nothing.h5", "out.h5", "nothing.h5: no such file"),
    ("text.h5", "out.h5", "text.h5: is not an HDF5 file"), ("five.h5", "no/out.h5", "its folder does not exist")])
def test_files_that_cannot_be(tmp_path, monkeypatch, capsys, data, out, message):
    monkeypatch.chdir(tmp_path)
    small_set("five.h5", classes=5, train=10, val=10)
    (tmp_path / "text.h5").write_text("no data")
    refused(capsys, tmp_path, ["subset", data, out, "--classes", "0-1"], message)


def refused(capsys, folder, words, message):
    """One line, and nothing is left behind."""
    before = {path: path.read_bytes() for path in folder.rglob("*")}
    assert command_line.main([str(word) for word in words]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error, error
    assert {path: path.read_bytes() for path in folder.rglob("*")} == before


def test_a_fault_while_writing_leaves_nothing(five, tmp_path, monkeypatch):
    monkeypatch.setattr(Writer, "set_statistics", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        subset(five, tmp_path / "part.h5", [0, 1])
    assert not list(tmp_path.glob("*part*"))

"""What `check` finds in data sets that were tampered with, and what it says of good ones."""
import h5py
import numpy as np
import pytest
from PIL import Image

import run
from data.check import check
from data.errors import DataError
from data.sheet import SHOWN, TILE, contact_sheet
from data.store.dataset import Dataset
from tests import corpus
from tests.helpers import small_set


@pytest.fixture
def colour(tmp_path):
    return small_set(tmp_path / "set.h5", channels=3, train=300, val=60)


def found(path, **options):
    with Dataset(path) as dataset:
        return check(dataset, workers=2, **options)


def tamper(path, name, change):
    """Replace the dataset `name` of a file by change(its array)."""
    with h5py.File(path, "r+") as file:
        file[name][...] = change(file[name][...])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("sample", [40, 10_000])
def test_a_good_set(tmp_path, channels, sample, monkeypatch):
    monkeypatch.setattr("data.check.PIECE_BYTES", 5 * 16 * 16 * channels)
    findings = found(small_set(tmp_path / "set.h5", channels=channels, train=200), sample=sample)
    assert findings.errors == findings.warnings == []
    facts = "\n".join(findings.facts)
    assert f"  {50:12}{10:12}  3 place 3\n  {200:12}{40:12}  all" in facts
    assert f"mean image of {'40 of 200' if sample == 40 else 'all 200'} training images" in facts
    assert ("covariance" in facts) == (channels == 3)


def test_the_sample_is_as_exact_as_it_says(colour):
    """The difference from the truth, over many samples, is about one standard error: a fifth of what is allowed."""
    shares = []
    for k in range(30):
        small_set(colour, channels=3, train=300, val=60, seed=k)
        line = next(line for line in found(colour, sample=60).facts if line.startswith("mean"))
        difference, allowed = float(line.split("by ")[1].split()[0]), float(line.split()[-1])
        shares.append(difference / allowed)
    assert 0.15 < np.mean(shares) < 0.25


@pytest.mark.parametrize("name, change, sample, words", [
    ("mean", lambda mean: mean + np.float32(0.01), 10_000, "mean image of all 300"),
    ("mean", lambda mean: mean + 30, 100, "mean image of 100 of 300"),
    ("mean", lambda mean: mean.transpose(0, 2, 1) * (np.arange(16) > 3), 100, "mean image of 100 of 300"),
    ("pca/std", lambda std: std * 1.01, 10_000, "covariance of colours of all 300"),
    ("pca/std", lambda std: std * 2, 100, "covariance of colours of 100 of 300"),
    ("pca/std", lambda std: std[::-1], 10_000, "descending"),
    ("pca/vectors", lambda vectors: vectors[:, [1, 0, 2]], 10_000, "covariance of colours"),
    ("pca/vectors", lambda vectors: vectors * 1.001, 10_000, "orthonormal"),
])
def test_wrong_statistics(colour, name, change, sample, words):
    tamper(colour, name, change)
    assert any(words in line for line in found(colour, sample=sample).errors)


def test_copies(tmp_path):
    path = small_set(tmp_path / "set.h5", train=96, val=40)
    with h5py.File(path, "r+") as file:
        train, val = file["train/images"], file["val/images"]
        train[50] = train[10]  # 10 and 50 are both of class 2
        train[51] = train[10]  # and 51 of class 3
        val[7], val[8] = train[20], val[9]
    findings = found(path)
    assert findings.errors == [line for line in findings.errors if "mean image" in line]  # which no longer fits
    assert findings.warnings == [
        "2 of 96 images of 'train' are copies of others in 'train', 1 of them in another class; "
        "the first: train 50 is train 10",
        "1 of 40 images of 'val' are copies of images of 'train', 1 of them in another class; "
        "the first: val 7 is train 20",
        "1 of 40 images of 'val' are copies of others in 'val', 1 of them in another class; the first: val 9 is val 8"]
    assert "copies: 4 of 136 images, compared by a hash of their pixels" in findings.facts


def test_classes(tmp_path):
    path = small_set(tmp_path / "set.h5", classes=60, train=96)
    tamper(path, "train/labels", lambda labels: np.where(labels < 4, 9, labels))
    tamper(path, "classes", lambda names: np.where(np.arange(60) == 1, b"place 2", names))
    findings = found(path)
    assert findings.warnings == ["4 classes have no training images: place 0, place 2, place 2, place 3",
                                 "names of more than one class: place 2"]
    assert "images of the 5 smallest and the 5 largest of 60 training classes:" in findings.facts
    assert f"  {10:12}{1:12}  9 place 9" in findings.facts


def test_images_that_cannot_be_read(colour, monkeypatch):
    with Dataset(colour) as dataset:
        split = dataset.splits["val"]
        read = split.read

        def failing(indices, out=None):
            if set(indices) & {5, 17}:
                raise DataError(f"image {sorted(set(indices) & {5, 17})[0]} of 'val' is damaged")
            return read(indices, out)

        monkeypatch.setattr(split, "read", failing)
        findings = check(dataset, workers=2)
    assert findings.errors == ["2 images of 'val' cannot be read: image 5 of 'val' is damaged"]
    assert findings.warnings == []


def test_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = small_set(tmp_path / "a set.h5", channels=3)
    assert run.main(["check", str(path)]) == 0
    said = capsys.readouterr()
    assert "0 errors, 0 warnings" in said.out and "error" not in said.err
    with Image.open("a set-sheet.png") as sheet:
        assert sheet.format == "PNG" and sheet.height > 4 * TILE
    assert run.main(["check", str(path), "--sheet", "nowhere/sheet.png"]) == 1
    assert "sheet.png: could not be written: there is no folder" in capsys.readouterr().err
    tamper(path, "mean", lambda mean: mean + 9)
    assert run.main(["check", str(path)]) == 1
    said = capsys.readouterr()
    assert "error: mean image" in said.err and "2 errors" in said.out

    tamper(path, "train/labels", lambda labels: np.where(np.arange(len(labels)) == 3, 4, labels))
    assert run.main(["check", str(path)]) == 1
    assert "label 4 of image 3 of 'train' is outside 0..3" in capsys.readouterr().err
    path.write_bytes(path.read_bytes()[:-500])
    assert run.main(["check", str(path)]) == 1
    assert "truncated" in capsys.readouterr().err


@pytest.mark.filterwarnings("error")
def test_contact_sheet(tmp_path):
    """Every tile shows an image of its row's class; odd names do no harm."""
    path = small_set(tmp_path / "set.h5", channels=3, size=72, train=40, val=6)
    level = 60 + np.arange(40, dtype=np.uint8)[:, None, None, None] % 4 * 40
    tamper(path, "train/images", lambda images: np.full_like(images, level))
    with Dataset(path) as dataset:
        dataset.classes = ["$\\frac$", "写真", "long " * 50, ""]
        contact_sheet(dataset, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    for label, level in enumerate((60, 100, 140, 180)):
        area = (pixels == level).all(axis=2).sum()
        assert area > 0.6 * SHOWN["train"] * TILE**2, label


def test_a_thousand_classes_fit_on_a_sheet(tmp_path):
    with Dataset(small_set(tmp_path / "set.h5", classes=1000, train=1000, val=40)) as dataset:
        contact_sheet(dataset, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert 24 * TILE < sheet.height < 30 * TILE


@pytest.fixture
def jpegs(colour, rng):
    """A set of pictures as smooth as photographs, stored as JPEGs, with the statistics of the pictures before that."""
    with h5py.File(colour, "r+") as file:
        for part in ("train", "val"):
            count = len(file[f"{part}/labels"])
            small = rng.integers(0, 128, (count, 1, 1, 3)) + rng.integers(0, 128, (count, 4, 4, 1))  # a colour, light and dark
            pictures = [Image.fromarray(pixels).resize((16, 16), Image.Resampling.BICUBIC) for pixels in small.astype(np.uint8)]
            stored = [corpus.save(picture, "JPEG", quality=95) for picture in pictures]
            del file[f"{part}/images"]
            file[f"{part}/jpeg"] = np.frombuffer(b"".join(stored), np.uint8)
            file[f"{part}/offsets"] = np.cumsum([0] + [len(data) for data in stored])
            if part == "train":
                pixels = np.stack(pictures).astype(np.float64)
                values, vectors = np.linalg.eigh(np.cov(pixels.reshape(-1, 3).T, bias=True))
                file["mean"][...] = pixels.mean(axis=0).transpose(2, 0, 1)
                file["pca/std"][...], file["pca/vectors"][...] = np.sqrt(values[::-1]), vectors[:, ::-1]
    return colour


@pytest.mark.parametrize("sample", [40, 10_000])
def test_a_set_of_jpegs(jpegs, sample):
    assert found(jpegs, sample=sample).errors == []
    tamper(jpegs, "mean", lambda mean: mean[::-1] + 50)
    assert any("mean image" in line for line in found(jpegs, sample=sample).errors)


def test_damaged_jpegs_are_counted(jpegs):
    with h5py.File(jpegs, "r+") as file:
        for k in (5, 17):
            place = file["val/offsets"][k]
            file["val/jpeg"][place:place + 20] = 0
    errors = found(jpegs).errors
    assert len(errors) == 1 and "2 images of 'val' cannot be read" in errors[0] and "image 5 of 'val'" in errors[0]

"""Images that cannot be converted are left out and listed, and what else a store of pixels or JPEGs then holds."""

import io
import json
import os
import shutil

import h5py
import numpy as np
import pytest
from PIL import Image

from cpnet.commands.prepare import main
from data.errors import DataError
from data.prepare import prepare
from data.sources.encoded import Encoded
from data.store.dataset import Dataset
from tests.helpers import run
from tests.test_prepare import folders


def test_images_that_cannot_be_converted_are_listed(tmp_path, rng, monkeypatch):
    source = folders(tmp_path / "s", rng, {"a": 40, "b": 40})
    whole = prepare(source, str(tmp_path / "out.h5"), size=8, val_fraction=0.25)
    assert whole[1:3] == (80, 0) and sorted(os.listdir(tmp_path)) == ["out.h5", "s"]
    with Dataset(whole.out) as data:
        before = {name: (data.read(name, range(len(split))), split.labels) for name, split in data.splits.items()}
    bad = ["a/000.png", "a/016.png", "b/017.png", "b/039.png"]
    for name in bad:
        (tmp_path / "s" / name).write_bytes(b"\x89PNG but not really")
    for workers in (1, 3):
        done = prepare(source, str(tmp_path / "out.h5"), size=8, val_fraction=0.25, workers=workers)
        assert done[1:3] == (76, 4) and sorted(os.listdir(tmp_path)) == ["out.h5", "out.skipped.jsonl", "s"]
        lines = [json.loads(line) for line in (tmp_path / "out.skipped.jsonl").read_text().splitlines()]
        assert sorted(line["image"] for line in lines) == bad
        assert all(line["reason"].startswith("is not an image") for line in lines)
        with Dataset(done.out) as data:
            for name, (pixels, labels) in before.items():
                gone = [line["index"] for line in lines if line["split"] == name]
                np.testing.assert_array_equal(data.read(name, range(len(data.splits[name]))), np.delete(pixels, gone, axis=0))
                np.testing.assert_array_equal(data.splits[name].labels, np.delete(labels, gone))
            np.testing.assert_allclose(data.mean, data.read("train", range(len(data.splits["train"]))).mean(axis=0), rtol=1e-6)
    for name in bad:
        shutil.copy(tmp_path / "s" / "a" / "001.png", tmp_path / "s" / name)
    prepare(source, str(tmp_path / "out.h5"), size=8)
    assert sorted(os.listdir(tmp_path)) == ["out.h5", "s"]  # a list of skipped images belongs to one data set


def test_a_set_without_one_good_image(tmp_path, rng):
    source = folders(tmp_path / "s", rng, {"a": 2, "b": 2})
    for path in (tmp_path / "s").rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match="none of the 3 images of 'train' can be converted, first a/00"):
        prepare(source, str(tmp_path / "out.h5"), size=8, val_fraction=0.3)
    assert os.listdir(tmp_path) == ["s"]


def test_a_source_that_cannot_be_read_is_not_skipped(tmp_path, rng, monkeypatch):
    source = folders(tmp_path / "s", rng, {"a": 20, "b": 20})
    true_read, broken = os.pread, [True]

    def pread(fd, size, place):
        if broken[0]:
            raise OSError(5, "Input/output error")
        return true_read(fd, size, place)

    monkeypatch.setattr("data.sources.encoded.os.pread", pread)
    with pytest.raises(DataError, match="cannot be read: Input/output error; the same command goes on"):
        prepare(source, str(tmp_path / "out.h5"), size=8)
    assert not (tmp_path / "out.h5").exists()
    broken[0] = False
    assert prepare(source, str(tmp_path / "out.h5"), size=8)[1:3] == (40, 0)


@pytest.mark.parametrize("how, reason", [("vanished", "has vanished since it was listed"),
                                         ("shorter", "has another size than when it was listed"),
                                         ("longer", "has another size than when it was listed")])
def test_images_that_change_while_it_runs(tmp_path, rng, monkeypatch, how, reason):
    source = folders(tmp_path / "s", rng, {"a": 20, "b": 20})
    true = Encoded.read

    def read(self, index):
        path = tmp_path / "s" / "a" / "003.png"
        if path.exists() and str(self.names[index]) == "a/003.png":
            data = path.read_bytes()
            path.unlink()
            if how != "vanished":
                path.write_bytes(data[:-1] if how == "shorter" else data + b"0")
        return true(self, index)

    monkeypatch.setattr(Encoded, "read", read)
    done = prepare(source, str(tmp_path / "out.h5"), size=8)
    assert done[1:] == (39, 1, {reason: 1})
    row = json.loads((tmp_path / "out.skipped.jsonl").read_text())
    assert row["image"] == "a/003.png" and row["reason"] == reason


def test_a_folder_that_vanishes_is_not_skipped(tmp_path, rng, monkeypatch):
    """Its disk may have been taken away."""
    source = folders(tmp_path / "s", rng, {"a": 20, "b": 20})
    with monkeypatch.context() as patch, pytest.raises(DataError, match="a/.*png: cannot be read: No such file"):
        patch.setattr("data.prepare._check_space", lambda *_: (tmp_path / "s" / "a").rename(tmp_path / "a"))
        prepare(source, str(tmp_path / "out.h5"), size=8)
    assert not (tmp_path / "out.h5").exists()
    (tmp_path / "a").rename(tmp_path / "s" / "a")
    assert prepare(source, str(tmp_path / "out.h5"), size=8)[1:3] == (40, 0)


def test_jpeg_store(tmp_path, rng):
    source = folders(tmp_path / "s", rng, {"a": 12, "b": 9})
    (tmp_path / "s" / "a" / "003.png").write_bytes(b"")
    options = dict(size=32, val_fraction=0.2)
    raw = prepare(source, str(tmp_path / "raw.h5"), **options)
    done = prepare(source, str(tmp_path / "jpeg.h5"), store="jpeg", **options)
    assert done[1:3] == raw[1:3] == (20, 1)
    with Dataset(done.out) as jpegs, Dataset(raw.out) as pixels:
        for split in "train", "val":
            every = range(len(pixels.splits[split]))
            assert np.abs(jpegs.read(split, every).astype(int) - pixels.read(split, every)).mean() < 8
    with h5py.File(done.out) as jpegs, h5py.File(raw.out) as pixels:
        assert jpegs.keys() == pixels.keys() and list(jpegs["train"]) == ["jpeg", "labels", "offsets"]
        for name in "mean", "pca/std", "pca/vectors", "classes", "train/labels", "val/labels":
            np.testing.assert_array_equal(jpegs[name][()], pixels[name][()])
        for split in "train", "val":
            data, offsets = jpegs[split]["jpeg"], jpegs[split]["offsets"][()]
            assert data.dtype == np.uint8 and data.ndim == 1 and data.chunks is None and data.id.get_offset()
            assert offsets.dtype == np.int64 and offsets[0] == 0 and offsets[-1] == len(data)
            assert len(offsets) == len(jpegs[split]["labels"]) + 1
            for k, expected in enumerate(pixels[split]["images"][()]):
                image = Image.open(io.BytesIO(data[offsets[k]:offsets[k + 1]].tobytes()))
                assert image.format == "JPEG" and image.quantization[0][0] == 2  # that of quality 95
                assert np.abs(np.asarray(image).transpose(2, 0, 1).astype(int) - expected).mean() < 8


def test_the_exit_code(tmp_path, rng):
    source = folders(tmp_path / "s", rng, {"a": 10, "b": 10})
    (tmp_path / "s" / "a" / "003.png").write_bytes(b"")
    for most, code in (("0.1%", 1), ("5%", 0), ("0.049", 1), ("0.05", 0)):
        done = run("prepare", source, tmp_path / "out.h5", "--size", "8", "--max-skipped", most, check=code)
        listed, out = tmp_path / "out.skipped.jsonl", tmp_path / "out.h5"
        error = f"error: 1 images (5.00%) could not be converted, for the reasons in {listed}; mend them or allow for them with --max-skipped"
        assert (done.stderr.splitlines()[-1] == error) == bool(code)
        assert done.stdout.splitlines()[-1] == (
            f"{out}: ready, 19 images of 2 classes; 1 files left out, which {listed} lists; train with python run.py --data {out}")
    assert "'2' is not a share" in run("prepare", source, "out.h5", "--max-skipped", "2", check=2).stderr


def test_interrupted(tmp_path, rng, monkeypatch, capfd):
    source = folders(tmp_path / "s", rng, {"a": 10, "b": 10})

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("data.store.part.Part.append", interrupt)
        assert main([source, str(tmp_path / "out.h5"), "--size", "8"]) == 130
    assert capfd.readouterr().err.endswith("error: interrupted; the same command goes on from here\n")
    assert not main([source, str(tmp_path / "out.h5"), "--size", "8"])
    assert sorted(os.listdir(tmp_path)) == ["out.h5", "s"]

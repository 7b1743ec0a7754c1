import json

import numpy as np
import pytest

from bench import loader
from data.store.dataset import Dataset


@pytest.fixture(scope="module")
def result(torch, tmp_path_factory):
    """Everything once, at a size that measures nothing."""
    return loader.measure(tmp_path_factory.mktemp("bench"), images=80, rounds=1, threads=1, batch=8, size=16, net="mini",
                          steps=2, loop_seconds=0.02)


def test_the_figures(result):
    assert [row["case"] for row in result["rows"]] == ["raw-uint8", "raw-float32", "jpeg-pillow"]
    for row in result["rows"]:
        assert row["ours"] > 0 and row["peer"] > 0 and row["ratio"] == pytest.approx(row["ours"] / row["peer"])
        assert row["cores_for_40000"] == pytest.approx(40_000 / row["ours_per_core"])
    assert result["gpu_path"]["ours"] > 0 and result["launch_loop"]["images_per_s"] > 0
    assert result["step"]["seconds"] > 0 and result["step"]["slowed"] > -1 and result["launch_loop"]["slowed"] > -1
    assert len(loader.report(result).splitlines()) == 8


def test_the_file(result, torch, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(loader, "measure", lambda folder, **settings: {**result, "asked": settings})
    loader.main(["--quick", "--json", str(tmp_path / "loader.json")])
    written = json.loads((tmp_path / "loader.json").read_text())
    assert written["rows"] == result["rows"] and "cpu" in written["machine"]
    assert (written["asked"]["images"], written["asked"]["rounds"]) == (1536, 1)
    assert "raw-float32" in capsys.readouterr().out


def test_both_make_the_same_batches_of_the_same_files(torch, tmp_path):
    """The peer's crops are windows of the same images, mirrored or not, and as floats centred: it does the same work."""
    from bench.torch_loader import Images
    raw, jpeg = loader.make(tmp_path, 70, 16)
    with Dataset(raw) as pixels, Dataset(jpeg) as jpegs:
        np.testing.assert_array_equal(pixels.read("train", [1]), pixels.read("train", [65]))
        image = pixels.read("train", [3])[0]
        crop, label = Images(pixels, "raw-uint8", 16)[3]
        assert label == 1 and any(np.array_equal(crop.numpy(), each) for each in (image, image[..., ::-1]))
        for data, case in (pixels, "raw-float32"), (jpegs, "jpeg-pillow"):
            centred = data.read("train", [3])[0] - data.mean
            crop = Images(data, case, 16)[3][0].numpy()
            differences = [crop - each for each in (centred, centred[..., ::-1])]
            spread = min(np.ptp(each, axis=(1, 2)).max() for each in differences)  # but for a constant a channel, the shift
            assert crop.dtype == np.float32 and crop.shape == (3, 16, 16) and spread < 1e-3

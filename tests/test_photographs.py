"""The colour set of tests/photographs.py, and figure 3 of a net that has learned it."""
import numpy as np
from PIL import Image

import run
from tests import photographs


def test_patches_lie_where_they_should(tmp_path, monkeypatch):
    """Of an image whose red says how far right, and whose green how far down, a pixel is."""
    x, y = np.meshgrid(np.arange(200), np.arange(150))
    Image.fromarray(np.stack([x, y, np.full_like(x, 7)], axis=2).astype(np.uint8)).save(tmp_path / "ramp.png")
    monkeypatch.setattr(photographs, "installed", lambda: {"ramp": tmp_path / "ramp.png"})
    photographs.write(tmp_path / "set", 20, 16)
    for split, count, low, high in (("train", 20, 0, 160), ("val", 4, 160, 200)):
        files = sorted((tmp_path / "set" / split / "ramp").iterdir())
        pixels = np.stack([np.asarray(Image.open(file)) for file in files]).astype(int)
        assert pixels.shape == (count, 16, 16, 3) and (pixels[..., 2] == 7).all()
        assert low - 1 <= pixels[..., 0].min() and pixels[..., 0].max() <= high
        spans = pixels[:, 0, -1, 0] - pixels[:, 0, 0, 0]
        assert 12 <= spans.min() and spans.max() <= 48  # one to three times the size
        assert np.ptp(pixels[:, 0, 0, 1]) > 10  # not always the same place
    photographs.write(tmp_path / "large", 5, 64)  # the part for validation is 40 pixels wide
    assert Image.open(tmp_path / "large" / "val" / "ramp" / "00000.png").size == (64, 64)


def test_filters_of_a_colour_net(tmp_path, monkeypatch, capsys):
    """From the photograph that matplotlib brings: patches, data set, training, figure 3 and its saturations."""
    hopper = photographs.installed()["hopper"]
    monkeypatch.setattr(photographs, "installed", lambda: {"first": hopper, "second": hopper})
    photographs.write(tmp_path / "set", 40, 32)
    data, runs, picture = str(tmp_path / "set.h5"), str(tmp_path / "runs"), str(tmp_path / "filters.png")
    assert run.main(["prepare", str(tmp_path / "set"), data, "--size", "32"]) == 0
    words = ["--data", data, "--net", "mini", "--devices", "cpu", "--epochs", "1", "--batch", "16", "--runs", runs]
    assert run.main(words) == 0
    capsys.readouterr()
    assert run.main(["filters", f"{runs}/mini-1/checkpoint-last.h5", picture]) == 0
    said = capsys.readouterr().out
    assert "32 filters of 5×5" in said and said.count("of the filters' energy is colour") == 2
    colours = np.asarray(Image.open(picture).convert("RGB")).astype(int)
    assert np.ptp(colours, axis=2).max() > 30

"""Figure 3: the picture of conv1, the columns' colour, the film."""
import numpy as np
import pytest
from PIL import Image

import run as command_line
from cpnet.errors import CpnetError
from cpnet.studies import filters
from tests.helpers import small_set


def test_every_filter_has_its_place(rng):
    weights = rng.standard_normal((96, 3, 11, 11)) * rng.uniform(0.01, 10, (96, 1, 1, 1))
    picture = filters.draw(weights, 2)
    zoom = filters.SIDE // 11
    for f in 0, 15, 16, 47, 48, 95:
        column, place = divmod(f, 48)
        top = column * (3 * (11 * zoom + 2) + 6) + place // 16 * (11 * zoom + 2) + 2
        left = place % 16 * (11 * zoom + 2) + 2
        tile = picture[top:top + 11 * zoom:zoom, left:left + 11 * zoom:zoom].transpose(2, 0, 1)
        expected = 255 * (0.5 + 0.5 * weights[f] / np.abs(weights[f]).max())
        np.testing.assert_allclose(tile, expected, atol=0.51)
    assert picture.shape == (2 * (3 * 46 + 6) - 4, 16 * 46 + 2, 3)


@pytest.mark.parametrize("shape, columns", [((1, 1, 3, 3), 1), ((5, 3, 7, 7), 1), ((34, 1, 50, 50), 2)])
def test_odd_numbers_of_filters(rng, shape, columns):
    picture = filters.draw(rng.standard_normal(shape), columns)
    assert picture.dtype == np.uint8 and picture.ndim == 3
    assert (filters.draw(np.zeros(shape), columns) >= 127).all()  # no division by nothing


def test_saturation():
    grey, colour = np.ones((2, 3, 4, 4)), np.zeros((2, 3, 4, 4))
    colour[:, 0], colour[:, 1] = 1, -1
    np.testing.assert_allclose(filters.saturation(np.concatenate([grey, colour]), 2), [0, 1])
    np.testing.assert_allclose(filters.saturation(np.concatenate([grey + colour, grey + colour]), 2), 2 / 5)
    with pytest.raises(CpnetError, match="grey images"):
        filters.saturation(np.ones((2, 1, 4, 4)), 2)
    with pytest.raises(CpnetError, match="2 channels"):
        filters.draw(np.ones((2, 2, 4, 4)), 2)


def test_the_command_and_the_film(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small_set("squares.h5", channels=3, train=32, val=8)
    assert command_line.main("--data squares.h5 --epochs 3 --batch 16 --name a".split()) == 0
    capsys.readouterr()
    assert command_line.main("filters runs/a/checkpoint-last.h5 f.png --film f.gif".split()) == 0
    said = capsys.readouterr().out
    assert "column 1: " in said and "column 2: " in said
    with Image.open("f.png") as picture, Image.open("f.gif") as film:
        assert film.n_frames == 3 and film.size == picture.size
    last = np.load("runs/a/filters/003.npy")
    np.testing.assert_array_equal(filters.snapshots("runs/a")[2], last)
    assert command_line.main("filters runs/a/checkpoint-last.h5 no/f.png".split()) == 1
    assert "no/f.png: could not be written" in capsys.readouterr().err
    for path in (tmp_path / "runs/a/filters").iterdir():
        path.unlink()
    assert command_line.main("filters runs/a/checkpoint-last.h5 f.png --film f.gif".split()) == 1
    assert "keeps no filters by epoch" in capsys.readouterr().err

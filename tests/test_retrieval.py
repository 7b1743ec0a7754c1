"""Features and neighbours (section 6.1)."""
import h5py
import numpy as np
import pytest

import run as command_line
from cpnet import features, neighbours
from cpnet.columns import devices
from cpnet.errors import CpnetError
from cpnet.features import Features, extract, hidden, last_hidden
from cpnet.layers import Pass
from cpnet.nets import build
from cpnet.network import Network
from data.dataset import Dataset
from tests.helpers import small_set


def network(placed="cpu", **options):
    table = build("mini", (1, 14, 14), 4, **options)
    return Network(table, devices(placed, 2), seed=1)


@pytest.mark.parametrize("block", [1, 64 << 20])
def test_nearest_is_a_full_sort(rng, monkeypatch, block):
    monkeypatch.setattr(neighbours, "BLOCK_BYTES", block)
    vectors, queries = rng.integers(-3, 4, (57, 5)), rng.integers(-3, 4, (9, 5))  # many equal distances
    indices, distances = neighbours.nearest(queries, vectors, 7)
    exact = np.linalg.norm(queries[:, None] - vectors, axis=2)
    np.testing.assert_allclose(distances, np.sort(exact, axis=1)[:, :7], atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(exact, indices, axis=1), distances, atol=1e-5)
    assert all(len(set(row)) == 7 for row in indices)
    with pytest.raises(ValueError, match="there are 57 vectors, not 58"):
        neighbours.nearest(queries, vectors, 58)


def test_precision():
    assert neighbours.precision(np.array([[0, 1], [2, 3]]), [5, 6, 5, 5], [5, 5]) == 0.75


def test_the_last_hidden_layer(rng):
    assert last_hidden(build("alexnet")).name == last_hidden(build("alexnet", dropout=False)).name == "fc7 relu"
    assert last_hidden(build("four-layer", (3, 24, 24), 10)).name == "conv3 pool"
    images = 50 * rng.standard_normal((1, 14, 14, 3)).astype(np.float32)
    one, two = network(), network("cpu,cpu")
    np.testing.assert_allclose(hidden(one, images), hidden(two, images), rtol=1e-4)
    w, b = one.get("values", "fc8.weight"), one.get("values", "fc8.bias")
    np.testing.assert_allclose(0.5 * hidden(one, images) @ w.T + b, one.forward(images, Pass()).T, rtol=1e-4, atol=1e-6)


def test_features_of_a_data_set_and_going_on(tmp_path, monkeypatch):
    net = network()
    with Dataset(small_set(tmp_path / "s.h5", train=50, val=9)) as dataset:
        extract(net, dataset, tmp_path / "whole.h5", ["train", "val"], made_from="a", batch=8)
        monkeypatch.setattr(features, "SAVE_EVERY", 2)
        seen = []

        def stop_in_the_fifth_batch(*arguments):
            seen.append(1)
            if len(seen) == 5:
                raise KeyboardInterrupt
            return hidden(*arguments)

        monkeypatch.setattr(features, "hidden", stop_in_the_fifth_batch)
        with pytest.raises(KeyboardInterrupt):
            extract(net, dataset, tmp_path / "part.h5", ["train", "val"], made_from="a", batch=8)
        assert not (tmp_path / "part.h5").exists()
        extract(net, dataset, tmp_path / "part.h5", ["train", "val"], made_from="a", batch=8)
        assert len(seen) == 5 + (7 - 4) + 2  # four batches were saved
        extract(net, dataset, tmp_path / "part.h5", ["train", "val"], made_from="b", batch=8)  # another net: all again
        assert len(seen) == 10 + 9
    assert {path.name for path in tmp_path.iterdir()} == {"s.h5", "whole.h5", "part.h5"}
    for split, count in ("train", 50), ("val", 9):
        (one, labels), (other, _) = Features(tmp_path / "whole.h5").split(split), Features(tmp_path / "part.h5").split(split)
        np.testing.assert_array_equal(one[()], other[()])
        assert one.shape == (count, 1024) and len(labels) == count and one[()].any()


def test_the_commands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small_set("squares.h5", train=32, val=8)
    small_set("other.h5", train=48, val=8)
    for words in ("--data squares.h5 --epochs 1 --batch 16 --name a", "features runs/a/checkpoint-last.h5 squares.h5 f.h5",
                  "neighbours f.h5 squares.h5 --queries val --picture n.png"):
        assert command_line.main(words.split()) == 0
    said = capsys.readouterr().out
    assert "features    1,024 numbers" in said and "pixels        256 numbers" in said and "of the nearest 6" in said
    assert (tmp_path / "n.png").read_bytes()[:4] == b"\x89PNG"
    for words, message in (("neighbours f.h5 other.h5 --queries val", "it was made from another data set"),
                           ("neighbours f.h5 squares.h5", "f.h5: has no split 'test', only train, val"),
                           ("neighbours squares.h5 squares.h5", "squares.h5: is not a features file"),
                           ("neighbours none.h5 squares.h5", "none.h5: cannot be read"),
                           ("features runs/a/checkpoint-last.h5 squares.h5 no/f.h5", "no/f.h5: could not be written"),
                           ("features runs/a/checkpoint-last.h5 squares.h5 g.h5 --splits test", "has no split 'test'")):
        assert command_line.main(words.split()) == 1
        assert message in capsys.readouterr().err


def test_a_file_of_another_version(tmp_path):
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file.attrs.update(format=features.FORMAT, version=features.VERSION + 1)
    with pytest.raises(CpnetError, match="is not a features file"):
        Features(tmp_path / "f.h5")

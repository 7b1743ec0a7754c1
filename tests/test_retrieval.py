"""Features and neighbours (section 6.1, figure 4)."""
import h5py
import numpy as np
import pytest

import run as command_line
from cpnet.errors import CpnetError
from cpnet.gpu.devices import named
from cpnet.layers import Pass
from cpnet.nets import build
from cpnet.network import Network
from cpnet.studies import features, neighbours
from cpnet.studies.features import Features, ahead, extract, hidden, last_hidden, open_vectors
from data.store.dataset import Dataset
from tests.gpus import gpus
from tests.helpers import small_set


def network(placed="cpu", **options):
    table = build("mini", (1, 14, 14), 4, **options)
    return Network(table, named(placed, 2), seed=1)


@pytest.fixture(params=["cpu", "1", "2"])
def device(request):
    return neighbours.CPU if request.param == "cpu" else gpus(request.param, 1)[0]


@pytest.mark.parametrize("rows", [20, 1 << 13])
def test_nearest_is_a_full_sort(rng, monkeypatch, device, rows):
    """Whole numbers, so distances are exact, and many are equal: the lower index comes first, across blocks too."""
    monkeypatch.setattr(neighbours, "BLOCK_ROWS", rows)
    monkeypatch.setattr(neighbours, "KEYS_CPU", 4 * rows)  # the queries in three tasks
    vectors, queries = rng.integers(-1, 2, (57, 5)), rng.integers(-1, 2, (9, 5))
    indices, distances = neighbours.nearest(queries, vectors, 30, device)
    squares = np.square(queries[:, None] - vectors).sum(axis=2)
    np.testing.assert_array_equal(indices, np.argsort(squares, axis=1, kind="stable")[:, :30])
    np.testing.assert_array_equal(distances, np.sqrt(np.sort(squares, axis=1)[:, :30].astype(np.float32)))
    with pytest.raises(ValueError, match="there are 57 vectors, not 58"):
        neighbours.nearest(queries, vectors, 58, device)


@pytest.mark.parametrize("rows", [20, 1 << 13])
def test_nearest_codes_is_a_full_sort(rng, monkeypatch, device, rows):
    monkeypatch.setattr(neighbours, "BLOCK_ROWS", rows)
    bits = rng.integers(2, size=(66, 70), dtype=np.uint8)
    words = np.zeros((66, 2), np.uint64)
    words.view(np.uint8)[:, :9] = np.packbits(bits, axis=1)
    differ = (bits[57:, None] != bits[:57]).sum(axis=2)
    indices, distances = neighbours.nearest_codes(words[57:], words[:57], 30, device)
    np.testing.assert_array_equal(indices, np.argsort(differ, axis=1, kind="stable")[:, :30])
    np.testing.assert_array_equal(distances, np.sort(differ, axis=1)[:, :30])


def test_a_gpu_is_told_when_it_cannot_choose_so_many(rng):
    vectors = rng.standard_normal((5000, 2))
    with pytest.raises(ValueError, match="a GPU chooses 4096 neighbours at most, not 5000"):
        neighbours.nearest(vectors[:1], vectors, 5000, gpus("0", 1)[0])


def test_a_shortlist_is_searched_exactly(rng):
    vectors, queries = rng.standard_normal((57, 5)).astype(np.float32), rng.standard_normal((9, 5)).astype(np.float32)
    whole, _ = neighbours.nearest(queries, vectors, 57)
    np.testing.assert_array_equal(neighbours.rerank(queries, vectors, rng.permuted(whole, axis=1), 7), whole[:, :7])
    even = np.tile(np.arange(0, 57, 2), (9, 1))
    expected = [[i for i in row if i % 2 == 0][:7] for row in whole]
    np.testing.assert_array_equal(neighbours.rerank(queries, vectors, even, 7), expected)


def test_blocks_are_read_ahead():
    """The next one while this one is used, and not more; an error is raised where its block is asked for."""
    begun = []

    def read(task):
        begun.append(task)
        return 1 // task

    blocks = ahead(read, [1, 2, 0, 3])
    assert next(blocks) == 1 and set(begun) <= {1, 2}
    assert next(blocks) == 0
    with pytest.raises(ZeroDivisionError):
        next(blocks)
    assert list(ahead(read, [])) == []


def test_rows_of_a_file(tmp_path, rng):
    """Features and raw pixels, by a slice, by indices in any order, and none."""
    path = small_set(tmp_path / "s.h5", train=50, val=9)
    with Dataset(path) as dataset:
        extract(network(), dataset, tmp_path / "f.h5", ["train", "val"], made_from="a")
        pixels = dataset.read("val", range(9)).reshape(9, -1)
    with h5py.File(tmp_path / "f.h5") as file:
        stored = file["val/features"][()]
    for name, expected in ("f.h5", stored), ("s.h5", pixels):
        source = open_vectors(tmp_path / name)
        rows, labels = source.split("val")
        assert rows.shape == expected.shape and rows.dtype == expected.dtype and len(rows) == len(labels) == 9
        for which in slice(None), slice(2, 7), slice(4, 4), [8, 0, 3, 3], np.array([], int):
            np.testing.assert_array_equal(rows[which], expected[which])
        source.close()


def test_a_search_in_a_file_is_that_in_memory(tmp_path):
    with Dataset(small_set(tmp_path / "s.h5", train=50, val=9)) as dataset:
        extract(network(), dataset, tmp_path / "f.h5", ["train", "val"], made_from="a")
    source = Features(tmp_path / "f.h5")
    (rows, _), (queries, _) = source.split("train"), source.split("val")
    for one, other in zip(neighbours.nearest(queries[:], rows, 10), neighbours.nearest(queries[:], rows[:], 10), strict=True):
        np.testing.assert_array_equal(one, other)


def test_precision():
    assert neighbours.precision(np.array([[0, 1], [2, 3]]), [5, 6, 5, 5], [5, 5]) == 0.75


def test_the_last_hidden_layer(rng):
    assert last_hidden(build("alexnet")).name == last_hidden(build("alexnet", dropout=False)).name == "fc7 relu"
    assert last_hidden(build("four-layer", (3, 24, 24), 10)).name == "conv3 pool"
    images = 50 * rng.standard_normal((1, 14, 14, 3)).astype(np.float32)
    one, two = network(), network("cpu,cpu")
    np.testing.assert_allclose(hidden(one, images), hidden(two, images), rtol=1e-4, atol=1e-5)
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
        np.testing.assert_array_equal(one[:], other[:])
        assert one.shape == (count, 1024) and len(labels) == count and one[:].any()


def test_the_commands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small_set("squares.h5", train=32, val=8)
    small_set("other.h5", train=48, val=8)
    for words in ("--data squares.h5 --epochs 1 --batch 16 --name a", "features runs/a/checkpoint-last.h5 squares.h5 f.h5",
                  "codes f.h5 c.h5 --bits 8 --hidden 9 --epochs 2", "codes squares.h5 p.h5 --bits 70 --epochs 1"):
        assert command_line.main(words.split()) == 0
    capsys.readouterr()
    words = "neighbours f.h5 squares.h5 --queries val --codes c.h5 p.h5 --shortlist 32 --devices cpu --picture n.png"
    assert command_line.main(words.split()) == 0
    lines = capsys.readouterr().out.splitlines()
    for line, words in zip(lines, (("features", "1,024 numbers", "4,096 bytes"), ("c.h5", " 8 bits", " 1 bytes"),
                                   ("32, then features", " 8 bits"), ("p.h5", "70 bits", " 9 bytes"),
                                   ("pixels", "256 numbers", "256 bytes")), strict=False):
        assert all(word in line for word in words) and "ms a query: " in line and "% of the nearest 6" in line
    assert len(lines) == 6 and lines[5] == "n.png: ready"
    assert (tmp_path / "n.png").read_bytes()[:4] == b"\x89PNG"
    assert command_line.main("codes other.h5 o.h5 --bits 8 --hidden 9 --epochs 1".split()) == 0
    for words, message in (("neighbours f.h5 other.h5 --queries val", "other.h5: is not the data set that f.h5 was made from: it has 48 train"),
                           ("neighbours f.h5 squares.h5 --queries val --codes o.h5", "squares.h5: is not the data set that o.h5 was made from"),
                           ("neighbours f.h5 squares.h5", "squares.h5: has no split 'test'"),
                           ("neighbours squares.h5 squares.h5", "squares.h5: is not a features file"),
                           ("neighbours none.h5 squares.h5", "none.h5: there is no such features file"),
                           ("features runs/a/checkpoint-last.h5 squares.h5 no/f.h5", "no/f.h5: could not be written"),
                           ("features runs/a/checkpoint-last.h5 squares.h5 g.h5 --splits test", "has no split 'test'")):
        assert command_line.main(words.split()) == 1
        assert message in capsys.readouterr().err


def test_a_file_of_another_version(tmp_path):
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file.attrs.update(format=features.FORMAT, version=features.VERSION + 1)
    with pytest.raises(CpnetError, match="is not a features file"):
        Features(tmp_path / "f.h5")

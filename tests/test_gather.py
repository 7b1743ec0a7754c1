"""Many pieces of a file by one system call: the right bytes, and no harm where the file is not what it was."""
import gc
import os

import numpy as np
import pytest

from data import gather, pixels
from data.dataset import DataError, Dataset
from data.gather import Map, Memory
from data.loader import Loader
from tests.helpers import small_set

needs_memfd = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="this system has no files in memory")


@pytest.fixture
def squares(tmp_path):
    with Dataset(small_set(tmp_path / "squares.h5", train=48, val=4)) as dataset:
        yield dataset


def open_files():
    gc.collect()
    return sorted(os.listdir("/proc/self/fd"))


@needs_memfd
@pytest.mark.parametrize("pieces", [1, 7, 8, 9, 40])
def test_pieces_of_any_size_in_any_order(tmp_path, monkeypatch, pieces):
    monkeypatch.setattr(gather, "PIECES", 8)
    random, path = np.random.default_rng(pieces), tmp_path / "bytes"
    content = random.integers(256, size=50_000, dtype=np.uint8)
    path.write_bytes(content.tobytes())
    starts = random.integers(40_000, size=pieces)
    stops = starts + random.integers(1, 10_000, size=pieces)
    expected = np.concatenate([content[start:stop] for start, stop in zip(starts, stops, strict=True)])
    memory = Memory(expected.shape)
    with open(path, "rb") as file:
        assert Map(file.fileno()).gather(starts.tolist(), stops.tolist(), memory)
    np.testing.assert_array_equal(memory.array, expected)


@needs_memfd
@pytest.mark.parametrize("left", [0, 5_000])
def test_a_file_cut_short_is_no_end(tmp_path, left):
    path = tmp_path / "bytes"
    path.write_bytes(bytes(50_000))
    with open(path, "rb") as file:
        mapped = Map(file.fileno())
        os.truncate(path, left)
        assert not mapped.gather([0, 20_000], [20_000, 40_000], Memory((40_000,)))


@needs_memfd
def test_what_cannot_be_mapped_is_not_gathered(tmp_path):
    (tmp_path / "empty").touch()
    with open(tmp_path / "empty", "rb") as file:
        assert not Map(file.fileno()).gather([0], [1], Memory((1,)))


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="this system does not list open files")
def test_files_are_closed(tmp_path):
    before = open_files()
    with Dataset(small_set(tmp_path / "squares.h5", train=48, val=4)) as dataset:
        with Loader(dataset, "train", batch=4, crop=14, threads=2) as loader:
            next(loader)
        del loader
    del dataset
    assert open_files() == before


def test_the_same_images_without_it(squares, monkeypatch):
    def epoch():
        with Loader(squares, "train", batch=4, crop=14, raw=True) as loader:
            return [batch.packed.images.copy() for batch in loader]

    gathered = epoch()
    monkeypatch.delattr(os, "memfd_create", raising=False)
    np.testing.assert_array_equal(epoch(), gathered)


@needs_memfd
def test_a_read_is_one_call(squares, monkeypatch):
    calls, write = [], os.pwritev
    monkeypatch.setattr(os, "pwritev", lambda *arguments: calls.append(len(arguments[1])) or write(*arguments))
    monkeypatch.delattr(os, "preadv")
    split, memory = squares.split("train"), Memory((5, *squares.split("train").image_shape))
    images = split.read([40, 3, 4, 5, 0], memory.array, memory)
    assert calls == [3]
    monkeypatch.undo()
    np.testing.assert_array_equal(images, split.read([40, 3, 4, 5, 0]))


@needs_memfd
def test_a_closed_data_set_is_not_read(squares):
    split, memory = squares.split("train"), Memory((1, *squares.split("train").image_shape))
    squares.close()
    with pytest.raises(DataError, match="cannot be read: Bad file descriptor"):
        split.read([0], memory.array, memory)


@needs_memfd
@pytest.mark.parametrize("quick, hinted", [(0, pixels.HINTED), (np.inf, 12)], ids=["from memory", "from a disk"])
def test_hints_end_when_the_file_is_in_memory(squares, monkeypatch, quick, hinted):
    monkeypatch.setattr(pixels, "QUICK", quick)
    hints, hint = [], squares.split("train").pixels.hint
    monkeypatch.setattr(squares.split("train").pixels, "hint", lambda indices: hints.append(indices) or hint(indices))
    with Loader(squares, "train", batch=4, crop=14) as loader:
        batches = [batch.indices for batch in loader]
    assert len(batches) == 12 and len(hints) == hinted
    np.testing.assert_array_equal(hints, batches[:hinted])

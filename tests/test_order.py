"""What an epoch draws: the order of the images, the ranks' shares of it, places of crops, mirrors, colours."""
import collections

import numpy as np
import pytest

from data.loading import order
from data.loading.augment import random_views
from data.loading.order import BLOCK, WINDOW, Batches, epoch_order


def test_draws_are_uniform():
    """33·33 places of a 224 crop, mirrors and α, over 100,000 images: within five standard deviations."""
    count = 33 * 33 * 100
    pca = collections.namedtuple("Colour", "std vectors")(np.array([3.0, 2.0, 1.0]), np.linalg.qr(
        np.random.default_rng(0).normal(size=(3, 3)))[0])
    views = random_views(count, (3, 256, 256), 224, 7, 8, pca=pca)
    assert views.top.min() == views.left.min() == 0 and views.top.max() == views.left.max() == 32
    table = np.bincount(views.top * 33 + views.left, minlength=33 * 33)
    chi2 = ((table - 100) ** 2 / 100).sum()
    assert abs(chi2 - 1088) < 5 * np.sqrt(2 * 1088)
    assert abs(views.mirror.mean() - 0.5) < 5 * 0.5 / np.sqrt(count)
    assert abs(np.corrcoef(views.mirror, views.left)[0, 1]) < 5 / np.sqrt(count)
    alpha = views.shift @ pca.vectors / pca.std
    np.testing.assert_allclose(alpha.mean(axis=0), 0, atol=5 * 0.1 / np.sqrt(count))
    np.testing.assert_allclose(np.cov(alpha.T), 0.01 * np.eye(3), atol=5 * 0.01 * np.sqrt(2 / count))


def test_every_place_is_used_when_rows_and_columns_differ():
    views = random_views(5000, (1, 9, 8), 6, 0, 0)
    assert {*zip(views.top.tolist(), views.left.tolist(), strict=True)} == {(y, x) for y in range(4) for x in range(3)}


@pytest.mark.parametrize("count", [1, BLOCK, BLOCK + 5, 3 * WINDOW + 17])
def test_blocks_are_a_permutation_that_is_read_in_runs(count):
    drawn = epoch_order(count, 1, 2, "blocks")
    np.testing.assert_array_equal(np.sort(drawn), np.arange(count))
    np.testing.assert_array_equal(drawn, epoch_order(count, 1, 2, "blocks"))
    for start in range(0, count, WINDOW):
        window = np.sort(drawn[start:start + WINDOW])
        runs = 1 + np.count_nonzero(np.diff(window) != 1)
        assert runs <= -(-len(window) // BLOCK) + 1  # the file's short last block may shift the windows by a part of one
    if count > WINDOW:
        assert (drawn != epoch_order(count, 1, 3, "blocks")).any()


def test_blocks_mix_as_far_as_a_window_goes():
    """Neighbours in the file are apart: a batch of 128 has images of about as many blocks as chance would give it."""
    drawn = epoch_order(4 * WINDOW, 0, 0, "blocks")
    blocks = [len(np.unique(drawn[start:start + 128] // BLOCK)) for start in range(0, len(drawn), 128)]
    expected = WINDOW // BLOCK * (1 - (1 - BLOCK / WINDOW) ** 128)
    assert abs(np.mean(blocks) - expected) < 2
    assert np.corrcoef(np.arange(len(drawn)), drawn)[0, 1] < 0.5


@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
@pytest.mark.parametrize("count, batch", [(100, 8), (97, 4), (57, 8), (9, 5)])
def test_shares(count, batch, ranks):
    """Disjoint, cover the epoch, full but for the last batch, and equally many."""
    drawn = epoch_order(count, 0, 0)
    ours = [Batches(drawn, batch, rank, ranks) for rank in range(ranks)]
    (number,) = {each.count(False) for each in ours}
    parts = [[each.indices(k) for each in ours] for k in range(number)]
    np.testing.assert_array_equal(np.concatenate([part for each in parts for part in each]), drawn)
    assert all(len(part) == batch for each in parts[:ours[0].count(True)] for part in each)
    assert all(max(map(len, each)) - min(map(len, each)) <= 1 for each in parts)
    assert ours[0].count(True) == count // (batch * ranks)


@pytest.mark.parametrize("start", [0, 3, 5])
def test_blocks_are_fetched_a_window_ahead_and_in_runs(monkeypatch, start):
    monkeypatch.setattr(order, "WINDOW", 40)
    monkeypatch.setattr(order, "BLOCK", 8)
    drawn = epoch_order(150, 0, 0, "blocks")
    batches, fetched = Batches(drawn, 10, windows=True, start=start), set()
    for number in range(start, batches.count(False)):
        for indices in batches.fetch(number):
            assert (np.diff(indices) > 0).sum() >= len(indices) - 2  # sorted, but where a window ends
            assert len(indices) <= (80 if number == start else 10)  # at the start this window and the next one's beginning
            fetched |= set(indices.tolist())
        assert fetched >= set(batches.indices(number).tolist())
    (own,) = Batches(drawn, 10).fetch(2)
    np.testing.assert_array_equal(own, drawn[20:30])

"""Keys of distances and their smallest, on every device."""
import numpy as np
import pytest

from cpnet.studies.ops import nearest


def test_square_sums(backend, rng):
    for shape in (1, 1), (9, 33), (70, 130):
        vectors = rng.standard_normal(shape).astype(np.float32)
        backend.assert_close(nearest.square_sums(backend.to_device(vectors)),
                             np.square(vectors, dtype=np.float64).sum(axis=1), "float32")


@pytest.mark.parametrize("queries, count, width", [(1, 1, 1), (3, 300, 70), (2, 7, 5)])
def test_euclidean_keys(backend, rng, queries, count, width):
    """Whole numbers: the squared distances are exact."""
    asked, vectors = (rng.integers(-9, 10, (rows, width)).astype(np.float32) for rows in (queries, count))
    on_device = backend.to_device(asked), backend.to_device(vectors)
    sums = [nearest.square_sums(array) for array in on_device]
    keys = backend.to_host(nearest.euclidean_keys(*on_device, *sums, 1 << 31))
    np.testing.assert_array_equal((keys >> 32).astype(np.uint32).view(np.float32),
                                  np.square(asked[:, None] - vectors).sum(axis=2))
    np.testing.assert_array_equal(keys & 0xFFFFFFFF, np.tile(np.arange(count) + (1 << 31), (queries, 1)))


def test_a_rounded_distance_is_not_negative(backend):
    one = backend.to_device(np.array([[1.5]], np.float32))
    low = backend.to_device(np.array([1.0], np.float32))
    assert backend.to_host(nearest.euclidean_keys(one, one, low, low, 3)).tolist() == [[3]]


@pytest.mark.parametrize("queries, count, words", [(1, 1, 1), (3, 300, 2), (2, 7, 5)])
def test_hamming_keys(backend, rng, queries, count, words):
    asked, codes = (rng.integers(2**64, size=(rows, words), dtype=np.uint64) for rows in (queries, count))
    keys = backend.to_host(nearest.hamming_keys(backend.to_device(asked), backend.to_device(codes.T), 5))
    expected = [[sum((int(a) ^ int(b)).bit_count() for a, b in zip(query, code, strict=True)) for code in codes]
                for query in asked]
    np.testing.assert_array_equal(keys >> 32, expected)
    np.testing.assert_array_equal(keys & 0xFFFFFFFF, np.tile(np.arange(count) + 5, (queries, 1)))


@pytest.mark.parametrize("count, had, k", [(1, 1, 1), (9, 3, 3), (300, 40, 40), (3, 40, 40)])
def test_smallest(backend, rng, count, had, k):
    keys, best = rng.integers(2**64, size=(3, count), dtype=np.uint64), rng.integers(2**64, size=(3, had), dtype=np.uint64)
    keys[1] = np.arange(count) + 50  # next to each other
    best[1] = np.arange(had)[::-1]
    chosen = nearest.smallest(backend.to_device(keys), backend.to_device(best), k)
    np.testing.assert_array_equal(backend.to_host(chosen), np.sort(np.concatenate([keys, best], axis=1), axis=1)[:, :k])

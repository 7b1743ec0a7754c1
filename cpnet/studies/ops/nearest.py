"""Which of many vectors, or of many binary codes, lie nearest (section 6.1).

A key is a distance and an index in one uint64: the distance's 32 bits above the index's.
(A float32 that is not negative and its bits, read as an integer, are in the same order.) So no two keys are
equal, the smallest are the nearest, of equal distances the lower index comes first, and the nearest of
several blocks are the smallest of all their keys.
"""
import numpy as np

from cpnet.gpu.kernels import blocks, expect, launch
from cpnet.gpu.memory import empty
from cpnet.gpu.platform import on_gpu
from cpnet.ops.conv.launches import product_of_rows
from cpnet.threads import scratch

THREADS = 256  # a GPU block's
MOST = 4096  # keys that a GPU block can choose, in 32 KiB of shared memory


def square_sums(vectors):
    """vectors (N, D) float32 → Σ of their squares (N)."""
    if not on_gpu(vectors):
        return np.einsum("nd,nd->n", vectors, vectors)
    sums = empty(vectors.shape[:1], np.float32, vectors)
    launch(__file__, "square_sums", blocks(len(vectors), THREADS // 32), THREADS, vectors, sums,
           *vectors.shape, defines={"THREADS": THREADS})
    return sums


def euclidean_keys(queries, vectors, query_squares, squares, first):
    """queries (Q, D), vectors (N, D), float32, and the sums of their squares (Q), (N) → keys (Q, N),
    of squared distances ‖q‖² + ‖v‖² − 2 q·v. `first`: the index of the first vector.
    On a CPU the keys are scratch memory."""
    shape = len(queries), len(vectors)
    if on_gpu(queries):
        products, keys = (empty(shape, kind, queries) for kind in (np.float32, np.uint64))
        product_of_rows(queries, vectors, products)
        expect("euclidean_keys", shape[:1], query_squares=query_squares)
        expect("euclidean_keys", shape[1:], squares=squares)
        launch(__file__, "euclidean_keys", _grid(shape), THREADS, products, query_squares, squares, keys,
               shape[1], first, defines={"THREADS": THREADS})
        return keys
    distances = np.matmul(queries, vectors.T, out=scratch("nearest.distances", shape, np.float32))
    distances *= -2
    distances += squares
    distances += query_squares[:, None]
    return _keys(np.maximum(distances, 0, out=distances).view(np.uint32), first)


def hamming_keys(queries, codes, first):
    """queries (Q, W), codes (W, N), uint64 words → keys (Q, N), of the number of bits that differ.
    `first`: as above."""
    shape = len(queries), codes.shape[1]
    if on_gpu(queries):
        keys = empty(shape, np.uint64, queries)
        expect("hamming_keys", (queries.shape[1], shape[1]), codes=codes)
        launch(__file__, "hamming_keys", _grid(shape), THREADS, queries, codes, keys, shape[1],
               queries.shape[1], first, defines={"THREADS": THREADS})
        return keys
    differ, bits = scratch("nearest.differ", shape, np.uint64), scratch("nearest.bits", shape, np.uint8)
    counts = scratch("nearest.counts", shape, np.uint32)
    counts[...] = 0
    for query, code in zip(queries.T, codes, strict=True):
        counts += np.bitwise_count(np.bitwise_xor(query[:, None], code, out=differ), out=bits)
    return _keys(counts, first)


def _keys(distances, first):
    """distances uint32 (Q, N) → keys, scratch memory."""
    keys = scratch("nearest.keys", distances.shape, np.uint64)
    np.left_shift(distances, np.uint64(32), out=keys)
    keys |= np.arange(first, first + keys.shape[1], dtype=np.uint64)
    return keys


def smallest(keys, best, k):
    """keys (Q, N) and best (Q, M), uint64, no two of a row equal, k ≤ N + M → (Q, k):
    the smallest of both, in order. `keys` may be lost."""
    if not on_gpu(keys):
        if keys.shape[1] > k:
            keys.partition(k - 1, axis=1)
        return np.sort(np.concatenate([best, keys[:, :k]], axis=1), axis=1)[:, :k]
    if k > MOST:
        raise ValueError(f"a GPU chooses {MOST} neighbours at most, not {k}")
    expect("smallest", (len(keys), best.shape[1]), best=best)
    chosen = empty((len(keys), k), np.uint64, keys)
    launch(__file__, "smallest", len(keys), THREADS, keys, best, chosen, keys.shape[1], best.shape[1],
           k, shared=8 * k, defines={"THREADS": THREADS})
    return chosen


def _grid(shape):
    """Queries along y, of which a grid has up to 65,535; what they are compared with along x."""
    return blocks(shape[1], THREADS), shape[0]

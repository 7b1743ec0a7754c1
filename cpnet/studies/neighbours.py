"""Images alike (section 6.1, figure 4): the nearest vectors, or binary codes, found exactly.

The vectors stay on the disk: 1.2 million features of 4096 numbers are 20 GB. They are read block by block,
the next one while this one is searched, and of each block only the nearest are kept.
A search is shared over the CPU's threads by queries, or done by a GPU.
"""
import numpy as np

from cpnet.gpu.devices import Device
from cpnet.gpu.kernels import GRID
from cpnet.gpu.memory import to_host
from cpnet.gpu.platform import on_gpu
from cpnet.studies.features import ahead
from cpnet.studies.ops.nearest import euclidean_keys, hamming_keys, smallest, square_sums
from cpnet.threads import chunks, parallel

BLOCK_BYTES, BLOCK_ROWS = 16 << 20, 1 << 13  # of what is searched, read at a time
# keys of a task, some of the queries against a block: on a CPU they stay in the cache
KEYS_CPU, KEYS_GPU = 1 << 17, 1 << 26
CPU = Device()


def nearest(queries, vectors, k, device=CPU):
    """queries (Q, D), vectors (N, D), an array or Rows → (indices int64 (Q, k), distances float32 (Q, k)),
    nearest first, of equal distances the lower index first. Distances are rounded as float32's squares are.
    k must be at most N."""
    queries = device.put(np.ascontiguousarray(queries, np.float32))
    own = square_sums(queries)

    def prepare(block):
        block = device.put(np.ascontiguousarray(block, np.float32))
        return block, square_sums(block)

    def keys(part, prepared, first):
        return euclidean_keys(queries[part], prepared[0], own[part], prepared[1], first)

    found = _search(queries, vectors, k, 4 * vectors.shape[1], device, prepare, keys)
    return _indices(found), np.sqrt((found >> 32).astype(np.uint32).view(np.float32))


def nearest_codes(queries, codes, k, device=CPU):
    """queries (Q, W), codes (N, W), uint64 words → (indices int64 (Q, k), how many bits differ, int64
    (Q, k)): as `nearest`."""
    queries = device.put(np.ascontiguousarray(queries))

    def prepare(block):
        return device.put(np.ascontiguousarray(block.T))

    def keys(part, block, first):
        return hamming_keys(queries[part], block, first)

    found = _search(queries, codes, k, 8 * codes.shape[1], device, prepare, keys)
    return _indices(found), (found >> 32).astype(np.int64)


def _indices(keys):
    return (keys & 0xFFFFFFFF).astype(np.int64)


def _search(queries, rows, k, row_bytes, device, prepare, keys):
    """The k smallest keys of each query, uint64 (Q, k).
    keys(part of the queries, prepare(block), first index)."""
    if k > len(rows):
        raise ValueError(f"there are {len(rows)} vectors, not {k}")
    step = max(1, min(BLOCK_ROWS, BLOCK_BYTES // row_bytes))
    gpu = on_gpu(queries)
    most = min(GRID[1], max(1, (KEYS_GPU if gpu else KEYS_CPU) // step))
    parts = [(number, slice(*part)) for number, part in enumerate(chunks(len(queries), most))]
    none = ~np.arange(k, dtype=np.uint64)  # larger than any key, and, as keys must be, all different
    best = [device.put(np.tile(none, (part.stop - part.start, 1))) for _, part in parts]
    blocks = chunks(len(rows), step)
    for (first, _), block in zip(blocks, ahead(lambda block: rows[slice(*block)], blocks), strict=True):
        prepared = prepare(block)

        def task(number, part, prepared=prepared, first=first):
            best[number] = smallest(keys(part, prepared, first), best[number], k)

        if gpu:
            for part in parts:
                task(*part)
        else:
            parallel(task, parts)
    return np.concatenate([to_host(each) for each in best])


def rerank(queries, vectors, found, k):
    """Of each query's shortlist `found` (Q, K), indices into `vectors` (N, D), the k nearest to queries
    (Q, D) → indices (Q, k), nearest first, of equal distances the lower index first.
    Only the shortlists' vectors are read."""
    indices = np.empty((len(queries), k), np.int64)

    def task(number):
        listed = np.sort(found[number])
        squares = np.square(vectors[listed] - queries[number].astype(np.float32)).sum(axis=1)
        indices[number] = listed[np.argsort(squares, kind="stable")[:k]]

    parallel(task, [(number,) for number in range(len(queries))])
    return indices


def precision(indices, labels, wanted):
    """The share of the images `indices` (Q, k) that have their query's class:
    labels (N) of the images, `wanted` (Q)."""
    return float((np.asarray(labels)[indices] == np.asarray(wanted)[:, None]).mean())

"""Images alike (section 6.1, figure 4): the smallest Euclidean distances, found exactly."""
import numpy as np

BLOCK_BYTES = 64 << 20  # of the vectors searched, read at a time: the whole need not fit into memory


def nearest(queries, vectors, k):
    """queries (Q, D), vectors (N, D), an array or an HDF5 dataset read in blocks → (indices int64 (Q, k), distances float32
    (Q, k)), nearest first, of equal distances the lower index first. k must be at most N."""
    if k > len(vectors):
        raise ValueError(f"there are {len(vectors)} vectors, not {k}")
    queries = np.asarray(queries, np.float32)
    own = np.square(queries, dtype=np.float32).sum(axis=1)[:, None]
    step = max(k, BLOCK_BYTES // (4 * vectors.shape[1]))
    best = np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32)
    for start in range(0, len(vectors), step):
        block = np.asarray(vectors[start:start + step], np.float32)
        squares = own + np.square(block).sum(axis=1) - 2 * (queries @ block.T)
        here = np.argpartition(squares, min(k, len(block)) - 1, axis=1)[:, :k]
        indices = np.concatenate([best[0], here + start], axis=1)
        squares = np.concatenate([best[1], np.take_along_axis(squares, here, axis=1)], axis=1)
        order = np.lexsort((indices, squares), axis=1)[:, :k]
        best = np.take_along_axis(indices, order, axis=1), np.take_along_axis(squares, order, axis=1)
    return best[0], np.sqrt(np.maximum(best[1], 0))


def precision(indices, labels, wanted):
    """The share of the images `indices` (Q, k) that have their query's class: labels (N) of the images, `wanted` (Q)."""
    return float((np.asarray(labels)[indices] == np.asarray(wanted)[:, None]).mean())

"""Retrieval (section 6.1): how precise, fast and small searches by features,
by their codes and by pixels are."""
import time

import numpy as np

from cpnet.errors import CpnetError
from cpnet.figures import draw_neighbours
from cpnet.studies.features import Features, Pixels
from cpnet.studies.neighbours import nearest, nearest_codes, precision, rerank
from data.store.identity import difference, fingerprint

NEAR = 6, 100  # figure 4 shows six


class Retrieval:
    """Searches for `count` images of a split, drawn by `seed`, among the training images: by `features`
    (Features), by each of `coded` (Codes), and by pixels. With `shortlist`, also by features among so many
    nearest by codes. `picture`: figure 4, right, as a PNG.
    Raises CpnetError where the files were not made from `dataset`.
    """

    def __init__(self, features, coded, dataset, device, *, split, count, seed, shortlist=None, picture=None):
        self.dataset, self.device, self.split = dataset, device, split
        self.shortlist, self.picture = shortlist, picture
        self.features, self.pixels, self.coded = features, Pixels(dataset), coded
        self.labels, self.wanted = dataset.split("train").labels, dataset.split(split).labels
        found = fingerprint(dataset)
        for source in features, *coded:
            differs = difference(source.fingerprint or found, found)
            if differs:
                raise CpnetError(f"{dataset.path}: is not the data set that {source.path} was made from: "
                                 f"{differs}")
            for name, labels in ("train", self.labels), (split, self.wanted):
                if not np.array_equal(source.split(name)[1], labels):
                    raise CpnetError(f"{source.path}: the labels of '{name}' are not those of "
                                     f"{dataset.path}: it was made from another data set")
        self.drawn = np.random.default_rng(seed).permutation(len(self.wanted))[:count]
        self.chosen = np.sort(self.drawn)  # as they lie in the file
        self.most = min(max(NEAR), len(self.labels))

    def run(self):
        """All searches, one after the other, each with a line of its precision, speed and size."""
        found = self.by_vectors("features", self.features)
        if self.picture:
            rows = np.searchsorted(self.chosen, self.drawn[:5])
            draw_neighbours(self.dataset, self.split, self.chosen[rows], found[rows, :NEAR[0]], self.picture)
        for codes in self.coded:
            self.by_codes(codes)
        self.by_vectors("pixels", self.pixels)
        if self.picture:
            print(f"{self.picture}: ready")

    def by_vectors(self, name, source):
        """Exactly, by Euclidean distance → indices (Q, most)."""
        base, _ = source.split("train")
        queries = source.split(self.split)[0][self.chosen]
        return self.timed(name, f"{base.shape[1]:,} numbers", base.shape[1] * base.dtype.itemsize,
                          lambda: nearest(queries, base, self.most, self.device)[0])

    def by_codes(self, codes):
        """By the number of bits that differ; and of a shortlist by that, by features."""
        base, queries = codes.split("train")[0], codes.split(self.split)[0][self.chosen]

        def search(k):
            return nearest_codes(queries, base, k, self.device)[0]

        size, length = f"{codes.bits:,} bits", -(-codes.bits // 8)
        self.timed(codes.path, size, length, lambda: search(self.most))
        if self.shortlist and codes.kind == Features.kind:
            k = min(max(self.shortlist, self.most), len(self.labels))
            vectors, _ = self.features.split("train")
            asked = self.features.split(self.split)[0][self.chosen]
            self.timed(f"  {k:,}, then features", size, length,
                       lambda: rerank(asked, vectors, search(k), self.most))

    def timed(self, name, size, length, search):
        """search() → indices (Q, most), and a line about it."""
        began = time.perf_counter()
        found = search()
        ms = 1000 * (time.perf_counter() - began) / len(self.chosen)
        shares = ", ".join(f"{precision(found[:, :k], self.labels, self.wanted[self.chosen]):.2%} of the "
                           f"nearest {k}"
                           for k in NEAR if k <= self.most)
        print(f"{name:<22} {size:>15}, {length:>7,} bytes an image, {ms:8.3f} ms a query: {shares} have its "
              "class")
        return found

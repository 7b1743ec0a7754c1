"""Images alike: precision and speed of retrieval, and figure 4, right."""
import time

import numpy as np

from cpnet.commands.common import add_one_device, one_device, open_data
from cpnet.errors import CpnetError
from cpnet.figures import draw_neighbours
from cpnet.kinds import positive, whole
from cpnet.options import Parser
from cpnet.studies.codes import Codes
from cpnet.studies.features import Features, Pixels
from cpnet.studies.neighbours import nearest, nearest_codes, precision, rerank

NEAR = 6, 100  # figure 4 shows six


def main(words):
    parser = Parser("neighbours", "FEATURES DATA.h5",
                    "Looks up images: finds the training images that are nearest to each by features, by "
                    "codes and by pixels, and counts how many of those have its class.",
                    "Example: python run.py neighbours features.h5 my.h5 --codes codes.h5 --picture "
                    "alike.png")
    parser.add_argument("features", metavar="FEATURES", help="A file that the command features made.")
    parser.add_argument("data", metavar="DATA.h5", help="The data set that it was made from.")
    parser.add_argument("--codes", nargs="+", default=[], metavar="CODES",
                        help="Also searches by these files, which the command codes made from the features "
                             "or the data.")
    parser.add_argument("--shortlist", type=positive, metavar="K",
                        help="Also searches by features among only the K images that are nearest by the "
                             "features' codes.")
    parser.add_argument("--queries", default="test", metavar="SPLIT", help="Looks up images of this split.")
    parser.add_argument("--count", type=positive, default=1000, metavar="N",
                        help="Looks up N images, drawn at random.")
    parser.add_argument("--seed", type=whole, default=0, metavar="N", help="Draws them from this number.")
    parser.add_argument("--picture", metavar="PNG",
                        help="Draws five images, each with the six nearest by features, as figure 4 (right).")
    add_one_device(parser)
    options = parser.parse(words)
    features, coded = Features(options.features), [Codes(path) for path in options.codes]
    device = one_device(options)
    with open_data(options.data) as dataset:
        Retrieval(features, coded, dataset, options, device).run()
    features.close()


class Retrieval:
    """The searches of the command, one after the other, each with a line of its precision, speed and size."""

    def __init__(self, features, coded, dataset, options, device):
        self.dataset, self.options, self.device = dataset, options, device
        self.features, self.pixels, self.coded = features, Pixels(dataset), coded
        self.labels, self.wanted = (dataset.split(split).labels for split in ("train", options.queries))
        for source in features, *coded:
            for split, labels in ("train", self.labels), (options.queries, self.wanted):
                if not np.array_equal(source.split(split)[1], labels):
                    raise CpnetError(f"{source.path}: the labels of '{split}' are not those of "
                                     f"{dataset.path}: it was made from another data set")
        self.drawn = np.random.default_rng(options.seed).permutation(len(self.wanted))[:options.count]
        self.chosen = np.sort(self.drawn)  # as they lie in the file
        self.most = min(max(NEAR), len(self.labels))

    def run(self):
        found = self.by_vectors("features", self.features)
        if self.options.picture:
            rows = np.searchsorted(self.chosen, self.drawn[:5])
            draw_neighbours(self.dataset, self.options.queries, self.chosen[rows], found[rows, :NEAR[0]], self.options.picture)
        for codes in self.coded:
            self.by_codes(codes)
        self.by_vectors("pixels", self.pixels)
        if self.options.picture:
            print(f"{self.options.picture}: ready")

    def by_vectors(self, name, source):
        """Exactly, by Euclidean distance → indices (Q, most)."""
        base, _ = source.split("train")
        queries = source.split(self.options.queries)[0][self.chosen]
        return self.timed(name, f"{base.shape[1]:,} numbers", base.shape[1] * base.dtype.itemsize,
                          lambda: nearest(queries, base, self.most, self.device)[0])

    def by_codes(self, codes):
        """By the number of bits that differ; and of a shortlist by that, by features."""
        base, queries = codes.split("train")[0], codes.split(self.options.queries)[0][self.chosen]

        def search(k):
            return nearest_codes(queries, base, k, self.device)[0]

        size, length = f"{codes.bits:,} bits", -(-codes.bits // 8)
        self.timed(codes.path, size, length, lambda: search(self.most))
        if self.options.shortlist and codes.kind == Features.kind:
            k = min(max(self.options.shortlist, self.most), len(self.labels))
            vectors, _ = self.features.split("train")
            asked = self.features.split(self.options.queries)[0][self.chosen]
            self.timed(f"  {k:,}, then features", size, length, lambda: rerank(asked, vectors, search(k), self.most))

    def timed(self, name, size, length, search):
        """search() → indices (Q, most), and a line about it."""
        began = time.perf_counter()
        found = search()
        ms = 1000 * (time.perf_counter() - began) / len(self.chosen)
        shares = ", ".join(f"{precision(found[:, :k], self.labels, self.wanted[self.chosen]):.2%} of the nearest {k}"
                           for k in NEAR if k <= self.most)
        print(f"{name:<22} {size:>15}, {length:>7,} bytes an image, {ms:8.3f} ms a query: {shares} have its class")
        return found

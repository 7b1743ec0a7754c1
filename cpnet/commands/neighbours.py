"""Images alike: precision and speed of retrieval, and figure 4, right."""
import time

import numpy as np

from cpnet.commands.common import one_device, one_device_options, open_data
from cpnet.errors import CpnetError
from cpnet.figures import draw_neighbours
from cpnet.options import Parser, positive, whole
from cpnet.studies.codes import Codes
from cpnet.studies.features import Features, Pixels
from cpnet.studies.neighbours import nearest, nearest_codes, precision, rerank

NEAR = 6, 100  # figure 4 shows six


def main(words):
    parser = Parser(prog="run.py neighbours",
                    description="how often the nearest training images, by features, codes and pixels, have the query's class")
    parser.add_argument("features", help="a file made by `features`")
    parser.add_argument("data", help="the data set that it was made from")
    parser.add_argument("--codes", nargs="+", default=[], metavar="H5", help="files made by `codes` from either")
    parser.add_argument("--shortlist", type=positive, metavar="K",
                        help="also by features, but only among the K nearest by each of the features' codes")
    parser.add_argument("--queries", default="test", help="the split whose images are looked up")
    parser.add_argument("--count", type=positive, default=1000, help="queries, drawn at random")
    parser.add_argument("--seed", type=whole, default=0, help="of the draw")
    parser.add_argument("--picture", metavar="PNG", help="figure 4, right: five queries, their six nearest by features")
    one_device_options(parser)
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
                    raise CpnetError(f"{source.path}: the labels of '{split}' are not those of {dataset.path}: it was made "
                                     "from another data set")
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

"""Images alike: precision and speed of retrieval, and figure 4, right."""
import time

import numpy as np

from cpnet.commands.common import open_data
from cpnet.errors import CpnetError
from cpnet.features import Features
from cpnet.figures import draw_neighbours
from cpnet.neighbours import nearest, precision
from cpnet.options import Parser, positive, whole

NEAR = 6, 100  # figure 4 shows six


def main(words):
    parser = Parser(prog="run.py neighbours",
                    description="how often the nearest training images have the query's class, by features and by pixels")
    parser.add_argument("features", help="a file made by `features`")
    parser.add_argument("data", help="the data set that it was made from")
    parser.add_argument("--queries", default="test", help="the split whose images are looked up")
    parser.add_argument("--count", type=positive, default=1000, help="queries, drawn at random")
    parser.add_argument("--seed", type=whole, default=0, help="of the draw")
    parser.add_argument("--picture", metavar="PNG", help="figure 4, right: five queries, their six nearest by features")
    options = parser.parse(words)
    features = Features(options.features)
    with open_data(options.data) as dataset:
        vectors, labels = features.split("train")
        asked, wanted = features.split(options.queries)
        for split, count in ("train", len(labels)), (options.queries, len(wanted)):
            if len(dataset.split(split)) != count:
                raise CpnetError(f"{options.features}: has {count} images of '{split}', {dataset.path} has "
                                 f"{len(dataset.split(split))}: it was made from another data set")
        drawn = np.random.default_rng(options.seed).permutation(len(wanted))[:options.count]
        chosen, most = np.sort(drawn), min(max(NEAR), len(labels))
        pixels = {split: Pixels(dataset.split(split)) for split in ("train", options.queries)}
        found = {}
        for name, queries, base in (("features", asked[chosen], vectors), ("pixels", pixels[options.queries][chosen],
                                                                          pixels["train"])):
            began = time.perf_counter()
            found[name], _ = nearest(queries, base, most)
            ms = 1000 * (time.perf_counter() - began) / len(chosen)
            shares = ", ".join(f"{precision(found[name][:, :k], labels, wanted[chosen]):.2%} of the nearest {k}"
                               for k in NEAR if k <= most)
            print(f"{name:<9} {base.shape[1]:>7,} numbers an image, {base.shape[1] * base.dtype.itemsize:>7,} bytes, "
                  f"{ms:7.2f} ms a query: {shares} have its class")
        if options.picture:
            rows = [int(np.flatnonzero(chosen == query)[0]) for query in drawn[:5]]
            draw_neighbours(dataset, options.queries, chosen[rows], found["features"][rows, :NEAR[0]], options.picture)
            print(f"{options.picture}: ready")


class Pixels:
    """A split's raw pixels as vectors (N, C·H·W), read as they are asked for."""
    dtype = np.dtype(np.uint8)

    def __init__(self, split):
        self.split, self.shape = split, (len(split), int(np.prod(split.image_shape)))

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, which):
        indices = np.arange(len(self))[which]
        return self.split.read(indices).reshape(len(indices), -1)

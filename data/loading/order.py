"""Which images an epoch's batches have, in which order,
and what to fetch from the disk before they are read."""

import numpy as np

SHUFFLES = "full", "blocks"
# images: of a run that is read in one go, and among which shuffle "blocks" mixes
BLOCK, WINDOW = 32, 256 * 32
_ORDER, CROP, MIRROR, COLOUR = range(4)  # separate streams: leaving one out does not change the others


def generator(seed, epoch, stream):
    """The random numbers of one stream of one epoch, from their beginning:
    counter-based, keyed by (seed, epoch)."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch], counter=[0, 0, 0, stream]))


def epoch_order(count, seed, epoch, shuffle="full"):
    """The order of an epoch: a permutation of 0..count−1, int64.

    "full": any of them. "blocks": runs of BLOCK consecutive images in any order, and the images of every
    WINDOW // BLOCK runs mixed: each window of WINDOW images of this order can be
    fetched from the disk in runs.
    """
    random = generator(seed, epoch, _ORDER)
    if shuffle == "full":
        return random.permutation(count)
    blocks = random.permutation(-(-count // BLOCK))
    order = (blocks[:, None] * BLOCK + np.arange(BLOCK)).reshape(-1)
    order = order[order < count]  # the last block may be short
    for start in range(0, count, WINDOW):
        random.shuffle(order[start:start + WINDOW])
    return order


class Batches:
    """The images of each batch of rank `rank` of `ranks`: its part of ranks·batch images of `order` (int64).

    windows: fetch a window of WINDOW images ahead, sorted, so that a disk reads in runs;
    else each batch's own images.
    """

    def __init__(self, order, batch, rank=0, ranks=1, *, windows=False, start=0):
        self.order, self.batch, self.rank, self.ranks, self.start = order, batch, rank, ranks, start
        order.flags.writeable = False  # batches hand out parts of it
        self.ahead, self.sorted = windows, None
        if windows:
            self.sorted = np.concatenate([np.sort(order[k:k + WINDOW]) for k in range(0, len(order), WINDOW)])

    def count(self, drop_last):
        """How many batches there are, for every rank the same;
        the last, if it is incomplete, only without `drop_last`."""
        whole = self.batch * self.ranks
        return len(self.order) // whole if drop_last else -(-len(self.order) // whole)

    def indices(self, number):
        """The images of batch `number`; in an incomplete last one possibly none."""
        return self.order[self.places(number)]

    def places(self, number):
        """Where they stand in `order`, as a slice."""
        start, stop = self._span(number)
        n = stop - start
        return slice(start + n * self.rank // self.ranks, start + n * (self.rank + 1) // self.ranks)

    def fetch(self, number):
        """What to have fetched when batch `number` is begun, as a list of index arrays."""
        if self.sorted is None:
            return [self.indices(number)]
        start, stop = self._span(number)
        ahead = [self.sorted[start + WINDOW:stop + WINDOW]]  # a batch's worth, so that the disk works evenly
        if number == self.start:  # nobody has fetched the present window
            ahead.insert(0, self.sorted[start // WINDOW * WINDOW:start + WINDOW])
        return ahead

    def _span(self, number):
        whole = self.batch * self.ranks
        return number * whole, min((number + 1) * whole, len(self.order))

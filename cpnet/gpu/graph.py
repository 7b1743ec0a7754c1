"""The training step as two CUDA graphs, forward with backward and the update:
the CPU launches twice, not seventy times.

A graph repeats the very same launches: same kernels, same memory, same numbers. So what changes from step to
step lies in memory: images and labels in arrays that stay, the step's number (by which dropout draws) in
`sums`, the learning rates in the update rule's table.
A step must allocate nothing and wait for nothing; capturing raises an error if it does.
"""
from cpnet.errors import CpnetError
from cpnet.gpu import memory
from cpnet.gpu.platform import on_gpu, platform_of
from cpnet.step import Step


def capture(like, work):
    """What `work()` launches on the GPU of `like`, not run but recorded:
    an object whose `launch()` runs all of it.

    Raises an error for what cannot be repeated so: a copy to or from the host, an allocation.
    """
    return platform_of(like).capture(work)


def check(network, wanted=True):
    """Raises CpnetError where graphs are wanted and cannot be had."""
    if wanted and (len(network.devices) > 1 or not on_gpu(network.values[0])):
        raise CpnetError("--graph needs a net on one GPU: choose --devices 0, or --no-graph")


class GraphStep(Step):
    """A Step on one GPU. The first call runs as it is (it compiles, and sets memory aside),
    the second is captured."""

    def __init__(self, network, **options):
        check(network)
        super().__init__(network, **options)
        self.graphs = {}  # by name; None where the work has been done once
        self.inputs = {}  # images and labels, where the graph reads them
        # what the graphs use, should a larger batch of somebody else's take its place in the layers
        self.kept = []

    def passes(self, images, labels, step):
        """As Step.passes; the step's number is `sums`' own, which `restart` sets."""
        images, labels = self._fixed("images", images), self._fixed("labels", labels)
        self._replay("passes", lambda: super(GraphStep, self).passes(images, labels, self.sums[2:]))

    def update(self, rate):
        self.network.set_rates(rate, self.decay)
        self._replay("update", lambda: super(GraphStep, self).update(rate))

    def _replay(self, name, work):
        if name not in self.graphs:
            work()
            self.graphs[name] = None
            return
        if self.graphs[name] is None:
            self.graphs[name] = capture(self.sums, work)
            self.kept = [array for row in self.network.rows for array in row.copies[0].buffers()]
        self.graphs[name].launch()

    def _fixed(self, name, values):
        """The values in the array that the graph reads:
        the one that feed.py fills, so what comes from there stays."""
        (values,) = values if isinstance(values, list) else [values]
        if name not in self.inputs:
            self.inputs[name] = self.network.rows[0].copies[0].buffer(name, values.shape, values.dtype)
        fixed = self.inputs[name]
        if values.shape != fixed.shape:
            raise ValueError(f"a graph of {name} {fixed.shape}, not {values.shape}")
        if not on_gpu(values):
            memory.assign(fixed, values)
        elif memory.address(values) != memory.address(fixed):
            memory.copy([(fixed, values)])
        return fixed

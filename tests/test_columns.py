import re

import numpy as np
import pytest

from cpnet.columns import gather, scatter_sum
from cpnet.errors import CpnetError
from cpnet.gpu.devices import Device, named


class Memory:
    """Buffers by name, as a layer has them; NaN until something is written."""
    device = Device()

    def __init__(self):
        self.held = {}

    def buffer(self, name, shape, dtype):
        self.held[name] = np.full(shape, np.nan, dtype)
        return self.held[name]


def blocks(rng, count, shape):
    return [rng.standard_normal(shape) for _ in range(count)]


@pytest.mark.parametrize("text, columns, count", [("cpu", 1, 1), ("cpu", 2, 1), ("cpu,cpu", 2, 2), (" cpu , cpu", 4, 2)])
def test_devices(text, columns, count):
    assert named(text, columns) == [Device("cpu")] * count


@pytest.mark.parametrize("text, columns, message", [
    ("gpu", 2, "--devices gpu: there is no device 'gpu'"), ("cpu,", 2, "--devices cpu,: there is no device ''"),
    ("cpu,cpu", 1, "--devices cpu,cpu: 1 column cannot be shared evenly by 2 devices: name 1"),
    ("cpu,cpu,cpu", 4, "--devices cpu,cpu,cpu: 4 columns cannot be shared evenly by 3 devices: name 1 or 2 or 4")])
def test_devices_that_do_not_fit(text, columns, message):
    with pytest.raises(CpnetError, match="^" + re.escape(message)):
        named(text, columns)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("receivers", [1, 2])
def test_gather_puts_the_channels_in_order(rng, dtype, receivers):
    parts = [block.astype(dtype) for block in blocks(rng, 2, (3, 2, 4, 5))]
    memories = [Memory() for _ in range(receivers)]
    for all_channels, memory in zip(gather(parts, memories), memories, strict=True):
        assert all_channels is memory.held["gathered"]
        assert all_channels.dtype == dtype
        np.testing.assert_array_equal(all_channels, np.concatenate(parts))


def test_a_single_block_is_not_copied(rng):
    part, = blocks(rng, 1, (4, 3))
    assert gather([part], [Memory()])[0] is part
    whole, = scatter_sum([part], [Memory()])
    assert np.shares_memory(whole, part) and whole.shape == part.shape
    for d, own in enumerate(scatter_sum([part], [Memory(), Memory()])):
        assert own.base is part
        np.testing.assert_array_equal(own, part[2 * d:2 * d + 2])


@pytest.mark.parametrize("count", [2, 3])
def test_scatter_sum(rng, count):
    gradients = blocks(rng, count, (2 * count, 3, 1, 5))
    before = np.array(gradients)
    memories = [Memory() for _ in range(count)]
    sums = scatter_sum(gradients, memories)
    for d, (own, memory) in enumerate(zip(sums, memories, strict=True)):
        assert own is memory.held["summed"]
        np.testing.assert_allclose(own, before.sum(axis=0)[2 * d:2 * d + 2], rtol=1e-14)
    np.testing.assert_array_equal(before, gradients)


def test_one_is_the_other_s_transpose(rng):
    parts, gradients = blocks(rng, 2, (3, 4)), blocks(rng, 2, (6, 4))
    gathered = gather(parts, [Memory(), Memory()])
    sums = scatter_sum(gradients, [Memory(), Memory()])
    left, right = (sum(np.vdot(a, b) for a, b in zip(*pair, strict=True)) for pair in ((gathered, gradients), (parts, sums)))
    np.testing.assert_allclose(left, right, rtol=1e-13)

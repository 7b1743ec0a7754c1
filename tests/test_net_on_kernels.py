"""The whole net on the kernels, by cuemu in check mode, learns what it learns in NumPy. In float64: in float32 the two
round differently, and somewhere a ReLU or a max pool then decides differently."""
import numpy as np
import pytest

from cpnet import nets
from cpnet.gpu.devices import Device
from cpnet.layers import Pass
from cpnet.network import Network
from cpnet.ops import sgd, softmax
from tests import cuemu, device
from tests.device import Emulated, host

cuemu.require()


@pytest.fixture(autouse=True)
def one_order(monkeypatch):
    monkeypatch.setattr(device, "SEEDS", (1,))


def compare(result, expected):
    error = np.abs(host(result) - expected).max() / np.abs(expected).max()
    assert error <= 1e-13, f"an error of {error:.1e}"


def test_training_steps_and_a_test_pass(rng):
    table = nets.build("mini", (3, 12, 12), 10)
    images = rng.standard_normal((3, 12, 12, 3))
    labels = np.array([1, 2, 9], np.int32)
    emulated = Emulated("cuemu")
    on_cpu, on_kernels = (Network(table, [where], seed=3, dtype=np.float64) for where in (Device(), emulated))
    inputs = emulated.put(images), emulated.put(labels)
    for step in range(2):
        run = Pass(training=True, seed=3, step=step)
        expected = on_cpu.forward(images, run)
        logits = on_kernels.forward(inputs[0], run)
        compare(logits, expected)
        compare(softmax.cross_entropy_forward(logits, inputs[1]), softmax.cross_entropy_forward(expected, labels))
        on_cpu.backward(labels)
        on_kernels.backward(inputs[1])
        for segment in on_cpu.segments[0]:
            compare(segment.of(on_kernels.gradients[0]), segment.of(on_cpu.gradients[0]))
        on_cpu.update(0.01)
        on_kernels.update(0.01)
        for segment in on_cpu.segments[0]:
            compare(segment.of(on_kernels.values[0]), segment.of(on_cpu.values[0]))
    compare(on_kernels.forward(inputs[0]), on_cpu.forward(images))


def test_one_launch_updates_all_parameters(rng):
    """The same bits as a launch for each parameter, and nothing between them is touched."""
    network = Network(nets.build("mini", (1, 8, 8), 10), [Emulated("cuemu")], seed=3)
    segments = network.segments[0]
    rates, decays = [0.1 * segment.rate for segment in segments], [0.01 * (segment.decay is None) for segment in segments]
    arrays = [rng.standard_normal(len(network.values[0])).astype(np.float32) for _ in range(3)]
    one, each = ([network.devices[0].put(array) for array in arrays] for _ in range(2))
    table = sgd.Segments([segment.start for segment in segments], [int(np.prod(segment.shape)) for segment in segments])
    table.set(rates, decays, one[0])
    sgd.sgd_update_segments(*one, table)
    for segment, rate, decay in zip(segments, rates, decays, strict=True):
        sgd.sgd_update(*(segment.of(array) for array in each), rate=rate, decay=decay)
    for result, expected, before in zip(one, each, arrays, strict=True):
        np.testing.assert_array_equal(host(result), host(expected))
        between = np.ones(len(before), bool)
        for segment in segments:
            segment.of(between)[...] = False
        np.testing.assert_array_equal(host(result)[between], before[between])

"""Response normalization and max pooling as one operation: what the two do one after the other."""
import numpy as np
import pytest

from cpnet import nets
from cpnet.gpu import memory
from cpnet.gpu.devices import Device
from cpnet.layers import LRN, Conv, Linear, MaxPool, Pass, ReLU
from cpnet.network import Network
from cpnet.ops import lrn, lrn_pool, pool
from cpnet.ops.lrn_pool import lrn_pool_backward, lrn_pool_forward
from tests import cuemu, device, reference
from tests.device import Emulated, host

# (C, H, W, N), windows, constants
CASES = [
    ((12, 7, 9, 3), {}, {"alpha": 0.5, "groups": 2}),  # every window fits, and they overlap: the paper's
    ((5, 8, 6, 1), {}, {"alpha": 0.5}),  # the last windows hang over; one column, one image
    ((6, 8, 6, 33), {"ceil": False}, {"alpha": 0.5, "groups": 3}),  # the last pixels are in no window
    ((6, 7, 6, 2), {"z": 2, "s": 2, "ceil": False}, {"alpha": 0.5, "groups": 2}),  # windows that do not overlap
    ((6, 4, 5, 3), {"z": 3, "s": 1}, {"alpha": 0.3, "n": 3, "beta": 0.6, "k": 1.0}),
    ((4, 5, 4, 2), {"z": 1, "s": 2}, {"alpha": 0.3, "n": 1}),
    ((3, 2, 1, 3), {}, {"alpha": 0.5, "n": 11}),  # windows larger than the image, and than the maps
]
PAPER = {"k": 2.0, "n": 5, "alpha": 1e-4, "beta": 0.75, "groups": 1}


@pytest.fixture(autouse=True)
def parts(monkeypatch):
    monkeypatch.setattr(lrn_pool, "PART", 2)


def expected(x, d_y, windows, constants):
    """(y, winner, d_x) by the reference, one number at a time."""
    constants, z, s, ceil = {**PAPER, **constants}, windows.get("z", 3), windows.get("s", 2), windows.get("ceil", True)
    b = reference.lrn_forward(x.astype(np.float64), **constants)
    y, d_b = reference.max_pool(b, d_y, z, s, ceil)
    winner = np.zeros(y.shape, np.uint8)
    for c, p, q, n in np.ndindex(y.shape):
        window = b[c, p * s:p * s + z, q * s:q * s + z, n]
        row, col = np.unravel_index(window.argmax(), window.shape)
        winner[c, p, q, n] = row * z + col
    return y, winner, reference.lrn_backward(d_b, x.astype(np.float64), **constants)


def inputs(rng, shape, windows, dtype):
    """x, half of it zeros, as a ReLU leaves it, so that windows of zeros alone occur; and d_y."""
    x = np.maximum(rng.standard_normal(shape), 0).astype(dtype)
    x[:, :2] = 0
    z, s, ceil = windows.get("z", 3), windows.get("s", 2), windows.get("ceil", True)
    return x, rng.standard_normal(pool.pool_shape(shape, z, s, ceil)).astype(dtype)


def backward_options(windows):
    return {name: value for name, value in windows.items() if name != "ceil"}


@pytest.mark.parametrize("shape, windows, constants", CASES, ids=str)
def test_the_formulas(backend, dtype, rng, shape, windows, constants):
    x, d_y = inputs(rng, shape, windows, dtype)
    y, winner, d_x = expected(x, d_y, windows, constants)
    on_device = backend.to_device(x)
    found, won = lrn_pool_forward(on_device, **windows, **constants)
    backend.assert_close(found, y, dtype)
    np.testing.assert_array_equal(backend.to_host(won), winner)
    for relu in False, True:
        found = lrn_pool_backward(backend.to_device(d_y), on_device, won, relu=relu, **backward_options(windows), **constants)
        backend.assert_close(found, np.where((x > 0) | (not relu), d_x, 0), dtype)


@pytest.mark.parametrize("shape, windows, constants", [CASES[0], CASES[3]], ids=str)
def test_as_the_two_operations(backend, dtype, rng, shape, windows, constants):
    """Equal pixels too, which are equal when normalized: the same of them wins."""
    x, d_y = inputs(rng, shape, windows, dtype)
    x[:] = x[:, :, rng.integers(shape[2], size=shape[2])]
    x, d_y = backend.to_device(x), backend.to_device(d_y)
    b = lrn.lrn_forward(x, **constants)
    y = pool.max_pool_forward(b, **windows)
    found, winner = lrn_pool_forward(x, **windows, **constants)
    backend.assert_close(found, backend.to_host(y).astype(np.float64), dtype)
    d_b = pool.max_pool_backward(d_y, b, y, **backward_options(windows))
    d_x = lrn.lrn_backward(d_b, x, **constants)
    found = lrn_pool_backward(d_y, x, winner, **backward_options(windows), **constants)
    backend.assert_close(found, backend.to_host(d_x).astype(np.float64), dtype)


def test_nan_is_passed_on(backend, dtype):
    x = np.ones((1, 3, 3, 9), dtype)
    x.reshape(9, 9)[np.eye(9, dtype=bool)] = np.nan  # in another place of every image
    x[:, 0, 0, 8] = 5
    y, _ = lrn_pool_forward(backend.to_device(x))
    assert np.isnan(backend.to_host(y)).all()


def test_buffers(backend, dtype, rng):
    shape, windows, constants = CASES[0]
    x, d_y = (backend.to_device(array) for array in inputs(rng, shape, windows, dtype))
    y, winner = lrn_pool_forward(x, **constants)
    d_x = lrn_pool_backward(d_y, x, winner, **constants)
    buffers = backend.empty(y.shape, dtype), backend.empty(y.shape, np.uint8)
    for result, out, like in zip(lrn_pool_forward(x, **constants, out=buffers[0], winner=buffers[1]), buffers, (y, winner),
                                 strict=True):
        assert result is out
        np.testing.assert_array_equal(backend.to_host(out), backend.to_host(like))
    out = backend.empty(shape, dtype)
    assert lrn_pool_backward(d_y, x, winner, **constants, out=out) is out
    np.testing.assert_array_equal(backend.to_host(out), backend.to_host(d_x))


@pytest.mark.parametrize("options, message", [({"n": 4}, "odd n, not 4"), ({"groups": 4}, "6 maps cannot be shared by 4"),
                                              ({"z": 4}, "3 pixels at most, 2 apart at most, not 4 and 2"),
                                              ({"s": 3}, "not 3 and 3")])
def test_what_does_not_fit_is_refused(backend, options, message):
    x = backend.to_device(np.zeros((6, 4, 4, 1), np.float32))
    with pytest.raises(ValueError, match=message):
        lrn_pool_forward(x, **options)
    winner = backend.to_device(np.zeros((6, 2, 2, 1), np.uint8))
    with pytest.raises(ValueError, match=message):
        lrn_pool_backward(backend.to_device(np.zeros((6, 2, 2, 1), np.float32)), x, winner, **options)


def test_buffers_that_do_not_fit_are_refused():
    x = np.zeros((2, 4, 4, 3), np.float32).view(device.DeviceArray)
    small, d_y = (np.zeros((2, 2, 2, n), dtype).view(device.DeviceArray) for n, dtype in ((2, np.uint8), (3, np.float32)))
    with pytest.raises(ValueError, match="lrn_pool_forward: winner has the shape"):
        lrn_pool_forward(x, winner=small)
    with pytest.raises(ValueError, match="lrn_pool_backward: winner has the shape"):
        lrn_pool_backward(d_y, x, small)
    large = np.broadcast_to(np.float32(0), (1, 46341, 46341, 1)).view(device.DeviceArray)
    with pytest.raises(ValueError, match="more numbers than the kernel counts"):
        lrn_pool_forward(large)


# In nets


def table(relu_first, reads="column", **windows):
    """Block 1 in the paper's order, or in that of the authors' code, and a layer above it."""
    block = [LRN("lrn1", alpha=0.5, reads=reads), MaxPool("pool1", **windows)]
    block = [ReLU("relu1"), *block] if relu_first else [*block, ReLU("relu1")]
    return nets.Table({"name": "tiny"}, (2, 7, 8), 2, [
        Conv("conv1", 4, 3, pad=1, reads="all", std=0.3), *block,
        Linear("fc2", 3, std=0.3, undivided=True)], 0.01, 0.0005)


@pytest.fixture
def gpu(monkeypatch):
    cuemu.require()
    monkeypatch.setattr(device, "SEEDS", (1,))
    return Emulated("cuemu")


@pytest.mark.parametrize("relu_first, count, reads", [(True, 1, "column"), (True, 2, "column"), (False, 1, "column"),
                                                      (True, 1, "all")])
def test_a_net_learns_the_same(gpu, rng, relu_first, count, reads):
    """As two operations on the CPU, and as one on a GPU; what a watcher sees is the same, too."""
    placed = [gpu, Emulated("cuemu 2")][:count]
    nets_of = [Network(table(relu_first, reads), where, seed=3, dtype=np.float64, fuse_pools=where is placed)
               for where in ([Device()] * count, placed)]
    assert [kinds(net) for net in nets_of] == [
        ["ConvReLU", "LRN", "MaxPool", "Linear"] if relu_first else ["Conv", "LRN", "MaxPool", "ReLU", "Linear"],
        ["ConvReLU", "NormMaxPool", "Linear"] if relu_first else ["Conv", "NormMaxPool", "ReLU", "Linear"]]
    assert getattr(nets_of[1].rows[0].layer, "masked", False) == relu_first
    images, labels = rng.standard_normal((2, 7, 8, 3)), np.array([1, 2, 0])
    seen = [[], []]
    for net, outputs in zip(nets_of, seen, strict=True):
        run = Pass(training=True, seed=3)
        net.forward(images, run, lambda layer, given, outputs=outputs: outputs.append([np.array(host(x)) for x in given]))
        net.backward(labels)
        watched = {name: net.get("gradients", name) for name in net.parameters}
        logits = net.forward(images, run)
        np.testing.assert_array_equal(memory.to_host(logits), outputs[-1][0])
        net.backward(labels)
        for name, gradient in watched.items():
            np.testing.assert_array_equal(net.get("gradients", name), gradient)
    for ours, theirs in zip(*seen, strict=True):
        for result, wanted in zip(theirs, ours, strict=True):
            assert abs(result - wanted).max() <= 1e-13 * abs(wanted).max()
    for name in nets_of[0].parameters:
        result, wanted = (net.get("gradients", name) for net in reversed(nets_of))
        assert abs(result - wanted).max() <= 1e-13 * abs(wanted).max(), name


def kinds(net):
    return [type(row.layer).__name__ for row in net.rows]


class Leaky(ReLU):
    """What is no plain ReLU."""


def test_a_subclass_is_not_fused_as_what_it_is_not(gpu):
    other = table(True)
    other.layers[1] = Leaky("relu1")
    assert kinds(Network(other, [gpu])) == ["Conv", "Leaky", "NormMaxPool", "Linear"]
    assert not Network(other, [gpu]).rows[2].layer.relu


def test_what_is_not_fused(gpu):
    for net in (Network(table(True), [gpu], fuse_pools=False), Network(table(True, z=4), [gpu]),
                Network(table(True, "all"), [gpu, Emulated("cuemu 2")]),
                Network(table(True, z=3, s=3), [gpu]), Network(table(True), [Device()], fuse_pools=False)):
        assert kinds(net) == ["ConvReLU", "LRN", "MaxPool", "Linear"] and not net.rows[0].layer.masked

"""The whole two-column net against PyTorch: logits, gradients and training steps, with dropout, all eight layers at full width.

In float64 the two agree to about 1e-13 after ten steps, so `TOLERANCE`, 1e-10, leaves a factor of a thousand for other
processors. Most tests use images of 64 pixels: like those of 224, they make conv1's last window hang over the edge by 3 pixels
and all pools fit exactly.
"""
import numpy as np
import pytest

from cpnet.gpu.devices import named
from cpnet.layers import LRN, Pass
from cpnet.nets import build
from cpnet.network import Network

LAYERS = ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"]
TRAINING = Pass(training=True, seed=3, step=7)


@pytest.fixture(scope="module")
def check(torch):
    from bench import check
    return check


def batch(rng, size, classes, images):
    """Images as large as pixels are, and labels."""
    return 60 * rng.standard_normal((3, size, size, images)), rng.integers(classes, size=images)


def pair(check, size, *, classes=10, profile="paper", where="cpu", dtype=np.float64):
    table = build("alexnet", (3, size, size), classes, profile)
    return check.Pair(Network(table, named(where, table.columns), seed=1, dtype=dtype))


@pytest.fixture(scope="module")
def small(check):
    """The paper's net for images of 64 pixels in float64, beside PyTorch's."""
    return pair(check, 64)


@pytest.fixture
def small_batch(rng):
    return batch(rng, 64, 10, 2)


def test_the_full_size(check, rng):
    """224×224 pixels and 1000 classes: logits at test time, losses and one step."""
    both = pair(check, 224, classes=1000)
    images, labels = batch(rng, 224, 1000, 2)
    assert check.relative_error(*both.forward(images, Pass())) <= check.TOLERANCE
    losses, errors = both.train(images, labels, [TRAINING], rate=0.01)
    np.testing.assert_allclose(*losses[0], rtol=check.TOLERANCE)
    assert len(errors) == 16
    for name, error in errors.items():
        assert error <= check.TOLERANCE, name
    for name, error in both.gradient_errors().items():
        assert error <= check.TOLERANCE, name


def test_ten_steps(check, rng):
    """The way that every layer's weights and biases have gone, decay, momentum and the biases' rate included.

    In profile as-run, whose weights let the loss fall at once, and with each column on a device of its own.
    """
    both = pair(check, 64, profile="as-run", where="cpu,cpu")
    images, labels = batch(rng, 64, 10, 4)
    runs = [Pass(training=True, seed=3, step=step) for step in range(10)]
    losses, errors = both.train(images, labels, runs, rate=0.001)
    ours, theirs = np.transpose(losses)
    np.testing.assert_allclose(ours, theirs, rtol=check.TOLERANCE)
    assert ours[-3:].mean() < 0.6 * ours[0]  # it learns: dropout makes single losses noisy
    for name, error in errors.items():
        assert error <= check.TOLERANCE, name


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_that_does_not_learn_is_noticed(check, small, small_batch, monkeypatch, name):
    """With the gradient of any one layer's weights and biases zeroed, the comparison fails, for that layer."""
    part, = (row.copies[0] for row in small.network.rows if any(layer.name == name for layer in row.covers))

    def without(d_y, backward=part.backward):
        d_x = backward(d_y)
        for gradient in part.gradients.values():
            gradient[...] = 0
        return d_x

    monkeypatch.setattr(part, "backward", without)
    start = {key: small.network.get("values", key) for key in small.network.parameters}
    _, errors = small.train(*small_batch, [TRAINING], rate=0.01)
    for key, whole in start.items():  # as it was, for the next test
        small.network.set("values", key, whole)
        small.network.set("velocities", key, np.zeros(whole.shape))
    check.load(small.model, small.network)
    for key, error in errors.items():
        if key.startswith(name):
            assert not error <= 0.9, key
        else:
            assert error <= check.TOLERANCE, key


@pytest.mark.parametrize("name", [layer.name for layer in build("alexnet").layers if layer.name not in ("conv1", "conv1 relu")])
def test_a_layer_that_passes_nothing_on_is_noticed(check, small, small_batch, monkeypatch, name):
    """With the gradient zeroed that any one layer hands down, the comparison fails for all layers below it."""
    row, = (row for row in small.network.rows if any(layer.name == name for layer in row.covers))
    part, name = row.copies[0], row.covers[0].name  # of layers computed as one, the gradient of the lowest
    monkeypatch.setattr(part, "backward", lambda d_y, backward=part.backward: 0 * backward(d_y))
    images, labels = small_batch
    small.forward(images, TRAINING)
    small.backward(labels)
    order = [layer.name for layer in small.network.table.layers]
    for key, error in small.gradient_errors().items():
        below = order.index(key.split(".")[0]) < order.index(name)
        assert (not error <= 0.9) if below else error <= check.TOLERANCE, key


def test_float32(check, small_batch):
    """Loosely: a ReLU or a pool may decide otherwise where two values are nearly equal."""
    both = pair(check, 64, dtype=np.float32)
    images, labels = (small_batch[0].astype(np.float32), small_batch[1])
    assert check.relative_error(*both.forward(images, Pass())) <= 1e-5
    both.forward(images, TRAINING)
    losses = both.backward(labels)
    np.testing.assert_allclose(*losses, rtol=1e-5)
    for name, error in both.gradient_errors().items():
        assert error <= 2e-2, name


def test_the_two_normalizations_of_the_peer_agree(torch, rng):
    from bench.torch_net import fast_lrn, library_lrn
    x = torch.from_numpy(rng.standard_normal((3, 12, 2, 2)))
    for alpha in 1e-4, 0.5:
        for columns in 1, 2:
            layer = LRN("lrn", alpha=alpha)
            torch.testing.assert_close(fast_lrn(x, layer, columns), library_lrn(x, layer, columns), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("net", ["mini", "four-layer", "mini-conv6"])
def test_the_other_nets(check, rng, net):
    """Gradients in float64, and the update rule with the net's decay and each parameter's own rate and decay."""
    assert check.largest_error(net=net)[1] <= check.TOLERANCE
    table = check.of_size(net)
    both = check.Pair(Network(table, named("cpu", table.columns), seed=1, dtype=np.float64))
    labels = rng.integers(table.settings["classes"], size=4)
    _, errors = both.train(60 * rng.standard_normal((*table.image, 4)), labels, [TRAINING] * 3, rate=0.001)
    for name, error in errors.items():
        assert error <= check.TOLERANCE, name

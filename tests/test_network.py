from dataclasses import replace

import numpy as np
import pytest

from cpnet import layers
from cpnet.gpu.devices import named
from cpnet.layers import Pass
from cpnet.nets import build
from cpnet.network import ALIGN, Network
from cpnet.ops import dropout, softmax

RUN = Pass(training=True, seed=5, step=2)
PLACEMENTS = pytest.mark.parametrize("devices", ["cpu", "cpu,cpu"])


def make(devices="cpu", table=None, seed=1, dtype=np.float64, **options):
    table = table or build("mini", (3, 16, 16), 10, **options)
    return Network(table, named(devices, table.columns), seed=seed, dtype=dtype)


def batch(rng, images, dtype=np.float64):
    """Images as large as pixels are, and labels."""
    return (40 * rng.standard_normal((3, 16, 16, images))).astype(dtype), rng.integers(10, size=images)


def gradients(net, images, labels, run=RUN, whole=None):
    net.forward(images, run)
    net.backward(labels, whole)
    return {name: net.get("gradients", name) for name in net.parameters}


# Parameters


@PLACEMENTS
@pytest.mark.parametrize("kind", ["values", "velocities", "gradients"])
def test_what_is_set_can_be_got(rng, devices, kind):
    net = make(devices)
    wholes = {name: rng.standard_normal(parameter.shape) for name, parameter in net.parameters.items()}
    for name, whole in wholes.items():
        net.set(kind, name, whole)
    for name, whole in wholes.items():
        result = net.get(kind, name)
        np.testing.assert_array_equal(result, whole)
        result[...] = 0  # a new array: the net's own stays
        np.testing.assert_array_equal(net.get(kind, name), whole)


@PLACEMENTS
def test_the_kinds_do_not_share_memory(devices):
    net = make(devices)
    for number, kind in enumerate(["values", "velocities", "gradients"]):
        for name, parameter in net.parameters.items():
            net.set(kind, name, np.full(parameter.shape, number + 1.0))
    for number, kind in enumerate(["values", "velocities", "gradients"]):
        assert all((net.get(kind, name) == number + 1).all() for name in net.parameters)


def test_a_shape_that_does_not_fit():
    with pytest.raises(ValueError, match=r"conv1.bias has the shape \(31,\), the net needs \(32,\)"):
        make("cpu,cpu").set("values", "conv1.bias", np.zeros(31))


@PLACEMENTS
def test_flat_buffers_are_in_the_order_of_backward(rng, devices, monkeypatch):
    net = make(devices)
    for flat in net.gradients:
        flat.fill(np.nan)
    finished = [[] for _ in net.devices]

    def watched(part, backward, d):
        def call(d_y):
            d_x = backward(d_y)
            finished[d] += [name for name in part.gradients if np.isfinite(part.gradients[name]).all()]
            return d_x
        return call

    for row in net.rows:
        for d, part in enumerate(row.copies):
            if part.values:
                monkeypatch.setattr(part, "backward", watched(part, part.backward, d))
    net.forward(*batch(rng, 2)[:1], RUN)
    net.backward(rng.integers(10, size=2))
    expected = ["fc8", "fc7", "fc6", "conv5", "conv4", "conv3", "conv2", "conv1"]
    for d, segments in enumerate(net.segments):
        assert [segment.name for segment in segments] == [
            f"{layer}.{key}" for layer in expected[d > 0:] for key in ("weight", "bias")]
        assert finished[d] == [segment.name.split(".")[1] for segment in segments]
        end = 0
        for segment in segments:
            assert end <= segment.start < end + ALIGN and segment.start % ALIGN == 0
            end = segment.start + np.prod(segment.shape)
        assert end == net.values[d].size


def test_each_device_has_its_share_of_filters():
    whole, halves = make("cpu"), make("cpu,cpu")
    for row in halves.rows:
        parts, layer = row.copies, row.covers[0]
        assert len(parts) == (1 if layer.name == "fc8" else 2)
        for d, part in enumerate(parts):
            assert part.columns == 1
            for key, values in part.values.items():
                assert np.shares_memory(values, halves.values[d])
                np.testing.assert_array_equal(values, np.split(whole.get("values", f"{layer.name}.{key}"), len(parts))[d])


# How they start


@pytest.mark.parametrize("name, devices", [("mini", ["cpu", "cpu,cpu"]), ("four-layer", ["cpu"])])
def test_initial_values(name, devices):
    table = build(name, (3, 28, 28), 10)
    nets = [make(each, table, seed=7, dtype=dtype) for each in devices for dtype in (np.float32, np.float64)]
    for key, parameter in nets[0].parameters.items():
        first, *others = (net.get("values", key) for net in nets)
        assert all((first == other).all() for other in others)
        if parameter.std:
            assert abs(first.std() / parameter.std - 1) < 5 / np.sqrt(2 * first.size)
            assert abs(first.mean() / parameter.std) < 5 / np.sqrt(first.size)
        else:
            assert (first == parameter.value).all()
    for kind in "velocities", "gradients":
        assert all((nets[0].get(kind, key) == 0).all() for key in nets[0].parameters)


def test_initial_weights_depend_on_the_seed_and_the_layer():
    nets = [make(seed=seed) for seed in (1, 1, 2)]
    first, again, other = ([net.get("values", f"{name}.weight") for name in ("conv4", "conv5", "fc7")] for net in nets)
    for weight, same, changed in zip(first, again, other, strict=True):
        assert (weight == same).all()
        assert abs(np.corrcoef(weight.ravel(), changed.ravel())[0, 1]) < 5 / np.sqrt(weight.size)
    conv4, conv5, _ = (weight.ravel()[:27000] for weight in first)
    assert abs(np.corrcoef(conv4, conv5)[0, 1]) < 5 / np.sqrt(27000)


# Forward and backward


@PLACEMENTS
def test_watch_sees_every_layer(rng, devices):
    net, seen = make(devices), []
    images, _ = batch(rng, 2)
    before = images.copy()
    logits = net.forward(images, RUN, lambda layer, outputs: seen.append((layer, [output.shape for output in outputs])))
    assert logits.shape == (10, 2)
    np.testing.assert_array_equal(images, before)
    for (layer, shapes), (expected, _, out) in zip(seen, net.table.shapes(), strict=True):
        count = 1 if layer.undivided else len(net.devices)
        assert layer is expected
        assert shapes == [(out[0] // count, *out[1:], 2)] * count


@PLACEMENTS
def test_batches_that_change_between_passes(rng, devices):
    """130, 3 and 130 images: what a larger batch left in the buffers does not matter."""
    images, labels = batch(rng, 130, np.float32)
    net = make(devices, dtype=np.float32)
    sizes = 130, 3, 130, 1
    for size in sizes:
        x, right = np.ascontiguousarray(images[..., :size]), labels[:size]
        fresh = make(devices, dtype=np.float32)
        expected, result = gradients(fresh, x, right), gradients(net, x, right)
        for name in net.parameters:
            np.testing.assert_array_equal(result[name], expected[name])
        np.testing.assert_array_equal(net.forward(x), fresh.forward(x))


@PLACEMENTS
def test_each_image_has_its_own_logits(rng, devices):
    """Whatever is in the batch with it, and though it is alone."""
    net = make(devices)
    images, _ = batch(rng, 5)
    together = net.forward(images).copy()
    for n in range(5):
        alone = net.forward(np.ascontiguousarray(images[..., n:n + 1]))
        np.testing.assert_allclose(alone[:, 0], together[:, n], rtol=1e-10, atol=1e-12)


@PLACEMENTS
def test_nobody_trains_the_image(rng, devices):
    net = make(devices)
    gradients(net, *batch(rng, 2))
    for row in net.rows:
        assert all(part.input_gradient == (row.layer.name != "conv1") for part in row.copies)
    assert all("d_x" not in part._held for part in net.rows[0].copies)


@PLACEMENTS
def test_parts_of_a_batch_add_up(rng, devices):
    """The loss is divided by the whole batch, and dropout draws by the place in it."""
    net = make(devices)
    images, labels = batch(rng, 7)
    whole = gradients(net, images, labels)
    parts = [gradients(net, np.ascontiguousarray(images[..., own]), labels[own], replace(RUN, first_image=own.start), 7)
             for own in (slice(0, 3), slice(3, 7))]
    for name, expected in whole.items():
        np.testing.assert_allclose(parts[0][name] + parts[1][name], expected, rtol=1e-9, atol=1e-12 * abs(expected).max())


@PLACEMENTS
def test_at_test_time_outputs_are_halved(rng, devices):
    """As if there were no dropout and the weights above it were half as large."""
    net = make(devices)
    rest = [layer for layer in net.table.layers if not isinstance(layer, layers.Dropout)]
    plain = make(devices, replace(net.table, layers=rest))
    for name in net.parameters:
        plain.set("values", name, net.get("values", name) * (0.5 if name in ("fc7.weight", "fc8.weight") else 1))
    images, _ = batch(rng, 3)
    np.testing.assert_allclose(net.forward(images), plain.forward(images), rtol=1e-12)
    assert not np.allclose(net.forward(images, RUN), plain.forward(images), rtol=1e-3)


@PLACEMENTS
def test_each_dropout_layer_draws_for_itself(rng, devices):
    net = make(devices)
    net.forward(batch(rng, 3)[0], RUN)
    for index, name in (17, "fc6 dropout"), (20, "fc7 dropout"):
        assert net.table.layers[index].name == name
        units = net.parameters["fc6.bias"].shape[0]
        expected = dropout.dropout_mask((units, 3), seed=RUN.seed, step=RUN.step, layer=index)
        row, = (row for row in net.rows if row.index == index)
        np.testing.assert_array_equal(np.concatenate([part.mask for part in row.copies]), expected)


def test_dropout_depends_on_seed_and_step(rng):
    net = make()
    images, _ = batch(rng, 3)
    first = net.forward(images, RUN).copy()
    np.testing.assert_array_equal(net.forward(images, RUN), first)
    for other in replace(RUN, step=3), replace(RUN, seed=6), replace(RUN, first_image=1):
        assert not np.allclose(net.forward(images, other), first, rtol=1e-3)


def test_the_same_bits_on_any_number_of_threads(same_bits, rng):
    images, labels = batch(rng, 9, np.float32)

    def step():
        net = make(dtype=np.float32)
        logits = net.forward(images, RUN).copy()
        net.backward(labels)
        net.update(0.01)
        return logits, *net.values, *net.gradients

    same_bits(step)


# Update


def updated(w, v, gradient, rate, momentum, decay):
    """Section 5's formula."""
    v = momentum * v - decay * rate * w - rate * gradient
    return w + v, v


@pytest.mark.parametrize("name, options, devices", [
    ("mini", {}, "cpu"), ("mini", {"profile": "as-run"}, "cpu,cpu"), ("four-layer", {}, "cpu")])
@pytest.mark.parametrize("given", [{}, {"momentum": 0.7, "decay": 0.03}])
def test_update(rng, name, options, devices, given):
    net = make(devices, build(name, (3, 16, 16), 10, **options))
    before = {kind: {key: rng.standard_normal(p.shape) for key, p in net.parameters.items()}
              for kind in ("values", "velocities", "gradients")}
    for kind, arrays in before.items():
        for key, whole in arrays.items():
            net.set(kind, key, whole)
    net.update(0.1, **given)
    twice = "bias" if name == "four-layer" or options else None
    for key in net.parameters:
        w, v, gradient = (before[kind][key] for kind in before)
        decay = 0 if "bias" in key else 1.0 if key == "fc4.weight" else given.get("decay", net.table.decay)
        rate = 0.2 if twice and twice in key else 0.1
        w, v = updated(w, v, gradient, rate, given.get("momentum", 0.9), decay)
        np.testing.assert_allclose(net.get("values", key), w, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(net.get("velocities", key), v, rtol=1e-12, atol=1e-14)
        np.testing.assert_array_equal(net.get("gradients", key), gradient)
    for flats in net.values, net.velocities, net.gradients:  # the gaps between parameters stay zero
        for flat, segments in zip(flats, net.segments, strict=True):
            inside = np.zeros(flat.size, bool)
            for segment in segments:
                segment.of(inside)[...] = True
            assert (flat[~inside] == 0).all()


@PLACEMENTS
def test_training_steps_make_the_loss_fall(rng, devices):
    net = make(devices)
    images, labels = batch(rng, 8)
    losses = []
    for step in range(12):
        logits = net.forward(images, replace(RUN, step=step))
        losses.append(softmax.cross_entropy_forward(logits, labels).mean())
        net.backward(labels)
        net.update(0.003)
    assert np.mean(losses[-6:]) < 0.8 * np.mean(losses[:2])

"""The same net on one device, and with its columns on devices of their own: the same numbers, up to rounding."""
from dataclasses import replace

import numpy as np
import pytest

from cpnet.gpu.devices import named
from cpnet.layers import Pass
from cpnet.nets import build
from cpnet.network import Network
from cpnet.ops import softmax

# The largest difference allowed, as a share of an array's largest value. The placements add in another order; in float32 a
# ReLU or a pool near a tie may then change its mind, and moves a gradient by its share.
ALLOWED = {"float64": 1e-12, "float32": 3e-3}


def trained(table, count, images, labels, dtype, steps=2):
    """What a net on `count` devices computes in a few steps: losses, outputs and gradients by layer, values at the end."""
    net = Network(table, named(",".join(["cpu"] * count), table.columns), seed=3, dtype=dtype)
    results = {}
    for step in range(steps):

        def watch(layer, outputs, step=step):
            results[f"step {step}, output of {layer.name}"] = np.concatenate(outputs)

        logits = net.forward(images, Pass(training=True, seed=4, step=step), watch)
        results[f"step {step}, losses"] = softmax.cross_entropy_forward(logits, labels)
        net.backward(labels)
        for name in net.parameters:
            results[f"step {step}, gradient of {name}"] = net.get("gradients", name)
        net.update(0.01)
    results |= {f"{kind} of {name}": net.get(kind, name) for name in net.parameters for kind in ("values", "velocities")}
    results["logits at test time"] = net.forward(images)
    return results


def wide(table):
    """Weights three times as large, so that the signal lasts through all layers."""
    rows = [replace(layer, std=3 * layer.std) if hasattr(layer, "std") else layer for layer in table.layers]
    return replace(table, layers=rows)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("columns, counts, options, images", [
    (2, [2], {}, 5), (2, [2], {"profile": "as-run"}, 4), (2, [2], {"activation": "tanh", "lrn": False}, 3), (2, [2], {}, 1),
    (2, [2], {"profile": "caffenet"}, 3), (2, [2], {"exchange": False}, 3), (2, [2], {"drop_layer": "conv3"}, 3),
    (4, [2, 4], {}, 2), (4, [2, 4], {"profile": "caffe-alexnet"}, 2)], ids=str)
def test_placements_agree(rng, dtype, columns, counts, options, images):
    table = wide(replace(build("mini", (3, 18, 18), 10, **options), columns=columns))
    x = (40 * rng.standard_normal((3, 18, 18, images))).astype(dtype)
    labels = rng.integers(10, size=images)
    expected = trained(table, 1, x, labels, dtype)
    assert abs(expected["step 0, losses"] - np.log(10)).max() > 0.01  # something arrives at the top
    for count in counts:
        results = trained(table, count, x, labels, dtype)
        assert results.keys() == expected.keys()
        for name, whole in expected.items():
            assert results[name].shape == whole.shape
            difference = abs(results[name] - whole).max()
            assert difference <= ALLOWED[dtype] * abs(whole).max(), name

"""ONNX files, run by onnxruntime, against the nets that they were made from."""
import json

import numpy as np
import pytest
from PIL import Image

import run as command_line
from cpnet.evaluate import probabilities
from cpnet.formats import export_onnx
from cpnet.formats.export import Trained, describe, to_checkpoint
from cpnet.layers import LRN
from cpnet.nets import build, crop_size
from data.sources.image import load_image
from tests.helpers import lively, optional

SMALL = 3, 18, 18  # of mini: every pooling window at the edge hangs over it
CASES = [
    ("mini", (1, 14, 14), {}),
    ("mini", SMALL, {}),
    ("mini", SMALL, {"activation": "tanh"}),
    ("mini", SMALL, {"lrn": False}),
    ("mini", SMALL, {"pool": "2x2s2"}),
    ("mini", SMALL, {"dropout": False}),
    ("mini", SMALL, {"exchange": False}),
    ("mini", SMALL, {"drop_layer": "conv3"}),
    ("mini", SMALL, {"drop_layer": "conv4"}),
    ("mini", SMALL, {"profile": "as-run"}),
    ("mini", SMALL, {"profile": "caffenet"}),
    ("mini-one-column", SMALL, {}),
    ("mini-conv6", SMALL, {}),
    ("four-layer", (3, 25, 25), {}),
    ("four-layer", (3, 24, 24), {"activation": "tanh", "pool": "2x2s2"}),
    ("alexnet-one-column", (3, 64, 64), {}),
    ("alexnet-conv6", (3, 64, 64), {}),
]


def pixels(rng, image, count=3):
    """Images (N, C, H, W) of a few random colours each, as float32 0…255."""
    coarse = rng.integers(0, 256, (count, image[0], 4, 4)).repeat(-(-image[1] // 4), axis=2).repeat(-(-image[2] // 4), axis=3)
    return coarse[:, :, :image[1], :image[2]].astype(np.float32)


def trained(rng, name, image, options, classes=5):
    """A Network with weights that say something, the same as Trained, and images."""
    table = build(name, image, classes, **options)
    images = pixels(rng, image)
    mean = rng.uniform(90, 160, (image[0], image[1] + 3, image[2] + 3)).astype(np.float32)
    network = lively(table, seen(images, mean))
    values = {name: network.get("values", name) for name in network.parameters}
    return network, Trained({"table": table.settings, "seed": 0}, values, mean, [f"class {k}" for k in range(classes)]), images


def seen(images, mean):
    """What the net is given: (N, C, H, W) minus the mean's centre → (C, H, W, N)."""
    size = images.shape[2:]
    top, left = ((whole - part) // 2 for whole, part in zip(mean.shape[1:], size, strict=True))
    return np.ascontiguousarray((images - mean[:, top:top + size[0], left:left + size[1]]).transpose(1, 2, 3, 0))


def run(content, images):
    """Probabilities (N, classes) from onnxruntime."""
    library = optional("onnxruntime")
    options = library.SessionOptions()
    options.intra_op_num_threads = 1
    return library.InferenceSession(content, options, providers=["CPUExecutionProvider"]).run(None, {"image": images})[0]


@pytest.fixture(scope="module")
def onnx():
    return optional("onnx")


@pytest.mark.parametrize("name, image, options", CASES, ids=str)
def test_the_same_probabilities(onnx, rng, name, image, options):
    network, net, images = trained(rng, name, image, options)
    expected = probabilities(network, seen(images, net.mean)).T
    assert np.ptp(expected, axis=0).max() > 0.05  # the images differ
    content = export_onnx.to_onnx(net)
    np.testing.assert_allclose(run(content, images), expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(run(content, images[1:2]), expected[1:2], rtol=0, atol=1e-5)


def test_alexnet_itself(onnx, rng):
    network, net, images = trained(rng, "alexnet", (3, 224, 224), {}, classes=1000)
    expected = probabilities(network, seen(images[:1], net.mean)).T
    np.testing.assert_allclose(run(export_onnx.to_onnx(net), images[:1]), expected, rtol=0, atol=1e-5)
    assert expected.max() > 2e-3


def attribute(model, operator, name):
    return [(node, next(a for a in node.attribute if a.name == name)) for node in model.graph.node if node.op_type == operator]


def alpha_not_times_n(model):
    for _, alpha in attribute(model, "LRN", "alpha"):
        alpha.f /= 5


def padding_counted(model):
    for node, _ in attribute(model, "AveragePool", "pads"):
        node.attribute.add(name="count_include_pad", type=2, i=1)


def padding_on_the_other_side(model):
    for _, pads in attribute(model, "Conv", "pads")[:1]:
        pads.ints[:] = pads.ints[2:] + pads.ints[:2]


def mean_forgotten(model):
    mean = next(each for each in model.graph.initializer if each.name == "mean")
    mean.raw_data = bytes(len(mean.raw_data))


def dropout_forgotten(model):
    weight = next(each for each in model.graph.initializer if each.name == "fc7.weight")
    weight.raw_data = (2 * np.frombuffer(weight.raw_data, np.float32)).tobytes()


@pytest.mark.parametrize("name, image, change", [
    ("mini", SMALL, alpha_not_times_n), ("four-layer", (3, 25, 25), padding_counted), ("mini", SMALL, mean_forgotten),
    ("mini", SMALL, dropout_forgotten), ("alexnet-one-column", (3, 64, 64), padding_on_the_other_side)])
def test_such_errors_would_show(onnx, rng, name, image, change):
    network, net, images = trained(rng, name, image, {})
    model = onnx.load_from_string(export_onnx.to_onnx(net))
    change(model)
    result = run(model.SerializeToString(), images)
    assert abs(result - probabilities(network, seen(images, net.mean)).T).max() > 1e-4


def test_normalization_across_columns_would_show(onnx, rng, monkeypatch):
    network, net, images = trained(rng, "mini", SMALL, {})
    monkeypatch.setattr(export_onnx, "groups", lambda layer, columns, right=export_onnx.groups: 1 if isinstance(layer, LRN)
                        else right(layer, columns))
    result = run(export_onnx.to_onnx(net), images)
    assert abs(result - probabilities(network, seen(images, net.mean)).T).max() > 1e-4


def test_what_the_file_says(onnx, rng):
    _, net, _ = trained(rng, "mini", SMALL, {})
    model = onnx.load_from_string(export_onnx.to_onnx(net))
    said = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert said["classes"] == net.classes
    assert said["description"] == json.loads(json.dumps({**describe(net.table, folded=True), "run": net.settings}))
    assert [[d.dim_param or d.dim_value for d in end.type.tensor_type.shape.dim]
            for end in (model.graph.input[0], model.graph.output[0])] == [["N", *SMALL], ["N", 5]]
    assert [each.version for each in model.opset_import] == [11]


def test_the_commands(onnx, rng, tmp_path, capsys):
    """An image file: `predict` from the checkpoint, onnxruntime from the pixels."""
    size = 20
    _, net, _ = trained(rng, "mini", (3, crop_size(size), crop_size(size)), {})
    net.mean = rng.uniform(90, 160, (3, size, size)).astype(np.float32)
    to_checkpoint(tmp_path / "net.h5", net, "net")
    photo = tmp_path / "photo.png"
    Image.fromarray(pixels(rng, (3, 33, 47))[0].transpose(1, 2, 0).astype(np.uint8)).save(photo)
    for words in (["export", "net.h5", "net.onnx"], ["export", "net.h5", "net.bin", "--format", "onnx"],
                  ["predict", "net.h5", "photo.png", "--json"]):
        assert command_line.main([str(tmp_path / word) if "." in word else word for word in words]) == 0
    predictions = json.loads(capsys.readouterr().out.split("ready\n")[-1])[0]["predictions"]
    start, crop = (size - crop_size(size)) // 2, crop_size(size)
    image = load_image(photo, size)[None, :, start:start + crop, start:start + crop].astype(np.float32)
    for name in "net.onnx", "net.bin":
        chances = run((tmp_path / name).read_bytes(), image)[0]
        for line in predictions:
            assert abs(chances[line["index"]] - line["probability"]) <= 1e-5

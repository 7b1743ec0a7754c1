"""The nets against numbers worked out by hand from the paper (section 3.5, figure 2) and from the authors' code."""
import re

import pytest

from cpnet.errors import CpnetError
from cpnet.layers import LRN, Conv, Linear, MaxPool, ReLU, Tanh
from cpnet.nets import NETS, build
from cpnet.summary import totals

CONV1 = 96 * (3 * 11 * 11 + 1)
CONV2 = 256 * (48 * 5 * 5 + 1)
CONV3 = 384 * (256 * 3 * 3 + 1)
CONV4 = 384 * (192 * 3 * 3 + 1)
CONV5 = 256 * (192 * 3 * 3 + 1)
FULL = 4096 * (256 * 6 * 6 + 1) + 4096 * (4096 + 1) + 1000 * (4096 + 1)
NEURONS = 55 * 55 * 96 + 186624 + 64896 + 64896 + 43264 + 4096 + 4096 + 1000  # the last seven as printed in figure 2


def shapes(table, of=(Conv, Linear)):
    """For each such layer, its output's shape."""
    return [out for layer, _, out in table.shapes() if isinstance(layer, of)]


def weights(table):
    """For each layer with parameters, the shape of its weights."""
    return [layer.parameters(shape, table.columns)["weight"].shape for layer, shape, _ in table.shapes()
            if isinstance(layer, Conv | Linear)]


def parameter(table, name, key):
    return next(layer.parameters(shape, table.columns)[key] for layer, shape, _ in table.shapes() if layer.name == name)


def order(table, block):
    """The kinds of layers of a block, in order."""
    return [type(layer) for layer in table.layers if layer.name.split()[0] == block]


def test_alexnet():
    table = build("alexnet")
    assert shapes(table) == [(96, 55, 55), (256, 27, 27), (384, 13, 13), (384, 13, 13), (256, 13, 13),
                             (4096,), (4096,), (1000,)]
    assert shapes(table, MaxPool) == [(96, 27, 27), (256, 13, 13), (256, 6, 6)]
    assert weights(table) == [(96, 3, 11, 11), (256, 48, 5, 5), (384, 256, 3, 3), (384, 192, 3, 3), (256, 192, 3, 3),
                              (4096, 9216), (4096, 4096), (1000, 4096)]
    assert totals(table) == (659_272, 60_965_224, 724_406_816)
    assert totals(table)[:2] == (NEURONS, CONV1 + CONV2 + CONV3 + CONV4 + CONV5 + FULL)
    assert [layer.name for layer in table.layers if layer.reads == "all"] == ["conv1", "conv3", "fc6", "fc7", "fc8"]
    assert [layer.name for layer in table.layers if layer.undivided] == ["fc8"]
    assert [layer.name for layer in table.layers if "dropout" in layer.name] == ["fc6 dropout", "fc7 dropout"]
    assert table.columns == 2
    assert (table.rate, table.decay) == (0.01, 0.0005)


def test_alexnet_one_column():
    """Half of the kernels in conv1 to conv4, each reading all of the column; the rest whole (footnote 2)."""
    table = build("alexnet-one-column")
    assert shapes(table)[:6] == [(48, 55, 55), (128, 27, 27), (192, 13, 13), (192, 13, 13), (256, 13, 13), (4096,)]
    halves = CONV1 // 2 + CONV2 // 2 + 192 * (128 * 9 + 1) + CONV4 // 2
    assert totals(table)[1] == halves + CONV5 + FULL
    assert weights(table)[:5] == [(48, 3, 11, 11), (128, 48, 5, 5), (192, 128, 3, 3), (192, 192, 3, 3), (256, 192, 3, 3)]
    assert table.columns == 1


def test_alexnet_conv6():
    """128 more maps for each column over the last pooling layer, reading both columns."""
    table = build("alexnet-conv6")
    names = [layer.name for layer in table.layers]
    assert names[names.index("conv5 pool"):names.index("fc6")] == ["conv5 pool", "conv6", "conv6 relu"]
    sixth = 256 * (256 * 9 + 1)
    assert totals(table) == (659_272 + 256 * 6 * 6, 60_965_224 + sixth, 724_406_816 + 256 * 256 * 9 * 6 * 6)
    assert parameter(table, "conv6", "weight").shape == (256, 256, 3, 3)
    for profile in "paper", "as-run":
        table = build("alexnet-conv6", profile=profile)
        assert parameter(table, "conv6", "weight").std == 0.03
        assert parameter(table, "conv6", "bias").value == 1


def test_four_layer():
    table = build("four-layer", (3, 32, 32), 10)
    assert shapes(table) == [(32, 32, 32), (32, 16, 16), (64, 8, 8), (10,)]
    assert totals(table)[1] == 32 * (75 + 1) + 32 * (800 + 1) + 64 * (800 + 1) + 10 * (1024 + 1)
    assert [parameter(table, name, "weight").std for name in ("conv1", "conv2", "conv3", "fc4")] == [0.0001, 0.01, 0.01, 0.01]
    assert [parameter(table, name, "weight").decay for name in ("conv1", "conv2", "conv3", "fc4")] == [None, None, None, 1.0]
    assert all(parameter(table, name, "bias").rate == 2 for name in ("conv1", "conv2", "conv3", "fc4"))
    assert all(parameter(table, name, "bias").value == 0 for name in ("conv1", "conv2", "conv3", "fc4"))
    assert (table.rate, table.decay) == (0.001, 0.004)
    names = [layer.name for layer in table.layers]
    assert names == ["conv1", "conv1 pool", "conv1 relu", "conv1 lrn", "conv2", "conv2 relu", "conv2 pool", "conv2 lrn",
                     "conv3", "conv3 relu", "conv3 pool", "fc4"]


@pytest.mark.parametrize("image, final", [((1, 28, 28), 3), ((3, 24, 24), 3), ((3, 32, 32), 4)])
def test_mini(image, final):
    table = build("mini", image, 10)
    expected = (32 * (25 * image[0] + 1) + 64 * (16 * 25 + 1) + 96 * (64 * 9 + 1) + 96 * (48 * 9 + 1) + 64 * (48 * 9 + 1)
                + 1024 * (64 * final**2 + 1) + 1024 * (1024 + 1) + 10 * (1024 + 1))
    assert totals(table)[1] == expected
    assert shapes(table, MaxPool)[-1] == (64, final, final)
    assert [layer.name for layer in table.layers] == [layer.name for layer in build("alexnet").layers]
    assert [layer.reads for layer in table.layers] == [layer.reads for layer in build("alexnet").layers]


@pytest.mark.parametrize("name", ["alexnet", "alexnet-one-column", "alexnet-conv6"])
@pytest.mark.parametrize("profile, middle, rate", [("paper", 0.01, 1.0), ("as-run", 0.03, 2.0)])
def test_how_parameters_start_and_learn(name, profile, middle, rate):
    table = build(name, profile=profile)
    ones = {"conv2", "conv4", "conv5", "fc6", "fc7"}  # section 5: and zero in the remaining layers
    for layer in "conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8":
        std = middle if layer in ("conv3", "conv4", "conv5") else 0.01
        weight, bias = parameter(table, layer, "weight"), parameter(table, layer, "bias")
        assert (weight.std, weight.value, weight.rate, weight.decay) == (std, 0, 1, None)
        assert (bias.std, bias.value, bias.rate, bias.decay) == (0, layer in ones, rate, 0)


@pytest.mark.parametrize("name, size", [("alexnet", 224), ("alexnet-one-column", 224), ("mini", 28)])
def test_order_and_normalization_of_the_profiles(name, size):
    paper, as_run = (build(name, (3, size, size), 10, profile=profile) for profile in ("paper", "as-run"))
    assert order(paper, "conv1") == [Conv, ReLU, LRN, MaxPool]
    assert order(as_run, "conv1") == [Conv, LRN, MaxPool, ReLU]
    for table, alpha in (paper, 1e-4), (as_run, 2e-5):
        assert order(table, "conv2") == [Conv, ReLU, LRN, MaxPool]
        assert order(table, "conv5") == [Conv, ReLU, MaxPool]
        assert [(layer.k, layer.n, layer.alpha, layer.beta) for layer in table.layers if isinstance(layer, LRN)] == [
            (2, 5, alpha, 0.75)] * 2


def test_options():
    assert not any(isinstance(layer, LRN) for layer in build("alexnet", lrn=False).layers)
    kinds = [type(layer) for layer in build("four-layer", (3, 32, 32), 10, activation="tanh").layers]
    assert kinds.count(Tanh) == 3 and ReLU not in kinds


@pytest.mark.parametrize("name", NETS)
def test_settings_make_the_same_table_again(name):
    side = max(20, NETS[name].smallest)
    table = build(name, (3, side, side), 12, profile="as-run", activation="tanh", lrn=False)
    again = build(**table.settings)
    assert again == table


@pytest.mark.parametrize("name", NETS)
def test_the_smallest_image_is_enough_and_smaller_ones_are_refused(name):
    smallest = NETS[name].smallest
    assert all(min(out) >= 1 for _, _, out in build(name, (3, smallest, smallest)).shapes())
    with pytest.raises(CpnetError, match=f"net {name} needs crops of {smallest} pixels or more.*{smallest}×{smallest - 1}"):
        build(name, (3, smallest, smallest - 1))


@pytest.mark.parametrize("options, message", [
    ({"name": "alxnet"}, "net 'alxnet' does not exist: did you mean 'alexnet'? There are alexnet, alexnet-one-column, "),
    ({"name": "fourlayer"}, "did you mean 'four-layer'?"),
    ({"name": "minni"}, "did you mean 'mini'?"),
    ({"name": "alexnet", "profile": "asrun"}, "profile 'asrun' does not exist: did you mean 'as-run'? There are paper"),
    ({"name": "alexnet", "activation": "Relu"}, "activation 'Relu' does not exist: did you mean 'relu'?")])
def test_unknown_names_give_the_nearest(options, message):
    with pytest.raises(CpnetError, match=re.escape(message)):
        build(**options)


def test_columns_that_never_communicate():
    table = build("alexnet", exchange=False)
    assert [layer.name for layer in table.layers if layer.reads == "all"] == ["conv1", "fc8"]
    assert weights(table)[2] == (384, 128, 3, 3)
    assert weights(table)[5:] == [(4096, 4608), (4096, 2048), (1000, 4096)]
    one = 48 * 364 + 128 * 1201 + 192 * (128 * 9 + 1) + 192 * 1729 + 128 * 1729 + 2048 * 4609 + 2048 * 2049
    assert totals(table)[1] == 2 * one + 1000 * 4097


def test_pooling_without_overlap_has_equivalent_outputs():
    for size in (224, 227, 63):
        assert shapes(build("alexnet", (3, size, size), pool="2x2s2"), MaxPool)[1:] == shapes(
            build("alexnet", (3, size, size)), MaxPool)[1:]
    assert shapes(build("alexnet", pool="2x2s2")) == shapes(build("alexnet"))
    assert shapes(build("mini", (1, 24, 24), 10, pool="2x2s2")) == shapes(build("mini", (1, 24, 24), 10))


def test_no_dropout():
    assert [layer.name for layer in build("alexnet").layers if layer not in build("alexnet", dropout=False).layers] == [
        "fc6 dropout", "fc7 dropout"]


@pytest.mark.parametrize("name, expected", [
    ("conv3", [(96, 3, 11, 11), (256, 48, 5, 5), (384, 256, 3, 3), (256, 192, 3, 3)]),  # conv4 reads both columns instead
    ("conv4", [(96, 3, 11, 11), (256, 48, 5, 5), (384, 256, 3, 3), (256, 192, 3, 3)])])
def test_a_layer_less(name, expected):
    table = build("alexnet", drop_layer=name)
    assert not [layer for layer in table.layers if layer.name.startswith(name)]
    assert weights(table)[:4] == expected
    assert len(table.layers) == len(build("alexnet").layers) - 2


@pytest.mark.parametrize("name, drop", [("alexnet", "conv2"), ("alexnet", "conv5"), ("mini", "fc6"), ("four-layer", "conv2")])
def test_layers_that_cannot_be_left_out(name, drop):
    with pytest.raises(CpnetError, match="drop-layer"):
        build(name, (3, 64, 64), 10, drop_layer=drop)

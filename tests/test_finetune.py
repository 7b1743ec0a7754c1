"""Section 6's pre-training: a run that starts from trained weights, on other classes."""
import numpy as np
import pytest

import run as command_line
from cpnet.checkpoint import Checkpoint
from cpnet.errors import CpnetError
from cpnet.gpu.devices import named
from cpnet.nets import build
from cpnet.network import Network
from tests.helpers import checkpoint_arrays, small_set


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A folder with four.h5, five.h5 and the run `four`, trained on the first."""
    folder = tmp_path_factory.mktemp("finetune")
    small_set(folder / "four.h5", channels=3, train=32, val=8)
    small_set(folder / "five.h5", channels=3, classes=5, train=32, val=8)
    train(folder, "four", "--data", folder / "four.h5")
    return folder


def train(folder, name, *words):
    words = ["--name", name, "--runs", folder / "runs", "--batch", 16, "--epochs", 1, "--overwrite", *words]
    return command_line.main([str(word) for word in words])


def last(folder, name):
    return folder / "runs" / name / "checkpoint-last.h5"


def network(classes, name="mini"):
    table = build(name, (3, 14, 14), classes)
    return Network(table, named("cpu,cpu", 2), seed=5)


def test_layers_that_are_kept_and_replaced(pretrained):
    checkpoint, net = Checkpoint(last(pretrained, "four")), network(5)
    fresh = {name: net.get("values", name) for name in net.parameters}
    checkpoint.initialise(net, ["fc8", "fc7"])
    for name in net.parameters:
        expected = fresh[name] if name.startswith(("fc7", "fc8")) else checkpoint.arrays["values"][name]
        np.testing.assert_array_equal(net.get("values", name), expected, err_msg=name)


def test_what_does_not_fit_is_refused_and_nothing_assigned(pretrained):
    checkpoint, net = Checkpoint(last(pretrained, "four")), network(5)
    before = net.get("values", "conv1.weight")
    with pytest.raises(CpnetError, match=r"fc8\.bias is \(4,\) there, \(5,\) in the net; --replace LAYER"):
        checkpoint.initialise(net)
    with pytest.raises(CpnetError, match="--replace fc9: the net has no such layer"):
        checkpoint.initialise(net, ["fc9"])
    with pytest.raises(CpnetError, match=r"conv6\.bias is only in the net"):
        checkpoint.initialise(network(4, "mini-conv6"), ["fc8"])
    np.testing.assert_array_equal(net.get("values", "conv1.weight"), before)


def test_a_run_from_trained_weights(pretrained):
    done = train(pretrained, "five", "--data", pretrained / "five.h5", "--init-from", last(pretrained, "four"),
                 "--replace", "fc8", "--lr-scale", "conv1=0,fc7=0.5", "--weight-decay", 0)
    assert done == 0
    before, after = (checkpoint_arrays(last(pretrained, name)) for name in ("four", "five"))
    np.testing.assert_array_equal(after["values/conv1.weight"], before["values/conv1.weight"])  # factor 0: it stands still
    assert not np.array_equal(after["values/conv2.weight"], before["values/conv2.weight"])
    assert after["values/fc8.weight"].shape == (5, 1024)
    assert Checkpoint(last(pretrained, "five")).settings["lr_scale"] == {"conv1": 0.0, "fc7": 0.5}


def test_rates_are_scaled_on_every_device_and_after_resuming(pretrained):
    net = network(5)
    net.scale_rates({"conv2": 0.1})
    rates = {segment.name: segment.rate for segments in net.segments for segment in segments}
    assert rates["conv2.weight"] == rates["conv2.bias"] == 0.1 and rates["conv3.weight"] == 1
    scaled = "--data", pretrained / "four.h5", "--lr-scale", "conv1=0.5", "--checkpoint-minutes", 1e6
    train(pretrained, "whole", *scaled, "--epochs", 2)
    train(pretrained, "half", *scaled)
    assert command_line.main(["--resume", "half", "--epochs", "2", "--runs", str(pretrained / "runs")]) == 0
    whole, half = (checkpoint_arrays(last(pretrained, name)) for name in ("whole", "half"))
    for name in whole:
        np.testing.assert_array_equal(half[name], whole[name], err_msg=name)


@pytest.mark.parametrize("words, message", [
    (["--init-from", "none.h5"], "none.h5: there is no such checkpoint"),
    (["--replace", "fc8"], "give it with --init-from"),
    (["--lr-scale", "fc9=1"], "--lr-scale fc9: the net has no such layer"),
    (["--lr-scale", "fc8"], "'fc8' is not a list of layers and factors"),
    (["--lr-scale", "fc8=-1"], "'fc8=-1' is not a list of layers and factors")])
def test_mistakes(pretrained, capsys, words, message):
    try:
        code = train(pretrained, "wrong", "--data", pretrained / "four.h5", *words)
    except SystemExit as exit:
        code = exit.code
    assert code != 0 and message in capsys.readouterr().err
    assert not (pretrained / "runs" / "wrong").exists()

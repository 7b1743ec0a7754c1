"""Weights out and in again, as .npz and .safetensors."""
import json

import h5py
import numpy as np
import pytest

import run as command_line
from cpnet.evaluate import probabilities
from cpnet.formats.export import Trained, describe, fold_dropout, to_checkpoint
from cpnet.layers import LRN, Conv, Linear
from cpnet.nets import NETS, PROFILES, build
from tests.helpers import assert_same_arrays, lively, optional

IMAGE = 1, 14, 14
FORMATS = ["npz", "safetensors"]


@pytest.fixture(scope="module")
def trained():
    rng = np.random.default_rng(3)
    table = build("mini", IMAGE, 4)
    network = lively(table, rng.uniform(-100, 100, (*IMAGE, 3)).astype(np.float32))
    values = {name: network.get("values", name) for name in network.parameters}
    return Trained({"table": table.settings, "data": "four.h5", "seed": 0}, values,
                   rng.uniform(0, 255, (1, 16, 16)).astype(np.float32), ["naïve", "b c", "d", "e"])


@pytest.fixture(scope="module")
def folder(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    to_checkpoint(folder / "net.h5", trained, "net")
    return folder


def call(folder, *words):
    return command_line.main([str(folder / word) if "." in word else word for word in words])


def contents(path):
    """(arrays, classes, description) of an exported file, by nothing of ours."""
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        return arrays, list(arrays.pop("classes")), json.loads(str(arrays.pop("description")))
    with optional("safetensors").safe_open(path, framework="np") as file:
        return ({name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["classes"]),
                json.loads(file.metadata()["description"]))


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("form", FORMATS)
def test_there_and_back(trained, folder, form, folded):
    if form == "safetensors":
        optional("safetensors")
    fold = ["--fold-dropout"] * folded
    assert call(folder, "export", "net.h5", f"out.{form}", *fold) == 0
    arrays, classes, description = contents(folder / f"out.{form}")
    np.testing.assert_array_equal(arrays.pop("mean"), trained.mean)
    assert classes == trained.classes and description["run"] == trained.settings
    assert arrays.keys() == trained.values.keys()
    for name, array in arrays.items():
        factor = 0.5 if folded and name in ("fc7.weight", "fc8.weight") else 1
        np.testing.assert_array_equal(array, factor * trained.values[name], err_msg=name)
    layers = {layer["name"]: layer for layer in description["layers"]}
    assert layers["conv2"]["groups"] == 2 and layers["conv1 lrn"]["scope"].startswith("each of the 2 columns")
    assert layers["fc6 dropout"]["at test"] == ("nothing: 0.5 is in the weights of the layer that follows" if folded
                                                else "multiply by 0.5")
    assert call(folder, "import", f"out.{form}", "again.h5") == 0
    assert_same_arrays(folder / "again.h5", folder / "net.h5")
    with h5py.File(folder / "again.h5") as again, h5py.File(folder / "net.h5") as net:
        assert again.attrs["settings"] == net.attrs["settings"] and again.attrs["state"] == net.attrs["state"]


def test_the_format_is_chosen_by_the_ending_or_the_option(folder):
    for name in "out.pth", "out":
        with pytest.raises(SystemExit):
            call(folder, "export", "net.h5", name)
        assert not (folder / name).exists()
    assert call(folder, "export", "net.h5", "out.NPZ") == 0
    assert contents((folder / "out.NPZ").rename(folder / "renamed.npz"))[1][1] == "b c"
    optional("safetensors")
    assert call(folder, "export", "net.h5", "named.npz", "--format", "safetensors") == 0
    assert contents((folder / "named.npz").rename(folder / "renamed.safetensors"))[1][1] == "b c"


def test_folded_weights_need_no_dropout(trained):
    """The net without its dropout layers, from the folded weights, says the same."""
    rng = np.random.default_rng(4)
    images = rng.uniform(-100, 100, (*IMAGE, 5)).astype(np.float32)
    network = lively(trained.table, images)
    expected = probabilities(network, images)
    without = lively(build("mini", IMAGE, 4, dropout=False), images)
    values = {name: network.get("values", name) for name in network.parameters}
    for name, array in fold_dropout(trained.table, values).items():
        without.set("values", name, array)
    np.testing.assert_allclose(probabilities(without, images), expected, rtol=1e-6)
    assert fold_dropout(without.table, values) == values


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("name", NETS)
def test_every_net_is_described(name, profile):
    table = build(name, (3, 64, 64), 10, profile)
    layers = describe(table)["layers"]
    for layer, said in zip(table.layers, json.loads(json.dumps(layers)), strict=True):
        assert said["name"] == layer.name
        if isinstance(layer, Conv | Linear):
            assert said["groups"] == (table.columns if layer.reads == "column" else 1)
        if isinstance(layer, LRN):
            assert (said["k"], said["alpha"]) == (PROFILES[profile].lrn_k, PROFILES[profile].lrn_alpha)
            assert said["scope"].startswith("all maps" if "caffe" in profile else f"each of the {table.columns} columns")


# What cannot be read


@pytest.fixture
def error_of(folder, tmp_path, capsys):
    """What the import of a file with this content says: one line."""
    def imported(name, content):
        (folder / name).write_bytes(content)
        assert call(folder, "import", name, "wrong.h5") == 1
        error = capsys.readouterr().err
        assert error.startswith(f"error: {folder / name}: ") and error.count("\n") == 1, error
        assert not (folder / "wrong.h5").exists()
        return error

    return imported


@pytest.mark.parametrize("form", FORMATS)
def test_damaged_files(folder, error_of, form):
    if form == "safetensors":
        optional("safetensors")
    call(folder, "export", "net.h5", f"whole.{form}")
    whole = (folder / f"whole.{form}").read_bytes()
    for content in b"", b"no", whole[:1000], whole[:len(whole) // 2], whole[:-30]:
        assert "is not an exported net" in error_of(f"damaged.{form}", content)
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes(byte ^ 255 for byte in whole[middle:middle + 8]) + whole[middle + 8:]
    if form == "npz":  # zip files have checksums
        assert "is not an exported net" in error_of("damaged.npz", flipped)


def changed(folder, tmp_path, edit=None, **changes):
    """The exported net with other arrays, as bytes; `edit` changes its description."""
    call(folder, "export", "net.h5", "right.npz")
    with np.load(folder / "right.npz") as file:
        arrays = dict(file)
    if edit:
        text = json.loads(str(arrays["description"]))
        edit(text)
        changes["description"] = np.array(json.dumps(text))
    np.savez(tmp_path / "changed.npz", **{name: array for name, array in (arrays | changes).items() if array is not None})
    return (tmp_path / "changed.npz").read_bytes()


@pytest.mark.parametrize("changes, message", [
    ({"classes": np.array(["a"])}, "names 1 classes, the net has 4"),
    ({"classes": None}, "names 0 classes, the net has 4"),
    ({"description": np.array("{}")}, "is not an exported net"),
    ({"description": np.array("no JSON")}, "is not an exported net"),
    ({"mean": np.zeros((1, 15, 15))}, "the mean image is 1×15×15, the net needs 1 channels, of a size whose crops have 14"),
    ({"mean": np.full((1, 16, 16), np.nan)}, "the mean image holds values that are not finite"),
    ({"mean": None}, "is not an exported net"),
    ({"fc7.bias": np.full(1024, np.inf)}, "fc7.bias holds values that are not finite"),
    ({"fc7.bias": np.full(1024, "a")}, "fc7.bias holds values that are not finite"),
    ({"fc7.bias": np.array([None] * 1024)}, "fc7.bias: it is pickled, which this program never reads"),
    ({"fc7.bias": np.zeros(9)}, "fc7.bias is (9,) there, (1024,) in the net"),
    ({"fc9.bias": np.zeros(9)}, "fc9.bias is only in the file"),
    ({"fc7.bias": None}, "fc7.bias is only in the net")], ids=str)
def test_arrays_that_do_not_fit(folder, tmp_path, error_of, changes, message):
    assert message in error_of("changed.npz", changed(folder, tmp_path, **changes))


@pytest.mark.parametrize("change, message", [
    (lambda text: text.update(format="cpnet-export-9"), "its form is 'cpnet-export-9', this program reads 'cpnet-export-1'"),
    (lambda text: text["run"]["table"].update(name="maxi"), "net 'maxi' does not exist"),
    (lambda text: text["run"]["table"].update(colour=1), "is not an exported net"),
    (lambda text: text["run"]["table"].update(image=[1, "14", 14]), "is not an exported net"),
    (lambda text: text["run"]["table"].update(classes="ten"), "names 4 classes, the net has ten"),
    (lambda text: text["run"]["table"].update(classes=10**9), "names 4 classes, the net has 1000000000"),
    (lambda text: text.update(run=None), "is not an exported net")])
def test_descriptions_that_do_not_fit(folder, tmp_path, error_of, change, message):
    assert message in error_of("changed.npz", changed(folder, tmp_path, change))


def test_the_checkpoint_is_not_overwritten(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit) as exit:
        command_line.main(["export", "net.h5", "./net.h5"])
    assert exit.value.code == 2 and "./net.h5 is the checkpoint itself" in capsys.readouterr().err


def test_a_missing_package_is_named(folder, monkeypatch, capsys):
    for module, form in ("safetensors.numpy", "safetensors"), ("onnx", "onnx"):
        monkeypatch.setitem(__import__("sys").modules, module, None)
        assert call(folder, "export", "net.h5", f"none.{form}") == 1
        error = capsys.readouterr().err
        assert f"pip install {form}" in error and error.count("\n") == 1
        assert not (folder / f"none.{form}").exists()

"""The list of settings: what files may hold, which options it makes, and what may change when a run is resumed."""

import json
from dataclasses import fields

import h5py
import pytest

import run as command_line
from cpnet import nets, settings
from cpnet.checkpoint import Checkpoint
from cpnet.commands import train
from cpnet.errors import CpnetError
from cpnet.options import OPTIONS, as_words
from cpnet.run_folder import RunFolder
from cpnet.settings import NetSettings, Settings, read
from tests.helpers import small_set

TABLE = nets.build("mini", (1, 14, 14), 4).settings
OLDEST = {
    "table": TABLE,
    "data": "squares.h5",
    "lr": 0.01,
    "epochs": 3,
    "decay": 0.0005,
    "schedule": "plateau",
    "batch": 16,
    "momentum": 0.9,
    "mirror": True,
    "colour": True,
    "seed": 0,
}  # all that the first files had
KEYS = {
    *OLDEST,
    "init_from",
    "replace",
    "lr_scale",
    "shuffle",
    "crops",
    "probe",
    "until",
    "math",
    "loader_threads",
    "checkpoint_minutes",
    "graph",
    "devices",
    "fingerprint",
}


def test_files_hold_the_names_that_they_always_did():
    assert set(Settings().keys()) == KEYS and set(TABLE) == {each.name for each in fields(NetSettings)}


def test_the_first_files_mean_the_defaults():
    found = read("config.json", OLDEST)
    assert (found.crops, found.shuffle, found.graph) == (True, "full", False)
    assert found.math == "fp32" and found.probe is None
    assert found.replace == [] and found.lr_scale == {} and found.epochs == 3
    old = {name: TABLE[name] for name in ("name", "image", "classes", "profile", "activation", "lrn")}
    assert nets.build(**read("config.json", {**OLDEST, "table": old}).table).settings == TABLE


def test_what_is_written_can_be_read():
    whole = read("config.json", OLDEST)
    assert read("config.json", json.loads(json.dumps(dict(whole)))) == whole
    assert read("config.json", {**dict(whole), "started": [{}], "made_from": "Caffe"}) == whole


def test_of_an_imported_net_only_the_net_is_needed():
    assert read("net.h5", {"table": TABLE, "data": None, "seed": 0}, needed=["table"]).table == TABLE
    with pytest.raises(CpnetError, match="net.h5: has no 'table'"):
        read("net.h5", {"data": None}, needed=["table"])


WRONG = [
    ("batch", 0, "not a whole number above 0"),
    ("batch", 16.5, "not a whole number"),
    ("batch", True, "not a whole number"),
    ("batch", None, "not a whole number"),
    ("epochs", -1, "not a whole number, 0 or more"),
    ("lr", 0, "not a number above 0"),
    ("lr", "0.01", "not a number"),
    ("lr", float("nan"), "not a number"),
    ("momentum", -0.5, "not a number, 0 or more"),
    ("decay", [], "not a number"),
    ("seed", "a", "not a whole number"),
    ("schedule", "5,3", "not plateau, constant, or"),
    ("schedule", 7, "not plateau"),
    ("mirror", 1, "not true or false"),
    ("colour", "no", "not true or false"),
    ("crops", None, "not true or false"),
    ("shuffle", "half", "not one of full, blocks"),
    ("math", "fp16", "not one of fp32, tf32"),
    ("data", 5, "not the name"),
    ("until", 2, "not a share"),
    ("probe", 0, "not a whole number above 0"),
    ("replace", "fc8", "not a list of names"),
    ("replace", [8], "not a list of names"),
    ("lr_scale", {"fc8": -1}, "not a list of layers and factors"),
    ("devices", 0, "not text"),
    ("loader_threads", 0, "not a whole number"),
    ("checkpoint_minutes", 0, "not a number"),
    ("graph", "yes", "not true or false"),
    ("table", [], "not an object"),
    ("init_from", 3, "not the name of a file"),
]
WRONG_NET = [
    ("name", "maxi", "not one of alexnet"),
    ("image", [1, 14], "not a list of channels, height and width"),
    ("classes", 0, "not a whole number above 0"),
    ("profile", "papr", "not one of paper"),
    ("lrn", 1, "not true or"),
    ("activation", None, "not one of relu, tanh"),
    ("pool", "4x4", "not one of 3x3s2"),
    ("drop_layer", 3, "not text"),
    ("dropout", "no", "not true or false"),
    ("exchange", 0, "not true or false"),
]


def test_every_setting_is_tried():
    assert {key for key, *_ in WRONG} == KEYS - {"fingerprint"}  # which is compared, not read
    assert {key for key, *_ in WRONG_NET} == set(TABLE)


def refused(place, found):
    with pytest.raises(CpnetError) as caught:
        read("runs/a/config.json", found)
    message = str(caught.value)
    assert message.startswith(f"runs/a/config.json{place}: ") and "\n" not in message
    return message


@pytest.mark.parametrize("key, value, message", WRONG)
def test_a_value_that_a_setting_cannot_have(key, value, message):
    said = refused("", {**OLDEST, key: value})
    assert f": {key} is {value!r}, {message}" in said


@pytest.mark.parametrize("key, value, message", WRONG_NET)
def test_a_value_that_a_net_cannot_have(key, value, message):
    said = refused(", table", {**OLDEST, "table": {**TABLE, key: value}})
    assert f": {key} is {value!r}, {message}" in said


@pytest.mark.parametrize("key", sorted(OLDEST))
def test_a_name_that_is_missing(key):
    found = {name: value for name, value in OLDEST.items() if name != key}
    assert f"has no {key!r}" in refused("", found)


def test_names_that_are_unknown_and_nets_that_cannot_be():
    assert "has 'speed', which is not a setting" in refused("", {**OLDEST, "speed": 1})
    assert "has 'depth', which is not a setting" in refused(
        ", table", {**OLDEST, "table": {**TABLE, "depth": 8}}
    )
    for key in "name", "image", "classes":
        table = {name: value for name, value in TABLE.items() if name != key}
        assert f"has no {key!r}" in refused(", table", {**OLDEST, "table": table})
    assert "needs crops of 8 pixels" in refused(", table", {**OLDEST, "table": {**TABLE, "image": [1, 4, 4]}})
    assert "no convolution" in refused(
        ", table", {**OLDEST, "table": {**TABLE, "name": "four-layer", "drop_layer": "x"}}
    )


# On the command line


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with squares.h5, and a run runs/a of one epoch."""
    folder = tmp_path_factory.mktemp("settings")
    small_set(folder / "squares.h5", train=32, val=8)
    assert (
        command_line.main(
            [
                str(word)
                for word in [
                    *COMMAND,
                    "--data",
                    folder / "squares.h5",
                    "--runs",
                    folder / "runs",
                    "--name",
                    "a",
                ]
            ]
        )
        == 0
    )
    return folder


COMMAND = [
    "--epochs",
    "1",
    "--batch",
    "16",
    "--seed",
    "3",
    "--no-lrn",
    "--lr-scale",
    "conv1=0.5",
    "--probe",
    "2",
    "--schedule",
    "1",
    "--weight-decay",
    "0",
    "--activation",
    "tanh",
    "--until",
    "0%",
]


def resume(folder, *words):
    return command_line.main([str(word) for word in ["--resume", "a", "--runs", folder / "runs", *words]])


def test_the_same_command_with_resume_goes_on(trained, monkeypatch, capsys):
    monkeypatch.chdir(trained)
    assert (
        resume(trained, *COMMAND, "--data", "./squares.h5", "--net", "mini", "--lr", "0.010", "--name", "a")
        == 0
    )
    assert (
        resume(trained, "--pool", "3x3s2", "--momentum", "0.9", "--epochs", "2", "--no-graph", "--seed=3")
        == 0
    )
    assert "to epoch 2" in capsys.readouterr().out
    assert RunFolder("runs/a").read()[0].epochs == 2


@pytest.mark.parametrize(
    "words, message",
    [
        (["--seed", "0"], "--seed 0, but the run has --seed 3"),
        (["--seed=5"], "--seed 5, but the run has --seed 3"),
        (["--no-dropout"], "--no-dropout, but the run has no --no-dropout"),
        (["--net", "mini-conv6"], "the run has --net mini,"),
        (["--lr-scale", "conv1=2"], "--lr-scale conv1=2, but the run has --lr-scale conv1=0.5"),
        (["--init-from", "a.h5"], "--init-from a.h5, but the run has no --init-from"),
        (["--probe", "3"], "the run has --probe 2"),
        (["--drop-layer", "conv3"], "--drop-layer conv3, but the run has no --drop-layer"),
        (["--data", "other.h5"], "other.h5: the run's data set is no longer there"),
        (["--activation", "relu"], "--activation relu, but the run has --activation tanh"),
        (["--weight-decay", "0.1"], "--weight-decay 0.1, but the run has --weight-decay 0"),
        (["--until", "50%"], "--until 0.5, but the run has --until 0.0"),
        (["--overwrite"], "--overwrite replaces a run"),
    ],
)
def test_a_difference_is_refused(trained, capsys, words, message):
    before = (trained / "runs/a/config.json").read_bytes()
    try:
        code = resume(trained, *words)
    except SystemExit as exit:
        code = exit.code
    error = capsys.readouterr().err
    assert code not in (0, None) and message in error and error.count("\n") == 1, error
    assert (trained / "runs/a/config.json").read_bytes() == before


def test_a_checkpoint_with_other_settings_is_refused(trained, tmp_path, capsys):
    (tmp_path / "runs/a").mkdir(parents=True)
    path = tmp_path / "runs/a/checkpoint-last.h5"
    path.write_bytes((trained / "runs/a/checkpoint-last.h5").read_bytes())
    for change, message in (
        ({"batch": "16"}, "batch is '16', not a whole number above 0"),
        ({"speed": 1}, "has 'speed'"),
    ):
        with h5py.File(path, "r+") as file:
            found = json.loads(file.attrs["settings"])
            file.attrs["settings"] = json.dumps({**found, **change})
        for words in (
            ["--resume", "a", "--runs", tmp_path / "runs"],
            ["evaluate", path],
            ["predict", path, "a.png"],
        ):
            assert command_line.main([str(word) for word in words]) == 1
            assert f"checkpoint-last.h5: {message}" in capsys.readouterr().err
        with h5py.File(path, "r+") as file:
            file.attrs["settings"] = json.dumps(found)
    assert Checkpoint(path).run().seed == 3


def test_settings_as_they_are_typed(trained):
    found = Checkpoint(trained / "runs/a/checkpoint-last.h5").run()
    words = as_words(found)
    options = train.parser().parse(words)
    for dest, option in OPTIONS.items():
        expected = found.table[option.name] if option.of_net else found[option.name]
        if option.name in ("lr", "epochs") and getattr(options, dest) is None:
            continue  # the usual values, which are left out
        assert getattr(options, dest) == expected, dest


def test_nobody_changes_a_default_of_all():
    Settings().replace.append("fc8")
    assert Settings().replace == [] and settings.Settings().lr_scale is not settings.Settings().lr_scale

"""The settings of a run: one list that makes the options, is kept, and is checked when it is read."""
import json
import re

import pytest

import run as command_line
from cpnet import nets
from cpnet.commands import train
from cpnet.errors import CpnetError
from cpnet.run_folder import RunFolder
from cpnet.settings import OPTIONS, STORED, Settings, read
from tests.helpers import small_set

TABLE = nets.build("mini", (1, 14, 14), 4).settings
EVERY = dict(table=TABLE, data="a.h5", lr=0.02, decay=0, probe=3, until=0.25, replace=["fc8"], lr_scale={"conv1": 0.1})


def test_what_is_written_is_read_again():
    settings = Settings(**EVERY)
    assert read("a", json.loads(json.dumps(settings.as_dict()))) == settings


def test_an_older_file_lacks_what_was_not_there_yet():
    assert read("a", {"table": TABLE, "seed": 3}) == Settings(TABLE, seed=3)


@pytest.mark.parametrize("changed, problem", [
    ({"speed": 1}, "has a setting 'speed', which this program does not know"),
    ({"batch": 0}, "the setting 'batch' cannot be used: 0 is not a whole number above 0"),
    ({"batch": "128"}, "'batch' cannot be used: '128' is not a whole number"),
    ({"batch": True}, "'batch' cannot be used: True is not"), ({"lr": float("nan")}, "'lr' cannot be used: nan is not a number"),
    ({"lr": 0}, "'lr' cannot be used: 0 is not a number above 0"), ({"lr": None}, "'lr' cannot be used: None is not"),
    ({"mirror": 1}, "'mirror' cannot be used: 1 is not true or false"), ({"math": "bf16"}, "'math' cannot be used: 'bf16' is not"),
    ({"until": 2}, "'until' cannot be used: 2 is not a share"), ({"table": []}, "'table' cannot be used: [] is no dict"),
    ({"replace": "fc8"}, "'replace' cannot be used: 'fc8' is not a list"), ({"devices": 0}, "'devices' cannot be used: 0 is no str"),
    ({"lr_scale": {"conv1": -1}}, "'lr_scale' cannot be used: {'conv1': -1} is not layers and factors")])
def test_what_cannot_be_used_is_named(changed, problem):
    with pytest.raises(CpnetError, match="^there.json: " + ".*" + re.escape(problem)) as error:
        read("there.json", {**EVERY, **changed})
    assert "\n" not in str(error.value)


def test_without_a_net():
    with pytest.raises(CpnetError, match="^a: has no 'table'"):
        read("a", {"seed": 1})


def test_every_setting_is_stored_or_an_option():
    assert set(vars(Settings(TABLE))) == set(STORED) | set(OPTIONS)
    known = {action.dest for action in train.parser()._actions}
    assert set(OPTIONS) < known


# Going on


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small_set("s.h5", train=24, val=4)
    small_set("other.h5", train=24, val=4)
    assert command_line.main("train --data s.h5 --epochs 1 --batch 8 --seed 3 --no-colour --lr-scale conv1=0.5 --name a".split()) == 0
    return tmp_path


def test_the_command_may_be_repeated_with_resume(here, capsys):
    """Options that are equal to the run's go on; so do those that may change."""
    words = "--data s.h5 --epochs 2 --batch 8 --seed 3 --no-colour --lr-scale conv1=0.5 --net mini --pool 3x3s2 --name a --resume"
    assert command_line.main(words.split()) == 0, capsys.readouterr().err
    settings, history = RunFolder("runs/a").read()
    assert settings["epochs"] == 2 and settings["seed"] == 3 and len(history) == 2 and settings["version"]


@pytest.mark.parametrize("words, option, given, own", [
    ("--seed 4", "--seed", "4", "3"), ("--batch 16", "--batch", "16", "8"), ("--net four-layer", "--net", "four-layer", "mini"),
    ("--data other.h5", "--data", "other.h5", "s.h5"), ("--no-lrn", "--no-lrn", "False", "True"),
    ("--lr-scale conv1=0.1", "--lr-scale", "{'conv1': 0.1}", "{'conv1': 0.5}"), ("--init-from x", "--init-from", "x", "None")])
def test_an_option_that_differs_is_refused_with_both_values(here, capsys, words, option, given, own):
    before = (here / "runs/a/config.json").read_bytes()
    with pytest.raises(SystemExit) as ended:
        command_line.main(["--resume", "a", *words.split()])
    error = capsys.readouterr().err
    assert ended.value.code == 2 and error.count("\n") == 1
    assert f"{option} is part of a run and cannot change with --resume: {given} was given, and the run has {own}" in error
    assert (here / "runs/a/config.json").read_bytes() == before


# Help


def test_help_fits_on_a_screen_and_has_every_command(capsys):
    assert command_line.main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= 100
    for command in command_line.COMMANDS:
        assert re.search(rf"\b{command}\b", "\n".join(lines))


@pytest.mark.parametrize("command", command_line.COMMANDS)
def test_every_option_has_a_sentence(command, capsys):
    """It begins with a capital letter and ends with a full stop, and no switch names a default."""
    with pytest.raises(SystemExit):
        command_line.main([command, "--help"])
    text = capsys.readouterr().out
    assert "(default: True)" not in text and "(default: False)" not in text
    helps = re.findall(r"^  -\S.*?(?=^  \S|^\S|\Z)", text, re.M | re.S)
    assert helps
    for entry in helps:
        said = " ".join(re.split(r"\s{2,}|\n", entry.strip())[1:]).strip()
        assert entry.lstrip().startswith("-h,") or re.match(r"[A-Z].*\.$", said), entry


def test_version(capsys):
    assert command_line.main(["--version"]) == 0
    out = capsys.readouterr().out
    for word in "cpnet 0.", "Python 3.", "NumPy", "cores of", "GPU":
        assert word in out

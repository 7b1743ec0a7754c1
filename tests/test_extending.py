"""The worked changes of docs/extending.md, applied to a copy of the source, and run."""
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from tests.helpers import ROOT, checkpoint_arrays, small_set

STEP = re.compile(r"^\*\*`([\w/.]+)`\*\*, (before|instead of|at the end|a new file)(?: `(.+?)`(?: of `(.+?)`)?)?:\n\n"
                  r"```\S+\n(.*?)^```$", re.M | re.S)


def change(path, where, anchor, of, code):
    """Do to the file `path` what one step of the document says. Raises ValueError for an anchor that is not there once."""
    if where == "a new file":
        path.write_text(code)
        return
    text = path.read_text()
    if where == "at the end":
        path.write_text(text + code)
        return
    found = f"{anchor}\n{of}" if of else anchor
    if len(re.findall(rf"^{re.escape(found)}", text, re.M)) != 1:
        raise ValueError(f"{path}: {found!r} is not there once")
    path.write_text(text.replace(found, code.rstrip("\n") if where == "instead of" else code + found, 1))


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """A copy of the source with the changes."""
    copy = tmp_path_factory.mktemp("extended")
    for folder in "cpnet", "data", "tests":
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("cache", "__pycache__", "*.h5"))
    for file in "run.py", "pyproject.toml":
        shutil.copy(ROOT / file, copy)
    steps = STEP.findall((ROOT / "docs" / "extending.md").read_text())
    assert len(steps) == (ROOT / "docs" / "extending.md").read_text().count("```") / 2 == 13
    for path, *step in steps:
        change(copy / path, *step)
    return copy


def python(folder, *words):
    """What a command says, run in `folder`."""
    done = subprocess.run([sys.executable, *map(str, words)], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_its_tests_pass(extended):
    said = python(extended, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_extensions.py")
    assert said.startswith("." * 13 + " ")  # one for each test: none was skipped


def test_it_trains(extended):
    """A run that goes on has the same bits as one that was never interrupted: the running averages are kept, too."""
    small_set(extended / "s.h5", train=24, val=4)
    assert "conv2 leaky" in python(extended, "run.py", "summary", "--net", "shallow", "--activation", "leaky")
    words = "train --data s.h5 --net shallow --activation leaky --batch 8 --devices cpu,cpu".split()
    assert "epoch 2/2" in python(extended, "run.py", *words, "--epochs", 2, "--name", "whole")
    python(extended, "run.py", *words, "--epochs", 1, "--name", "halves")
    assert "epoch 2/2" in python(extended, "run.py", "train", "--resume", "halves", "--epochs", 2)
    whole, halves = (checkpoint_arrays(extended / "runs" / name / "checkpoint-last.h5") for name in ("whole", "halves"))
    assert whole["state/conv2 norm.variance"].shape == (32,) and not np.allclose(whole["state/conv2 norm.mean"], 0)
    for name, array in whole.items():
        np.testing.assert_array_equal(halves[name], array, err_msg=name)


def test_what_export_says_of_state(extended):
    small_set(extended / "s.h5", train=24, val=4)
    python(extended, "run.py", "train", *"--data s.h5 --net shallow --batch 8 --epochs 1 --devices cpu --name e".split())
    done = subprocess.run([sys.executable, "run.py", "export", "runs/e/checkpoint-last.h5", "e.npz"], cwd=extended,
                          capture_output=True, text=True)
    assert done.returncode and "has layers with state (conv1 norm.mean" in done.stderr and "Traceback" not in done.stderr


def test_a_step_without_a_place_is_noticed(tmp_path):
    (tmp_path / "a.py").write_text("x = 1\n")
    with pytest.raises(ValueError, match="is not there once"):
        change(tmp_path / "a.py", "before", "y = 1", "", "z = 1\n")

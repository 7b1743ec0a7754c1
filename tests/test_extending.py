"""The worked changes of docs/extending.md, applied to a copy of the source, and run."""
import re
import shutil
import subprocess
import sys

import pytest

from tests.helpers import ROOT, small_set

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
    assert len(steps) == (ROOT / "docs" / "extending.md").read_text().count("```") / 2 == 8
    for path, *step in steps:
        change(copy / path, *step)
    return copy


def python(folder, *words):
    """What a command says, run in `folder`."""
    done = subprocess.run([sys.executable, *map(str, words)], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_its_tests_pass(extended):
    assert "....." in python(extended, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_leaky.py")


def test_it_trains(extended):
    small_set(extended / "s.h5", train=24, val=4)
    assert "conv2 leaky" in python(extended, "run.py", "summary", "--net", "shallow", "--activation", "leaky")
    words = "train --data s.h5 --net shallow --activation leaky --epochs 1 --batch 8 --devices cpu,cpu --name a".split()
    assert "epoch 1/1" in python(extended, "run.py", *words)


def test_a_step_without_a_place_is_noticed(tmp_path):
    (tmp_path / "a.py").write_text("x = 1\n")
    with pytest.raises(ValueError, match="is not there once"):
        change(tmp_path / "a.py", "before", "y = 1", "", "z = 1\n")

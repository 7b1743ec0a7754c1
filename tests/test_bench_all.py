"""The bench of training on a CPU, and the command that runs all parts: resumed, out of time, with parts that fail."""
import json
from dataclasses import replace

import pytest

from bench import all as whole
from bench import train
from cpnet.gpu.graph import GraphStep
from data.store.dataset import Dataset
from tests.gpus import gpus, tiny
from tests.helpers import small_set


def test_training_is_measured(monkeypatch, tmp_path, capsys):
    """A real run of the smallest size; the rates are of the steps that count."""
    monkeypatch.setattr(train, "WARM", 2)
    train.main(["--net", "mini", "--size", "10", "--batch", "4", "--steps", "3", "--loader-threads", "1",
                "--json", str(tmp_path / "train.json")])
    found = json.loads((tmp_path / "train.json").read_text())
    assert found["images_per_s"] > 0 and found["alone_images_per_s"] > 0
    assert found["idle_share"] == pytest.approx(1 - found["images_per_s"] / found["alone_images_per_s"])
    assert (found["net"], found["batch"], found["steps"], found["graph"]) == ("mini", 4, 3, False)
    out = capsys.readouterr().out
    assert "images/s in training" in out and "the paper's two GPUs took 5 to 6 days" in out


def test_training_is_measured_on_a_gpu(monkeypatch, tmp_path):
    """An emulated one, with graphs: what is repeated alone is the graph's own batch, so nothing is copied."""
    gpus("0")
    small = tiny()
    table = replace(small, settings={**small.settings, "profile": "paper"})
    monkeypatch.setattr(train, "WARM", 2)
    monkeypatch.setattr(train.nets, "build", lambda *settings: table)
    alone, copied = train.Loop.alone_images_per_s, []

    def watched(loop):
        monkeypatch.setattr("cpnet.gpu.memory.assign", lambda *arrays: copied.append(arrays))
        monkeypatch.setattr("cpnet.gpu.memory.copy", copied.extend)
        assert isinstance(loop.work, GraphStep) and loop.state.step == 5
        return alone(loop)

    monkeypatch.setattr(train.Loop, "alone_images_per_s", watched)
    args = train.parse(["--graph", "--batch", "4", "--steps", "3", "--loader-threads", "1", "--devices", "0"])
    with Dataset(small_set(tmp_path / "squares.h5", size=10, train=20, val=4)) as dataset:
        rates = train.measure(dataset, tmp_path / "run", args)
    assert min(rates) > 0 and copied == []


def test_the_clock_of_the_loop(monkeypatch):
    """12 steps of 50 images in 6 seconds between the two marks, whatever was before and after."""
    monkeypatch.setattr(train, "WARM", 10)
    loop = object.__new__(train.Loop)
    loop.ends, loop.settings, loop.marks = (10, 22), {"batch": 50}, {10: 100.0, 22: 106.0}
    assert loop.images_per_s() == 100


def test_projection():
    found = train.projection(90 * 1_281_167 / (24 * 3600))
    assert found["hours"] == pytest.approx(24) and found["paper_days"] == [5, 6]


def test_too_few_images_say_so(monkeypatch, tmp_path):
    path = small_set(tmp_path / "squares.h5", size=10, train=12, val=4)
    monkeypatch.setattr(train.Loop, "_validate", lambda self: {"loss": 1.0, "top1": 1.0, "top5": 1.0})
    with pytest.raises(SystemExit, match="too few images for 12 steps of 4"):
        train.main(["--net", "mini", "--batch", "4", "--steps", "2", "--loader-threads", "1", "--data", str(path)])


PART = """
import json, sys, pathlib
words = sys.argv[1:]
print("ran", *words)
if words[0] == "fails":
    sys.exit("no such luck")
if words[0] == "sleeps":
    __import__("time").sleep(60)
if words[0] != "forgets":
    pathlib.Path(words[words.index("--json") + 1]).write_text("{}")
"""


@pytest.fixture
def parts(tmp_path, monkeypatch):
    (tmp_path / "part.py").write_text(PART)
    monkeypatch.setattr(whole, "ROOT", tmp_path)
    return lambda *names, guess=0: [(name, guess, ["part", name]) for name in names]


def test_parts_run_once_and_the_rest_goes_on(parts, tmp_path):
    said = []
    assert whole.run_all(tmp_path, "0", 60, parts("one", "fails", "forgets", "two"), said.append) == ["fails", "forgets"]
    assert [line.split(" (")[0] for line in said] == [
        "one: done", f"ran one --devices 0 --json {tmp_path / 'one.json'}", "fails: exit status 1: no such luck",
        f"forgets: exit status 0: ran forgets --devices 0 --json {tmp_path / 'forgets.json'}",
        "two: done", f"ran two --devices 0 --json {tmp_path / 'two.json'}"]
    said.clear()
    assert whole.run_all(tmp_path, "0", 60, parts("one", "two"), said.append) == []
    assert said == ["one: was there", "two: was there"]


def test_time_runs_out(parts, tmp_path):
    said = []
    assert whole.run_all(tmp_path, "0", 30, parts("long", guess=31) + parts("short"), said.append) == ["long"]
    assert said[0] == "long: left for the next time, it may take 31 s" and said[1].startswith("short: done")
    assert whole.run_part("sleeps", ["part", "sleeps"], tmp_path, 0.5) == "stopped after 0 s"
    assert not (tmp_path / "sleeps.json").exists()


def test_every_part_is_a_command_that_there_is(monkeypatch):
    """Their options are parsed by the benches themselves."""
    from bench import kernels, step
    modules = {"bench.step": step, "bench.kernels": kernels, "bench.train": train}
    for name, guess, (module, *words) in whole.PARTS:
        args = modules[module].parse([*words, "--devices", "0", "--json", f"{name}.json"])
        assert args.devices == "0" and str(args.json) == f"{name}.json" and guess > 0
    assert sum(guess for _, guess, _ in whole.PARTS[:6]) <= 9 * 60


def test_the_command(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(whole, "run_all", lambda folder, devices, seconds, say: [] if folder.name == "full" else ["a", "b"])
    with pytest.raises(SystemExit) as done:
        whole.main([str(tmp_path / "full")])
    assert not done.value.code
    with pytest.raises(SystemExit) as done:
        whole.main([str(tmp_path / "new")])
    assert done.value.code == 1 and "missing: a, b; the same command goes on" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        whole.main([str(tmp_path), "--devices", "cpu"])
    assert "name one GPU by its number" in capsys.readouterr().err

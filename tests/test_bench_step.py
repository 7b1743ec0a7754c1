import json
import os
from types import SimpleNamespace

import pytest

from bench import step


def contestant(name, *samples, idle=0.0, peak_mib=100.0):
    return SimpleNamespace(name=name, samples=samples, idle=[idle], peak_mib=peak_mib)


THREE = [contestant("ours", 10.0, 20.0, 90.0, peak_mib=512), contestant("eager", 30.0, 50.0, 10.0),
         contestant("compile", 10.0, 10.0, 11.0, idle=0.5)]


def test_rows_are_medians_and_the_peer_s_time_over_ours():
    eager, compiled = step.rows(THREE, 8)
    assert eager == {"class": "fp32", "batch": 8, "peer": "eager", "ours_ms": 20, "peer_ms": 30, "ratio": 1.5}
    assert (compiled["peer"], compiled["ratio"]) == ("compile", 0.5)


def test_report():
    ours, eager, compiled, failed, busy = step.report(THREE, {"compile+": "no compiler"}, 8).splitlines()[1:]
    assert ours.split() == ["ours", "20", "10", "90", "400.0", "512"]
    assert eager.split()[:7] == ["eager", "30", "10", "50", "266.7", "100", "1.50"]
    assert "0.50" in compiled
    assert failed == "compile+: failed: no compiler"
    assert busy == "compile: was busy (50% of a core) while others ran: do not trust the figures"


class Fake:
    """A contestant that keeps a list of the steps taken; "compile" breaks at its fourth."""
    turns = []

    def __init__(self, name, *settings):
        self.name, self.samples, self.taken = name, [], 0

    def step(self, counted=True):
        self.taken += 1
        if self.name == "compile" and self.taken == 4:
            raise RuntimeError("no more")
        if counted:
            self.turns.append(self.name)
            self.samples.append(1.0)

    def close(self):
        self.turns.append(f"{self.name} closed")


def test_contestants_take_turns(monkeypatch):
    monkeypatch.setattr(step, "Contestant", Fake)
    monkeypatch.setattr(step, "PAUSE", 0)
    monkeypatch.setattr(Fake, "turns", [])
    finished, failed = step.race(["ours", "eager", "compile"], 8, 1, "cpu", 3)
    assert Fake.turns == ["ours", "eager", "compile", "ours", "eager", "compile closed", "ours", "eager",
                          "ours closed", "eager closed"]
    assert [each.name for each in finished] == ["ours", "eager"]
    assert [len(each.samples) for each in finished] == [3, 3]
    assert failed == {"compile": "no more"}


def test_wrong_gradients_are_not_timed(monkeypatch):
    monkeypatch.setattr(step.subprocess, "run", lambda command, **options: SimpleNamespace(returncode=1))
    monkeypatch.setattr(step, "race", lambda *arguments: pytest.fail("timed all the same"))
    with pytest.raises(SystemExit, match="not timed"):
        step.main(["--quick"])


def test_the_file(torch, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(step, "check", lambda devices: None)
    monkeypatch.setattr(step, "race", lambda names, *settings: (THREE[:2], {"compile": "no compiler"}))
    step.main(["--batch", "8", "--json", str(tmp_path / "step.json")])
    result = json.loads((tmp_path / "step.json").read_text())
    assert result["rows"] == step.rows(THREE[:2], 8)
    assert result["peak_mib"] == {"ours": 512, "eager": 100}
    assert result["failed"] == {"compile": "no compiler"}
    assert {"cpu", "cores", "threads", "python", "numpy", "blas", "torch", "date"} <= result["machine"].keys()
    assert "eager" in capsys.readouterr().out


def test_settings(capsys):
    args = step.parse(["--quick"])
    assert (args.batch, args.repeats, args.peers) == (8, 3, ["eager"])
    assert step.parse([]).batch == 128
    with pytest.raises(SystemExit):
        step.parse(["--peers", "eager,egaer"])
    assert "there is no peer 'egaer'" in capsys.readouterr().err


def test_a_real_contestant():
    ours = step.Contestant("ours", 1, 1, "cpu")
    try:
        ours.step(counted=False)
        assert ours.samples == []
        ours.step()
        assert ours.samples[0] > 1 and ours.peak_mib > 700  # 61 million weights, gradients and velocities of 4 bytes
        assert ours.process.pid != os.getpid()
    finally:
        ours.close()
    assert ours.process.returncode == 0


def test_a_contestant_that_ends_says_why():
    ours = step.Contestant("ours", 1, 1, "abacus")
    with pytest.raises(RuntimeError, match="there is no device 'abacus'"):
        ours.step()
    ours.close()

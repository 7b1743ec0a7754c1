import json
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from bench import contestant as process
from bench import gpu, step
from bench.contestant import PEERS
from cpnet.network import Network
from cpnet.step import Step
from tests.gpus import gpus, tiny


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
    assert ours.split() == ["ours", "20.00", "10.00", "90.00", "400.0", "512"]
    assert eager.split()[:7] == ["eager", "30.00", "10.00", "50.00", "266.7", "100", "1.50"]
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


def test_the_check_of_a_class(monkeypatch, tmp_path):
    asked = []
    done = SimpleNamespace(returncode=0)
    monkeypatch.setattr(step.subprocess, "run", lambda command, **options: asked.append(command[3:]) or done)
    step.check("cpu", "fp32", tmp_path / "a.json")
    step.check("0", "bf16", tmp_path / "a.json")
    step.check("0", "fp32")
    on_gpu, net = ["--devices", "0", "--net", "alexnet", "--class"], ["--net", "alexnet"]
    assert asked == [["--devices", "cpu", *net], [*on_gpu, "tf32", "--json", str(tmp_path / "check-a.json")], [*on_gpu, "fp32"]]


def test_the_file(torch, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(step, "check", lambda *settings: None)
    monkeypatch.setattr(step, "race", lambda names, *settings: (THREE[:2], {"compile": "no compiler"}))
    step.main(["--batch", "8", "--json", str(tmp_path / "step.json")])
    result = json.loads((tmp_path / "step.json").read_text())
    assert result["rows"] == step.rows(THREE[:2], 8)
    assert result["peak_mib"] == {"ours": 512, "eager": 100}
    assert result["failed"] == {"compile": "no compiler"}
    assert {"cpu", "cores", "threads", "python", "numpy", "blas", "torch", "date"} <= result["machine"].keys()
    assert "eager" in capsys.readouterr().out


def test_larger_batches_are_for_the_best_only(torch, monkeypatch, tmp_path, capsys):
    """Of ours, and of the peers that start quickly; the file has a row for each, and the first batch's details as ever."""
    asked = []
    times = {"ours": 5.0, "ours, eager": 6.0, "eager": 9.0, "channels_last": 8.0, "graph": 7.0, "compile": 6.5}

    def race(names, batch, threads, devices, repeats, kind, net, math):
        asked.append((batch, names, kind))
        finished = [contestant(name, times[name] * batch, times[name] * batch) for name in names if name in times]
        return finished, {"compile+": "no"} if batch == 2 else {}

    monkeypatch.setattr(step, "check", lambda *settings: None)
    monkeypatch.setattr(step, "race", race)
    monkeypatch.setattr(step, "machine", lambda devices: {"card": devices})
    step.main(["--devices", "0", "--class", "tf32", "--batch", "2,4", "--json", str(tmp_path / "step.json")])
    assert asked == [(2, ["ours", "ours, eager", *gpu.PEERS], "tf32"), (4, ["ours", "graph"], "tf32")]
    result = json.loads((tmp_path / "step.json").read_text())
    assert [(row["batch"], row["peer"], row["ratio"]) for row in result["rows"]] == [
        (2, "eager", 1.8), (2, "channels_last", 1.6), (2, "graph", 1.4), (2, "compile", 1.3), (4, "graph", 1.4)]
    assert all(row["class"] == "tf32" for row in result["rows"])
    assert result["machine"]["card"] == "0" and result["failed"] == {"compile+": "no"} and "ours" in result["peak_mib"]
    assert [each["batch"] for each in result["others"]] == [4]
    out = capsys.readouterr().out
    assert "without CUDA graphs" not in out and gpu.PEERS["graph"] in out


def test_without_graphs_ours_is_what_is_left(monkeypatch):
    finished = [contestant("ours, eager", 4.0), contestant("eager", 8.0)]
    assert step.rows(finished, 8, "fp32")[0]["ratio"] == 2
    monkeypatch.setattr(step, "check", lambda *settings: None)
    failed = {"ours": "no memory", "ours, eager": "nor"}
    monkeypatch.setattr(step, "race", lambda *settings: ([contestant("eager", 8.0)], failed))
    with pytest.raises(SystemExit, match="ours failed: no memory; ours, eager failed: nor"):
        step.main(["--devices", "0"])


def test_a_turn_on_a_gpu_is_many_steps(monkeypatch):
    """Some to warm up, then as many as are timed together; nothing is read back between them."""
    done = []
    turn = gpu.turns(lambda rate: done.append(rate), lambda: done.append("loss") or 6.9, lambda: 1234.0,
                     lambda work: (done.append("begin"), work(), done.append("end")) and 50.0, 0.5)
    assert turn() == {"ms": 50.0 / gpu.STEPS, "loss": 6.9, "peak_mib": 1234.0}
    assert done == [0.5] * gpu.WARM + ["begin"] + [0.5] * gpu.STEPS + ["end", "loss"]


@pytest.mark.parametrize("graph", [False, True])
def test_our_steps_on_a_gpu(monkeypatch, graph):
    """A tiny net: the loss is that of the steps so far, and the graph's own arrays are the input."""
    table, placed = tiny(), gpus("0")
    monkeypatch.setattr("cpnet.nets.build", lambda name: table)
    copied = []
    monkeypatch.setattr("cpnet.gpu.memory.copy", copied.append)
    images = np.random.default_rng(1).standard_normal((2, 1, 8, 8), dtype=np.float32)
    labels = np.array([1, 3])
    take, loss, _ = gpu.ours(2, images, labels, "0", "fp32", graph)
    expected = Step(Network(table, placed))
    for number in range(4):
        take(0.01)
        expected(images.transpose(1, 2, 3, 0).copy(), labels, step=number, rate=0.01)
    assert loss() == expected.read()[0] / (number + 1) / 2 and not any(copied)


def test_a_peer_on_the_cpu(torch, monkeypatch):
    """PyTorch's side with .cuda() doing nothing: the loss of one step, and the weights move."""
    for kind in torch.Tensor, torch.nn.Module:
        monkeypatch.setattr(kind, "cuda", lambda self: self)
    monkeypatch.setattr(gpu, "precision", lambda kind: None)
    images, labels = process.batch(1)
    take, loss, _ = gpu.peer("channels_last", images, labels, "default", 1e-3)
    losses = []
    for _ in range(3):
        take(1e-3)
        losses.append(loss())
    assert losses[0] == pytest.approx(np.log(1000), abs=1.5) and losses[2] != losses[1] != losses[0]


def test_classes(torch, monkeypatch):
    before = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    try:
        for kind, convolutions, products in (("fp32", False, "highest"), ("tf32", True, "high"), ("default", True, "highest"),
                                             ("bf16", True, "highest")):
            gpu.precision(kind)
            assert (torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()) == (convolutions, products)
    finally:
        torch.backends.cudnn.allow_tf32 = before[0]
        torch.set_float32_matmul_precision(before[1])
    asked = []
    monkeypatch.setattr("cpnet.precision.set_math", asked.append, raising=False)
    assert [gpu.math(kind) for kind in gpu.CLASSES] == asked == ["fp32", "tf32", "tf32", "tf32"]


def test_the_process_protocol():
    """What is printed by libraries does not get among the answers; anything but "step" ends it."""
    done = subprocess.run([sys.executable, "-c", """
from bench import contestant
contestant.on_gpu = lambda *settings: lambda: print("chatter", flush=True) or {"ms": 1.0, "settings": settings}
contestant.main()""", "graph", "--batch", "4", "--threads", "2", "--devices", "0", "--class", "bf16"],
                          input="step\nstep\nend\nstep\n", text=True, capture_output=True, cwd=step.ROOT, timeout=120)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [each["settings"] for each in answers] == [["graph", 4, "0", "bf16"]] * 2
    assert all(0 <= each["idle"] < 2 for each in answers) and "chatter" in done.stderr and done.returncode == 0


def test_settings(capsys):
    args = step.parse(["--quick"])
    assert (args.batch, args.repeats, args.peers) == ([8], 3, ["eager"])
    assert step.parse([]).batch == [128]
    assert step.parse([]).peers == list(PEERS)
    args = step.parse(["--devices", "0", "--batch", "128,256", "--class", "tf32"])
    assert (args.batch, args.peers, args.kind) == ([128, 256], list(gpu.PEERS), "tf32")
    for words, message in (["--peers", "eager,egaer"], "there is no peer 'egaer'"), (["--peers", "graph"], "no peer 'graph'"), (
            ["--batch", "128;256"], "--batch 128;256: give one size"), (["--batch", "0"], "at least one image"), (
            ["--class", "tf32"], "--class tf32 needs a GPU"), (["--devices", "0", "--net", "mini"], "are for --devices cpu"):
        with pytest.raises(SystemExit):
            step.parse(words)
        assert message in capsys.readouterr().err


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

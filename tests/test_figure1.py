"""Figure 1 and what it is made of: training without regularisation, the probed training error, the search for a rate."""
import json
import math
import signal

import numpy as np
import pytest

import run as command_line
from cpnet import probe, run_folder
from cpnet.commands import train
from cpnet.errors import Diverged, Stopped
from cpnet.evaluate import evaluate
from cpnet.gpu.devices import named
from cpnet.nets import build
from cpnet.network import Network
from cpnet.probe import Probe
from cpnet.run_folder import RunFolder
from cpnet.schedule import schedule
from cpnet.studies import figure1
from cpnet.train import Trainer
from data.loading.augment import random_views
from data.loading.loader import Loader
from tests.helpers import assert_same_arrays, small_set, trainer_of

SETTINGS = dict(epochs=2, batch=16, lr=0.01, momentum=0.9, decay=0.0005, schedule="constant", seed=0, mirror=True, colour=True,
                checkpoint_minutes=1e9, loader_threads=1)


@pytest.fixture(autouse=True)
def no_pictures_of_every_epoch(monkeypatch):
    monkeypatch.setattr(run_folder, "curves", lambda history, path: None)


def network(name="four-layer"):
    return Network(build(name, (1, 14, 14), 4), named("cpu", 1), seed=0)


# Without regularisation

def test_without_random_crops_the_rest_is_drawn_as_before(squares):
    options = dict(batch=16, crop=14, seed=3, epoch=1, crops=False)
    mirror = random_views(96, (1, 16, 16), 14, 3, 1).mirror
    with Loader(squares, "train", **options) as floats:
        for batch in floats:
            for n, index in enumerate(batch.indices):
                expected = (squares.read("train", [index])[0].astype(np.float32) - squares.mean)[:, 1:15, 1:15]
                np.testing.assert_allclose(batch.images[..., n], expected[..., ::-1] if mirror[index] else expected, atol=1e-4)
    with Loader(squares, "train", raw=True, **options) as raw:
        for batch in raw:
            assert (batch.packed.top == 1).all() and (batch.packed.left == 1).all()
            np.testing.assert_array_equal(batch.packed.mirror, mirror[batch.indices])


@pytest.mark.parametrize("decay, stands_still", [(0, True), (None, False)])
def test_no_weight_decay_is_none_anywhere(decay, stands_still):
    """The four-layer net's fc4 has one of its own."""
    net = network()
    before = net.get("values", "fc4.weight")
    net.update(0.1, decay=decay)
    assert np.array_equal(net.get("values", "fc4.weight"), before) == stands_still


def test_a_constant_rate():
    constant = schedule("constant", 10)
    for epoch in range(1, 100):
        constant.after_epoch(epoch, 0.5)
    assert constant.drops == 0


# The probed training error

def test_the_probe_is_the_error_as_in_testing(squares, monkeypatch):
    net = network("mini")
    assert Probe(net, squares, 40)() == evaluate(net, squares, "train")["top1"]
    monkeypatch.setattr(probe, "IMAGES", 20)
    some = Probe(net, squares, 7)
    np.testing.assert_array_equal(some.raw, squares.read("train", np.linspace(0, 95, 20).astype(int)))
    for name in net.parameters:
        net.set("values", name, np.zeros(net.parameters[name].shape, np.float32))
    assert some() == (some.labels != 0).mean()  # a net that tells nothing apart guesses


def test_probing_changes_nothing_and_goes_on(squares, tmp_path):
    trainer_of(network(), squares, tmp_path / "plain", SETTINGS).train()
    trainer_of(network(), squares, tmp_path / "whole", {**SETTINGS, "probe": 4}).train()
    assert_same_arrays(tmp_path / "plain" / "checkpoint-last.h5", tmp_path / "whole" / "checkpoint-last.h5")
    whole = RunFolder(tmp_path / "whole").probes()
    assert [step for step, _ in whole] == [0, 4, 8, 12]
    for steps in 4, 9:
        part = trainer_of(network(), squares, tmp_path / "parts", {**SETTINGS, "probe": 4}, resume=steps > 4)
        part.stop = lambda part=part, steps=steps: part.state.step >= steps
        with pytest.raises(Stopped):
            part.train()
    trainer_of(network(), squares, tmp_path / "parts", {**SETTINGS, "probe": 4}, resume=True).train()
    assert RunFolder(tmp_path / "parts").probes() == whole


def test_until(squares, tmp_path, capsys):
    words = ["--data", squares.path, "--runs", str(tmp_path), "--batch", "16", "--epochs", "30", "--probe", "2", "--until",
             "40%", "--no-dropout", "--no-mirror", "--schedule", "constant", "--devices", "cpu"]
    assert command_line.main(words) == 0
    probes = RunFolder(tmp_path / "mini-1").probes()
    assert probes[-1][1] <= 0.4 < min(error for _, error in probes[:-1])
    assert f"reached a training error of 40.00% after {probes[-1][0]:,} updates" in capsys.readouterr().out
    stamp = (tmp_path / "mini-1" / "checkpoint-last.h5").stat().st_mtime_ns
    assert command_line.main(["--resume", "mini-1", "--runs", str(tmp_path)]) == 0
    assert (tmp_path / "mini-1" / "checkpoint-last.h5").stat().st_mtime_ns == stamp  # it is over


# The search

def searching(curve, **options):
    """`figure1.search` where place k takes curve(k) updates; the places in the order tried, and the best."""
    tried = []

    def attempt(place, best):
        assert place not in tried and (best is None) == (not tried)
        tried.append(place)
        updates = curve(place)
        return figure1.Trial(2.0**place, updates, 0.1 if updates else math.inf, [[0, 0.9]])

    trials, best = figure1.search(attempt, **options)
    assert sorted(trials) == sorted(tried)
    return tried, best


def test_the_search_goes_on_until_the_best_is_inside():
    assert searching(lambda k: 100 + (k - 6)**2 if k < 9 else None, start=(0, 2), stride=2) == ([0, 2, 4, 6, 8], 6)
    assert searching(lambda k: 100 + (k + 3)**2, start=(0, 2), stride=2) == ([0, 2, -2, -4], -2)
    assert searching(lambda k: 100 + abs(k - 5), start=[4], stride=1) == ([4, 3, 5, 6], 5)
    assert searching(lambda k: 9 if k < -3 else None, start=(0, 2), stride=2) == ([0, 2, -2, -4, -6], -4)  # most diverge


def test_what_a_trial_shows():
    probes = [[0, 0.9], [4, 0.5], [8, 0.3], [12, 0.4], [16, 0.2], [20, 0.1]]
    trial = figure1.trial(0.01, probes, 0.2, 12)
    assert trial.updates is None and trial.error == pytest.approx(0.4) and trial.probes == probes[:4]
    assert figure1.trial(0.01, probes, 0.2, 20).updates == 16
    better = [figure1.Trial(1, 10, 0.5, []), figure1.Trial(1, 12, 0.1, []), figure1.Trial(1, None, 0.2, []),
              figure1.Trial(2, None, 0.3, []), figure1.Trial(1, None, 0.3, []), figure1.Trial(1, None, math.inf, []),
              figure1.Trial(2, None, math.inf, [])]
    assert sorted(better[::-1], key=figure1.Trial.rank) == better


def test_the_table_and_the_verdict():
    relu, slow, tanh = (figure1.Trial(0.004, 100, 0.14, [[100, 0.14]]), figure1.Trial(0.002, None, 0.2, [[110, 0.2]]),
                        figure1.Trial(0.008, 450, 0.15, [[450, 0.15]]))
    tried = {"relu": ([slow, figure1.Trial(0.016, None, math.inf, [])], [relu, slow]), "tanh": ([tanh], [tanh])}
    best = {"relu": relu, "tanh": tanh}
    lines = [line.split() for line in figure1.table(tried, best, 0.15, 80, 40).splitlines()[1:]]
    assert lines == [["ReLU", "0.002", "20.0%", "20.0%", "in", "110"], ["ReLU", "0.004", "100", "2.5", "←", "the", "best"],
                     ["ReLU", "0.016", "diverged"], ["tanh", "0.008", "15.0%", "450", "11.2", "←", "the", "best"]]
    assert "ReLU 100 updates, tanh 450, 4.5 times as many" in figure1.verdict(best, 0.15)
    assert figure1.ratio({"relu": relu, "tanh": slow}) is None
    assert figure1.verdict({"relu": relu, "tanh": slow}, 0.15).startswith("tanh did not come to a training error of 15.0%")


# The command. How fast nets learn is made up here, so that what must come out is known; they are trained all the same.

UPDATES = {("relu", 0.001): 9, ("relu", 0.004): 6, ("relu", 0.008): 3, ("relu", 0.016): 4,
           ("tanh", 0.001): 17, ("tanh", 0.002): 12, ("tanh", 0.004): 13}  # to an error of 30%; others diverge, or hardly learn
FOUND = {"ratio": 4.0, "relu": (0.008, 3, 6), "tanh": (0.002, 12, 5)}  # of each the best rate, its updates, the rates tried
WORDS = ["figure1", "--level", "30%", "--epochs", "9", "--trial-epochs", "2", "--batch", "16", "--devices", "cpu", "--data"]


@pytest.fixture
def made_up(monkeypatch):
    """The number of probes so far, in a list."""
    counted = []

    def measure(self):
        unit, rate, step = self.settings.table["activation"], self.settings.lr, self.state.step
        if rate > 0.03 and step == 3:
            raise Diverged("the loss is nan")
        counted.append(step)
        self.state.probes.append([step, 0.9 * (1 / 3)**(step / UPDATES.get((unit, rate), 100)) - 1e-9])

    monkeypatch.setattr(Trainer, "_probe", measure)
    return counted


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Two updates an epoch."""
    return str(small_set(tmp_path_factory.mktemp("few") / "few.h5", train=32, val=8))


def check(folder):
    """The series in `folder` came to what it must."""
    found = json.loads((folder / "results.json").read_text())
    assert found["ratio"] == FOUND["ratio"] and found["level"] == 0.3
    for unit in figure1.UNITS:
        short, long = found[unit]["search"]
        rates = {trial["rate"] for trial in short + long}
        assert (found[unit]["rate"], found[unit]["updates"], len(rates)) == FOUND[unit]
        assert [step for step, _ in found[unit]["curve"]] == list(range(found[unit]["updates"] + 1))
        for trial in short + long:
            assert (trial["error"] == "diverged") == (trial["rate"] > 0.03)
    return found


def test_a_series_and_again(few, made_up, tmp_path, capsys):
    words = [*WORDS, few, "--runs", str(tmp_path)]
    assert command_line.main(words) == 0
    out = capsys.readouterr().out
    assert "ReLU 3 updates, tanh 12, 4.0 times as many" in out and f"{tmp_path}/figure1.png: ready" in out
    assert (tmp_path / "figure1.png").read_bytes()[:4] == b"\x89PNG"
    found = check(tmp_path)
    for unit in figure1.UNITS:
        config = json.loads((tmp_path / f"{unit}-{found[unit]['rate']:g}" / "config.json").read_text())
        assert (config["table"]["activation"], config["table"]["dropout"]) == (unit, False)
        assert [config[key] for key in ("decay", "mirror", "colour", "crops")] == [0, False, False, False]
        assert config["schedule"] == "constant"
    made_up.clear()
    assert command_line.main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == found
    assert set(made_up) <= {3}  # nothing is trained again, but for a step of what diverged
    assert command_line.main([*words, "--level", "0.2"]) == 1
    assert "was begun with level 0.3, not 0.2" in capsys.readouterr().err


def test_stopped_by_ctrl_c_it_goes_on(few, made_up, tmp_path, monkeypatch, capsys):
    class Impatient(train.Stopping):
        asked = 0

        @property
        def signal(self):  # some steps, or batches of validation, after the beginning of a run
            self.asked += 1
            return signal.SIGINT if self.asked > 7 else None

    monkeypatch.setattr(train, "Stopping", Impatient)
    codes = []
    while not codes or codes[-1] == 130:
        assert not (tmp_path / "results.json").exists()
        codes.append(command_line.main([*WORDS, few, "--runs", str(tmp_path)]))
    assert codes[-1] == 0 and len(codes) > 3
    check(tmp_path)


class Killed(BaseException):
    """What nobody catches."""


@pytest.mark.parametrize("place", ["write_settings", "write_probes"])
def test_killed_it_goes_on(few, made_up, tmp_path, monkeypatch, place):
    """At any of its writes; what training itself does about that is tested in test_kill.py."""
    words, calls, original = [*WORDS, few, "--runs", str(tmp_path)], [], getattr(RunFolder, place)

    def write(self, *arguments):
        calls.append(0)
        if len(calls) in (1, 3, 5, 8, 11):
            raise Killed
        original(self, *arguments)

    monkeypatch.setattr(RunFolder, place, write)
    for _ in range(5):
        with pytest.raises(Killed):
            command_line.main(words)
    assert command_line.main(words) == 0
    check(tmp_path)


@pytest.mark.parametrize("words, message", [
    (["--level", "2"], "argument --level: '2' is not a share"), (["--data", "nothing.h5"], "nothing.h5: no such file"),
    (["--net", "alexnet"], "needs crops of 63 pixels or more"), (["--trial-epochs", "0"], "--trial-epochs: '0'"),
    (["--batch", "500"], "not one full batch of 500"), (["--picture", "no/a.png"], "create no first"),
    (["--levle", "0.1"], "did you mean --level")])
def test_mistakes(squares, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    try:
        code = command_line.main(["figure1", "--data", squares.path, *words])
    except SystemExit as exit:
        code = exit.code
    error = capsys.readouterr().err
    assert code not in (0, None) and message in error and error.strip().splitlines()[-1].startswith("error: ")
    assert not list(tmp_path.iterdir())


def test_until_needs_a_probe(squares, tmp_path, capsys):
    assert command_line.main(["--data", squares.path, "--runs", str(tmp_path), "--batch", "16", "--until", "0.1"]) == 1
    assert "--until needs to know how often to measure the error: give --probe N" in capsys.readouterr().err

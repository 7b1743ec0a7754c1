import json
import math

import numpy as np
import pytest

from cpnet.checkpoint import Checkpoint
from cpnet.errors import CpnetError, Stopped
from cpnet.evaluate import evaluate
from cpnet.gpu.devices import named
from cpnet.nets import build
from cpnet.network import Network
from cpnet.run_folder import RunFolder, find
from cpnet.train import duration
from data.store.dataset import Dataset
from tests.gpus import CARD, gpus
from tests.helpers import BUNDLED, assert_same_arrays, trainer_of

SETTINGS = dict(epochs=3, batch=16, lr=0.01, momentum=0.9, decay=0.0005, schedule="2", seed=0, mirror=True, colour=True,
                checkpoint_minutes=1e9, loader_threads=1)


def trainer(dataset, path, *, resume=False, net="mini", placed="cpu", stop=lambda: False, said=None, **changes):
    crop = dataset.height * 7 // 8
    table = build(net, (dataset.channels, crop, crop), len(dataset.classes))
    settings = {**SETTINGS, **changes}
    network = Network(table, named(placed, table.columns), seed=settings["seed"])
    return trainer_of(network, dataset, path, settings, resume=resume, stop=stop,
                      say=(said if said is not None else []).append)


def log(path):
    return [json.loads(line) for line in (path / "log.jsonl").read_text().splitlines()]


def timeless(lines):
    return [{key: value for key, value in line.items() if key not in ("seconds", "images_per_s")} for line in lines]


def test_what_a_run_leaves_behind(squares, tmp_path):
    trainer(squares, tmp_path / "a").train()
    assert {path.name for path in (tmp_path / "a").iterdir()} == {
        "config.json", "log.jsonl", "curves.png", "checkpoint-last.h5", "checkpoint-best.h5", "filters"}
    lines = log(tmp_path / "a")
    assert [line["epoch"] for line in lines] == [1, 2, 3] and [line["step"] for line in lines] == [6, 12, 18]
    assert [line["lr"] for line in lines] == [0.01, 0.01, 0.001]
    assert list(lines[0]) == ["epoch", "step", "lr", "train_loss", "train_top1", "val_loss", "val_top1", "val_top5",
                              "images_per_s", "seconds"]
    assert (tmp_path / "a" / "curves.png").read_bytes()[:4] == b"\x89PNG"
    assert json.loads((tmp_path / "a" / "config.json").read_text())["batch"] == 16


def test_it_learns(squares, tmp_path):
    run = trainer(squares, tmp_path / "a", epochs=14, schedule="plateau", mirror=False)
    run.train()
    lines = log(tmp_path / "a")
    assert lines[-1]["train_loss"] < 0.6 * lines[0]["train_loss"]
    assert min(line["val_top1"] for line in lines) <= 0.1  # four places: guessing is 0.75
    best = min(range(len(lines)), key=lambda k: lines[k]["val_top1"])
    network = run.network
    Checkpoint(find(tmp_path, "a").last).restore(network)
    assert evaluate(network, squares)["top1"] == lines[-1]["val_top1"]
    Checkpoint(run.folder.best).restore(network)
    assert evaluate(network, squares)["top1"] == lines[best]["val_top1"]


@pytest.fixture(scope="module", params=["cpu", "cpu,cpu", *(["0", "0,0", "0,1"] if CARD else [])])
def whole(request, squares, tmp_path_factory):
    """An undisturbed run's folder and placement. (On softcuda, whose steps take long, see test_gpu_placement.)"""
    if request.param[0] != "c":
        gpus(request.param)
    path = tmp_path_factory.mktemp("whole") / "whole"
    trainer(squares, path, placed=request.param).train()
    return path, request.param


@pytest.mark.parametrize("steps", [(1,), (6,), (4, 5, 13), (12, 17)])
def test_stopped_and_resumed_is_bit_identical(squares, tmp_path, whole, steps):
    path, placed = whole
    for number, step in enumerate(steps):
        part = trainer(squares, tmp_path / "parts", resume=number > 0, placed=placed)
        part.stop = lambda part=part, step=step: part.state.step >= step
        with pytest.raises(Stopped):
            part.train()
        assert part.state.step == step
    trainer(squares, tmp_path / "parts", resume=True, placed=placed).train()
    for name in "checkpoint-last.h5", "checkpoint-best.h5":
        assert_same_arrays(path / name, tmp_path / "parts" / name)
    assert timeless(log(tmp_path / "parts")) == timeless(log(path))


def test_stopped_in_validation_goes_on_with_validation(squares, tmp_path, whole):
    path, placed = whole
    asked = []

    def stop():  # 6 questions in the epoch's 6 steps, then validation asks
        asked.append(1)
        return len(asked) > 7

    part = trainer(squares, tmp_path / "parts", stop=stop, placed=placed)
    with pytest.raises(Stopped):
        part.train()
    assert (part.state.epoch, part.state.batch, part.state.step) == (0, 6, 6)
    trainer(squares, tmp_path / "parts", resume=True, placed=placed).train()
    assert_same_arrays(path / "checkpoint-last.h5", tmp_path / "parts" / "checkpoint-last.h5")
    assert timeless(log(tmp_path / "parts")) == timeless(log(path))


def test_checkpoints_within_an_epoch(squares, tmp_path, monkeypatch):
    run = trainer(squares, tmp_path / "a", epochs=1, checkpoint_minutes=1e-9)
    saved = []
    monkeypatch.setattr(run, "save", lambda best=False: saved.append(run.state.step))
    run.train()
    assert saved == [0, 1, 2, 3, 4, 5, 6, 6]  # the first, after every step, at the end of the epoch


def test_a_log_that_ran_ahead_of_the_checkpoint_is_put_right(squares, tmp_path):
    trainer(squares, tmp_path / "a").train()
    text = (tmp_path / "a" / "log.jsonl").read_text()
    (tmp_path / "a" / "log.jsonl").write_text(text + text.splitlines()[-1] + "\n")
    trainer(squares, tmp_path / "a", resume=True).train()
    assert (tmp_path / "a" / "log.jsonl").read_text() == text


def test_no_epochs_write_the_first_checkpoint(squares, tmp_path):
    trainer(squares, tmp_path / "a", epochs=0).train()
    assert Checkpoint(find(tmp_path).last).state["step"] == 0
    assert log(tmp_path / "a") == []


@pytest.mark.filterwarnings("ignore:invalid value encountered")
def test_a_loss_that_is_not_finite(squares, tmp_path):
    run = trainer(squares, tmp_path / "a")
    run.stop = lambda: run.state.step == 4 and run.network.set(
        "values", "conv3.weight", np.full(run.network.parameters["conv3.weight"].shape, np.inf, np.float32))
    with pytest.raises(CpnetError, match="the loss is nan at step 4: first in layer conv3.*Try a smaller --lr than 0.01"):
        run.train()
    assert Checkpoint(find(tmp_path, "a").last).state["step"] == 0


def test_weights_that_are_not_finite_are_not_saved(squares, tmp_path):
    run = trainer(squares, tmp_path / "a")
    run.save()
    run.network.set("values", "fc6.bias", np.full(1024, np.inf, np.float32))
    with pytest.raises(CpnetError, match="fc6.bias is no longer finite"):
        run.save()
    assert np.isfinite(Checkpoint(find(tmp_path, "a").last).arrays["values"]["fc6.bias"]).all()


@pytest.mark.parametrize("net, noticed", [("four-layer", True), ("mini", False)])
def test_a_loss_that_stays_at_that_of_guessing_is_explained(squares, tmp_path, net, noticed):
    said = []  # at so small a rate the four-layer net stays where its tiny first weights put it
    trainer(squares, tmp_path / "a", net=net, said=said, epochs=2, lr=1e-12 if noticed else 0.01).train()
    assert sum("ln(4)" in line and "--profile as-run" in line for line in said) == noticed


def test_a_run_of_weeks_is_foretold(squares, tmp_path):
    said = []
    run = trainer(squares, tmp_path / "a", said=said, epochs=10**9)
    run.stop = lambda: run.state.step == 4
    with pytest.raises(Stopped):
        run.train()
    assert sum("epochs take about" in line and "weeks" in line for line in said) == 1


def test_the_printed_epoch_line(squares, tmp_path):
    said = []
    trainer(squares, tmp_path / "a", said=said).train()
    lines = [line for line in said if line.startswith("epoch")]
    assert len(lines) == 3 and lines[1].startswith("epoch 2/3: rate 0.01, training loss ")
    assert [line.endswith("the rate drops to 0.001") for line in lines] == [False, True, False]


def test_the_update_is_the_papers(squares, tmp_path):
    """One step of the trainer against the rule of section 5 written out."""
    run = trainer(squares, tmp_path / "a")
    network, name = run.network, "conv2.weight"
    rng = np.random.default_rng(0)
    images = rng.standard_normal((1, 14, 14, 16)).astype(np.float32) * 40
    w, v = network.get("values", name).astype(float), network.get("velocities", name).astype(float)
    for _ in range(2):
        run.step(images, np.arange(16) % 4)
        v = 0.9 * v - 0.0005 * 0.01 * w - 0.01 * network.get("gradients", name)
        w = w + v
    run.read(images)
    assert math.isfinite(run.state.loss) and 0 < run.state.loss and 0 <= run.state.wrong <= 32
    np.testing.assert_allclose(network.get("values", name), w, rtol=1e-5, atol=1e-8)


def test_the_bundled_set_is_learned(tmp_path):
    with Dataset(BUNDLED) as dataset:
        run = trainer(dataset, tmp_path / "a", epochs=1, batch=128)
        run.train()
    (line,) = log(tmp_path / "a")
    assert line["val_top1"] < 0.45 and line["val_top5"] < 0.05  # guessing: 0.9 and 0.5


def test_durations():
    assert [duration(seconds) for seconds in (5, 90, 4000, 100000, 2e6)] == [
        "5 s", "1 min 30 s", "1 h 6 min", "1 days 3 h", "3 weeks 2 days"]


def test_a_run_is_not_overwritten_by_accident(tmp_path):
    folder = RunFolder(tmp_path / "a")
    folder.create({})
    with pytest.raises(CpnetError, match="--resume a.*--overwrite.*--name"):
        folder.create({})
    folder.create({}, overwrite=True)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.tex").write_text("years of work")
    (tmp_path / "b" / "config.json").write_text("{}")
    with pytest.raises(CpnetError, match="b: holds thesis.tex, which no run has written"):
        RunFolder(tmp_path / "b").create({}, overwrite=True)
    assert len(list((tmp_path / "b").iterdir())) == 2
    (tmp_path / "link").symlink_to(tmp_path / "b")
    with pytest.raises(CpnetError, match="link: is not the folder of a run"):
        RunFolder(tmp_path / "link").create({}, overwrite=True)

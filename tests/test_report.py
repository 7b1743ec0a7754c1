"""The report of a run: a whole page, from every kind of run, that needs nothing else and shows what the run's files say."""
import io
import json
import shlex
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace
from xml.etree import ElementTree

import h5py
import numpy as np
import pytest

import run as command_line
from cpnet import __version__, figures, nets, scores
from cpnet.checkpoint import Checkpoint
from cpnet.commands import train
from cpnet.commands.common import nearby
from cpnet.commands.report import command
from cpnet.errors import CpnetError
from cpnet.gpu.devices import named
from cpnet.network import Network
from cpnet.report.facts import Looked, Run, last_hidden_of, snapshots
from cpnet.report.report import ALL_CLASSES, WORST, report
from cpnet.run_folder import RunFolder
from cpnet.settings import Settings
from cpnet.studies.features import Features, extract
from data.store.dataset import Dataset
from tests.helpers import small_set

LIMIT = 5_000_000  # bytes
VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """A page that is whole: tags balanced, ids unique, pictures described, tables headed, nothing from elsewhere."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.links, self.alts, self.text, self.tables = [], set(), set(), [], "", 0
        assert len(text.encode()) < LIMIT
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"
        assert self.links <= self.ids and len(self.links) == 9
        for wrong in ("nan", "None", "inf", "{", "}", "$", "&lt;"):
            assert wrong not in self.text.split(), wrong

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        assert tag not in ("script", "iframe", "object"), tag
        if "id" in attributes:
            assert attributes["id"] not in self.ids
            self.ids.add(attributes["id"])
        if tag == "img":
            assert attributes["src"].startswith("data:image/") and len(attributes["alt"]) > 5
            self.alts.append(attributes["alt"])
        if tag == "a":
            assert attributes["href"].startswith("#")
            self.links.add(attributes["href"][1:])
        if tag == "th":
            assert attributes["scope"] in ("col", "row", "colgroup")
        if tag == "table":
            self.tables += 1
        if tag == "caption":
            assert self.open[-1] == "table"
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with squares.h5, colour.h5, five.h5, and the runs two (grey, of two epochs) and one (colour, one column)."""
    folder = tmp_path_factory.mktemp("report")
    for name, options in (("squares", {}), ("colour", {"channels": 3, "train": 32, "val": 8}), ("five", {"classes": 5})):
        small_set(folder / f"{name}.h5", **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for words in ("--data squares.h5 --epochs 2 --batch 16 --schedule 1 --name two",
                      "--data colour.h5 --epochs 1 --batch 16 --net mini-one-column --name one",
                      "--data squares.h5 --epochs 0 --batch 16 --name new"):
            assert command_line.main([*words.split(), "--threads", "1"]) == 0
    return folder


@pytest.fixture
def here(trained, tmp_path, monkeypatch):
    """A copy of it, to work in."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    for config in tmp_path.glob("runs/*/config.json"):
        config.write_text(config.read_text().replace(str(trained), str(tmp_path)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def page(*words):
    """The page that `report` writes, checked."""
    assert command_line.main(["report", *words]) == 0
    out = words[1] if len(words) > 1 and words[1].endswith(".html") else f"{words[0]}/report.html"
    with open(out, encoding="utf-8") as file:
        return Page(file.read())


def test_a_finished_run(here):
    found = page("runs/two", "out.html", "--sample", "30")
    history = RunFolder("runs/two").read()[2]
    best = min(history, key=lambda line: line["val_top1"])
    for text in (f"{best['val_top1']:.2%}", f"{best['val_top5']:.2%}", "2 of 2 epochs, 12 updates of 16 images",
                 "mini, 2 columns, ", "among 30 drawn at random",
                 "squares.h5: 96 training, 40 validation images, 1×16×16 pixels, 4 classes; squares",
                 "The learning rate drops to 0.001 after epoch 1.", f"after epoch {best['epoch']}", "Python 3.",
                 "python run.py --data squares.h5 --net mini --epochs 2 --batch 16 --schedule 1", "this run, validation"):
        assert text in found.text, text
    wrong = round(best["val_top1"] * 40)  # what the net says now is what the log said then
    assert f"Right: {40 - wrong} of 40" in found.text and f"Wrong: {wrong} of 40" in found.text
    assert f"error {best['val_top1']:.2%}" in next(alt for alt in found.alts if alt.startswith("Confusion table of 4 classes"))
    assert "conv3" in next(alt for alt in found.alts if "columns communicate at" in alt)
    assert sum(alt.startswith("The 32 filters of conv1") for alt in found.alts) == 2
    assert sum(alt.startswith("nearest, number") for alt in found.alts) == 5 * 6
    assert found.tables == 3 and any(alt.startswith("Top-1 error over 2 epochs: training from") for alt in found.alts)


def test_colour_one_column_one_epoch(here):
    found = page("runs/one")
    assert "one column" in found.text and "colour" in found.text and "of their energy colour: " in found.text
    assert "The learning rate has not dropped." in found.text and "Top-1 error over 1 epoch: " in " ".join(found.alts)
    assert "column 1 above" not in found.text and not any("communicate" in alt for alt in found.alts)


def test_a_run_in_its_first_epoch(here, capsys):
    found = page("runs/new")
    assert found.text.count("No epoch is over yet.") == 2 and "checkpoint-last.h5: untrained" in found.text
    assert any(alt.startswith("The 32 filters of conv1, 5×5 pixels, in checkpoint-last.h5") for alt in found.alts)
    assert any("Confusion" in alt for alt in found.alts)
    (here / "runs/new/checkpoint-last.h5").unlink()
    (here / "runs/new/log.jsonl").unlink()
    capsys.readouterr()
    found = page("runs/new")
    assert found.text.count("The run has no checkpoint yet") == 3 and "No filters have been kept yet." in found.text
    assert "no checkpoint yet" in capsys.readouterr().err


def test_a_data_set_that_has_moved(here):
    (here / "squares.h5").rename("moved.h5")
    found = page("runs/two")
    assert found.text.count("squares.h5 is no longer there") == 3 and "mini, epoch" in found.text
    found = page("runs/two", "--data", "moved.h5")
    assert "moved.h5: 96 training" in found.text and "no longer there" not in found.text


def test_the_test_split_and_names_that_are_text_and_not_html(here):
    shutil.copy("squares.h5", "<b>&.h5")
    names = ["<script>alert(1)</script>", "$x^2$ & $y", "&lt;i&gt;", '"quoted"']
    for path in "<b>&.h5", "runs/two/checkpoint-best.h5":
        with h5py.File(path, "r+") as file:
            del file["classes"]
            file["classes"] = names
    with h5py.File("<b>&.h5", "r+") as file:
        file.copy("val", "test")
    found = page("runs/two", "--data", "<b>&.h5", "--split", "test")
    for name in (*names, "<b>&.h5: 96 training, 40 validation, 40 test images", "Some of the test images", "this run, test"):
        assert name in found.text
    assert any(names[3] in alt for alt in found.alts)


MISTAKES = [
    (["runs/none"], "runs/none: is not the folder of a run: there is no config.json in it"),
    (["squares.h5"], "squares.h5: is not the folder of a run"),
    (["runs"], "runs: is not the folder of a run"),
    (["runs/two", "no/such/r.html"], "no/such/r.html: could not be written: there is no folder"),
    (["runs/two", "runs"], "runs: could not be written: it is a folder"),
    (["runs/two", "--split", "test"], "has no split 'test'; it has train, val"),
    (["runs/two", "--split", "train"], "--split"),
    (["runs/two", "--data", "none.h5"], "none.h5: no such file"),
    (["runs/two", "--data", "five.h5"], "has 5 classes, the net 4"),
    (["runs/two", "--data", "colour.h5"], "its images are 3×16×16"),
    (["runs/two", "--sample", "0"], "--sample: '0'"),
]
DAMAGE = [
    ("checkpoint-best.h5", b"\x89HDF\r\n\x1a\n", "checkpoint-best.h5: cannot be read as a checkpoint"),
    ("config.json", b"{", "config.json: is damaged"),
    ("config.json", b"[]", "config.json: is damaged: it holds no object"),
    ("config.json", b"\xff\xfe", "config.json: cannot be read"),
    ("config.json", b"{}", "config.json: has no 'batch'"),
    ("log.jsonl", b'{"epoch": 1}\n', "log.jsonl: has no 'images_per_s'"),
    ("log.jsonl", b"\n", "log.jsonl, line 1: is damaged"),
    ("filters/001.npy", b"no", "001.npy: cannot be read"),
]


@pytest.mark.parametrize("words, message", MISTAKES, ids=[" ".join(words) for words, _ in MISTAKES])
def test_mistakes_are_one_line_and_leave_nothing(here, capsys, words, message):
    refused(here, capsys, words, message)


@pytest.mark.parametrize("name, content, message", DAMAGE, ids=[message for *_, message in DAMAGE])
def test_a_damaged_run_is_refused(here, capsys, name, content, message):
    (here / "runs/two" / name).write_bytes(content)
    refused(here, capsys, ["runs/two"], message)


def test_a_table_that_is_no_net(here, capsys):
    settings = json.loads((here / "runs/two/config.json").read_text())
    (here / "runs/two/config.json").write_text(json.dumps({**settings, "table": {"nets": 1}}))
    refused(here, capsys, ["runs/two"], "two/config.json, table: has 'nets', which is not a setting")


def refused(folder, capsys, words, message):
    before = sorted(folder.rglob("*"))
    try:
        code = command_line.main(["report", *words])
    except SystemExit as exit:
        code = exit.code
    error = capsys.readouterr().err
    assert code not in (0, None) and error.startswith("error: ") and error.count("\n") == 1 and message in error, error
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("words", [
    "", "--net mini-conv6 --epochs 7 --schedule 2,4 --lr 0.02 --weight-decay 0 --batch 32 --momentum 0.8 --seed 5",
    "--profile as-run --activation tanh --no-lrn --pool 2x2s2 --no-dropout --no-exchange --drop-layer conv4",
    "--init-from 'a b.h5' --replace fc7,fc8 --lr-scale conv1=0.1,conv2=0 --no-mirror --no-colour --shuffle blocks --math tf32",
    "--net four-layer --devices cpu --graph --checkpoint-minutes 1"])
def test_the_command_to_repeat_it_makes_the_same_run(trained, monkeypatch, words):
    monkeypatch.chdir(trained)

    def settings(line):
        with Dataset("squares.h5") as dataset:
            return train.new_settings(train.parser().parse(shlex.split(line)), dataset)

    first = settings(f"--data squares.h5 --devices cpu,cpu --batch 64 {words}")
    again = command(Run("a", replace(first, data=nearby(first.data)), [], None, {}))
    assert again.startswith("python run.py --data squares.h5 ") and " --net " in again
    elsewhere = {"checkpoint_minutes", "loader_threads", "devices"}  # of the machine
    second = settings(again.removeprefix("python run.py "))
    assert replace(second, **{key: first[key] for key in elsewhere}) == first


def test_where_and_when_it_ran_is_kept(here):
    assert command_line.main("--resume two --epochs 3".split()) == 0
    _, started, history = RunFolder("runs/two").read()
    assert len(started) == 2 and len(history) == 3
    for place in started:
        assert place["cores"] > 0 and place["numpy"] == np.__version__ and len(place["date"]) == 10
        assert place["version"] == __version__
    assert "started" not in Checkpoint("runs/two/checkpoint-last.h5").settings
    found = page("runs/two")
    assert "begun" in found.text and "went on" in found.text and "3 of 3 epochs" in found.text


def test_a_thousand_classes_of_large_images(rng):
    """alexnet, on paper: the page stays small, and the classes' table short."""
    labels = np.arange(3000) % 1000
    dataset = SimpleNamespace(
        path="i.h5", classes=[f"n{k}, kind {k}" for k in range(1000)], channels=3, height=256, width=256, source="noise",
        splits={"train": labels, "val": labels}, split=lambda name: SimpleNamespace(labels=labels),
        read=lambda name, which: rng.integers(0, 256, (len(which), 3, 256, 256), np.uint8))
    probabilities = rng.dirichlet(np.ones(1000), 3000).astype(np.float32)
    probabilities[np.arange(2000), labels[:2000]] += 1
    settings = {"table": nets.build("alexnet").settings, "data": "i.h5", "epochs": 90, "batch": 128, "lr": 0.01,
                "momentum": 0.9, "decay": 0.0005, "schedule": "plateau", "seed": 0, "mirror": True, "colour": True}
    history = [{"epoch": epoch, "step": epoch, "lr": 0.01 if epoch < 60 else 0.001, "train_loss": 7 / epoch, "seconds": 2e3,
                "train_top1": 1 / epoch, "val_loss": 6 / epoch, "val_top1": 0.9 / epoch, "val_top5": 0.5 / epoch,
                "images_per_s": 900.0} for epoch in range(1, 91)]
    weights = {f"after epoch {k}": rng.standard_normal((96, 3, 11, 11)) for k in (1, 30, 60, 90)}
    looked = Looked(dataset, "val", probabilities, np.arange(200), rng.integers(0, 3000, (200, 6)), 2000)
    text = report(Run("i", Settings(**settings), history, None, weights), "python run.py", looked, "")
    found = Page(text)
    assert "60,965,224 parameters" in found.text and f"The {WORST} largest errors of 1,000 classes" in found.text
    assert len(labels) > ALL_CLASSES and text.count("<tr>") < 100
    error = scores.scores(probabilities, labels)["top1"]
    assert 0.3 < error < 0.34 and f"{error:.1%}" in found.text


@pytest.mark.parametrize("schedule, words", [
    ("plateau", "learning rate 0.01, divided by 10 when the validation error stops improving; "),
    ("2,4", "learning rate 0.01, divided by 10 after epochs 2, 4; "), ("constant", "learning rate 0.01 throughout; ")])
def test_the_schedule_in_words(schedule, words):
    settings = {"table": nets.build("mini", (1, 24, 24), 10).settings, "data": "i.h5", "epochs": 9, "batch": 128, "lr": 0.01,
                "momentum": 0.9, "decay": 0.0005, "schedule": schedule, "seed": 0, "mirror": True, "colour": True}
    assert words in Page(report(Run("i", Settings(**settings), [], None, {}), "python run.py", None, "no images")).text


def test_snapshots_are_evenly_spaced(tmp_path):
    folder = RunFolder(tmp_path / "a")
    folder.create({})
    assert snapshots(folder.path) == {}
    for epoch in range(1, 12):
        folder.write_filters(epoch, np.full((2, 1, 3, 3), epoch, np.float32))
        kept = snapshots(folder.path)
        assert len(kept) == min(epoch, 4) and next(iter(kept)) == "after epoch 1" and list(kept)[-1] == f"after epoch {epoch}"
    assert [int(weights[0, 0, 0, 0]) for weights in kept.values()] == [1, 4, 8, 11]


def test_the_sample_is_seen_as_the_whole_set_is(tmp_path):
    net = Network(nets.build("mini", (1, 14, 14), 4), named("cpu", 2), seed=1)
    with Dataset(small_set(tmp_path / "s.h5", train=30, val=4)) as dataset:
        extract(net, dataset, tmp_path / "f.h5", ["train"], made_from="a", batch=8)
        some = np.array([29, 3, 11, 4, 17])
        np.testing.assert_allclose(last_hidden_of(net, dataset, "train", some, batch=2),
                                   Features(tmp_path / "f.h5").split("train")[0][()][some], rtol=1e-5, atol=1e-6)


def test_figures_go_to_files_of_both_kinds(tmp_path):
    line = {"epoch": 1, "lr": 0.01, "train_loss": 1.0, "train_top1": 0.5, "val_loss": 0.9, "val_top1": 0.4, "images_per_s": 9.0}
    history = [line, {**line, "epoch": 2, "lr": 0.001}]
    assert figures.drops(history) == [(1, 0.001)]
    for some in history[:1], history:
        picture = ElementTree.fromstring(figures.as_svg(figures.curves, some, size=(3, 2)))
        assert picture.tag.endswith("svg") and picture.get("width") == "216pt"
    content = io.BytesIO()
    figures.losses(history, content)
    assert content.getvalue()[:4] == b"\x89PNG"
    with pytest.raises(CpnetError, match="x.png: could not be written"):
        figures.speed(history, tmp_path / "no" / "x.png")

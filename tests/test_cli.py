"""The command line: what a person types, sees, and gets wrong."""
import json
import os
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest
from PIL import Image

import run as command_line
from tests.helpers import ROOT, assert_same_arrays, run, small_set


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with squares.h5, colour.h5, a trained run runs/mini-1, and images."""
    folder = tmp_path_factory.mktemp("cli")
    small_set(folder / "squares.h5")
    small_set(folder / "colour.h5", channels=3)
    small_set(folder / "large.h5", size=24)
    small_set(folder / "five.h5", classes=5)
    done = run("--data", "squares.h5", "--epochs", 2, "--batch", 16, "--schedule", "1", cwd=folder, check=0)
    assert "runs/mini-1: training mini on" in done.stdout and "epoch 2/2" in done.stdout and done.stdout.count("\n") == 4
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)).save(folder / "photo.png")
    (folder / "text.jpg").write_text("not an image")
    (folder / "empty").mkdir()
    return folder


def call(capsys, *words):
    """The command line within this process: exit code, stdout, stderr."""
    try:
        code = command_line.main([str(word) for word in words])
    except SystemExit as exit:
        code = exit.code
    return code, *capsys.readouterr()


CHECKPOINT = "runs/mini-1/checkpoint-last.h5"
MISTAKES = [
    (["--epohcs", "5"], "no option --epohcs: did you mean --epochs"),
    (["evalute", CHECKPOINT], "no command 'evalute': did you mean 'evaluate'"),
    (["--net", "alexnt"], "net 'alexnt' does not exist: did you mean 'alexnet'"),
    (["--profile", "papr"], "did you mean 'paper'"),
    (["--activation", "relo"], "did you mean 'relu'"),
    (["--net", "alexnet", "--data", "squares.h5"], "needs crops of 63 pixels or more"),
    (["--lr", "nan"], "argument --lr: 'nan' is not a number above 0"),
    (["--lr", "0"], "--lr: '0'"),
    (["--batch", "-3"], "--batch: '-3'"),
    (["--epochs", "1.5"], "--epochs: '1.5' is not a whole number"),
    (["--weight-decay", "inf"], "--weight-decay: 'inf'"),
    (["--schedule", "5,3"], "--schedule: '5,3' is not plateau, constant, or rising epochs"),
    (["--devices", "7"], "--devices 7"),
    (["--devices", "cpu,cpu,cpu"], "2 columns cannot be shared evenly by 3 devices"),
    (["--batch", "500", "--data", "squares.h5"], "squares.h5: 'train' has 96 images, not one full batch of 500"),
    (["--data", "nothing.h5"], "nothing.h5: no such file"),
    (["--data", "text.jpg"], "text.jpg: is not an HDF5 file"),
    (["--data", CHECKPOINT], "checkpoint-last.h5"),
    (["--resume", "other"], "other/checkpoint-last.h5: there is no such checkpoint"),
    (["--resume", "--runs", "none"], "--resume: there is no run with a checkpoint under none"),
    (["--resume", "mini-1", "--lr", "0.1"], "--lr 0.1, but the run has --lr 0.01, and this cannot change with --resume"),
    (["--name", "mini-1", "--data", "squares.h5", "--batch", "16"], "runs/mini-1: exists already"),
    (["evaluate", "nothing.h5"], "nothing.h5: there is no such checkpoint"),
    (["evaluate", "squares.h5"], "squares.h5: is an HDF5 file but not a checkpoint"),
    (["evaluate", CHECKPOINT, "--split", "test"], "has no split 'test'; it has train, val"),
    (["evaluate", CHECKPOINT, "--crops", "5"], "--crops"),
    (["evaluate", CHECKPOINT, "--data", "colour.h5"], "its images are 3×16×16, the net was made for crops of 1×14×14"),
    (["evaluate", CHECKPOINT, "--data", "large.h5"], "its images are 1×24×24"),
    (["evaluate", CHECKPOINT, "--data", "five.h5"], "has 5 classes, the net 4"),
    (["predict", CHECKPOINT, "text.jpg"], "text.jpg: is not an image"),
    (["predict", CHECKPOINT, "photo.png", "nothing.png"], "nothing.png: no such file"),
    (["prepare", "empty", "out.h5"], "empty: "),
    (["prepare", "nothing", "out.h5"], "nothing: "),
    (["export", "squares.h5", "out.npz"], "squares.h5: is an HDF5 file but not a checkpoint"),
    (["export", CHECKPOINT, "no/such/folder/out.npz"], "no/such/folder/out.npz: could not be written"),
    (["import", "squares.h5", "out.h5"], "squares.h5: is not an exported net"),
    (["import", "nothing.npz", "out.h5"], "nothing.npz: there is no such file"),
    (["summary", "--net", "alexnet", "--image", "3,224"], "--image 3,224: give channels, height, width"),
    (["gradcheck", "--net", "maxi"], "net 'maxi' does not exist: did you mean"),
]


@pytest.mark.parametrize("words, message", MISTAKES, ids=[" ".join(words) for words, _ in MISTAKES])
def test_mistakes_are_one_line_and_leave_nothing(trained, monkeypatch, capsys, words, message):
    monkeypatch.chdir(trained)
    before = sorted(trained.rglob("*"))
    code, _, error = call(capsys, *words)
    assert code not in (0, None)
    assert error.startswith("error: ") and error.count("\n") == 1, error
    assert message in error
    assert sorted(trained.rglob("*")) == before


def test_a_broken_data_set_is_refused(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    whole = (trained / "squares.h5").read_bytes()
    (tmp_path / "cut.h5").write_bytes(whole[:len(whole) // 2])
    for name, key, value in (("version.h5", "version", 9), ("label.h5", None, 4)):
        (tmp_path / name).write_bytes(whole)
        with h5py.File(tmp_path / name, "r+") as file:
            if key:
                file.attrs[key] = value
            else:
                file["train/labels"][0] = value
    for name, message in (("cut.h5", "cut.h5"), ("version.h5", "version 9"), ("label.h5", "label")):
        code, _, error = call(capsys, "--data", name)
        assert code == 1 and message in error and error.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_evaluate_prints_the_logs_figures(trained, monkeypatch, capsys):
    monkeypatch.chdir(trained)
    code, out, _ = call(capsys, "evaluate", CHECKPOINT)
    line = json.loads((trained / "runs/mini-1/log.jsonl").read_text().splitlines()[-1])
    assert code == 0 and out == (f"val, 40 images, centre crop: top-1 error {line['val_top1']:.2%}, "
                                 f"top-4 error {line['val_top5']:.2%}, loss {line['val_loss']:.4f}\n")
    code, out, _ = call(capsys, "evaluate", CHECKPOINT, "--crops", "10")
    assert code == 0 and "ten crops" in out


def test_predict(trained, monkeypatch, capsys):
    monkeypatch.chdir(trained)
    code, out, _ = call(capsys, "predict", CHECKPOINT, "photo.png", "photo.png", "--json", "--top", "3")
    first, second = json.loads(out)
    assert code == 0 and first == second and first["image"] == "photo.png"
    chances = [line["probability"] for line in first["predictions"]]
    assert len(chances) == 3 and chances == sorted(chances, reverse=True) and 0 < sum(chances) <= 1 + 1e-6
    assert all(line["class"] == f"place {line['index']}" for line in first["predictions"])
    code, out, _ = call(capsys, "predict", CHECKPOINT, "photo.png")
    assert code == 0 and out.splitlines()[0] == "photo.png" and first["predictions"][0]["class"] in out.splitlines()[1]


def test_export_and_import_give_the_same_net(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(trained)
    assert call(capsys, "export", CHECKPOINT, tmp_path / "net.npz")[0] == 0
    with np.load(tmp_path / "net.npz", allow_pickle=False) as file:
        assert file["conv2.weight"].shape == (64, 16, 5, 5) and file["fc6.weight"].shape == (1024, 64)
        assert list(file["classes"]) == [f"place {k}" for k in range(4)] and file["mean"].shape == (1, 16, 16)
        layers = {layer["name"]: layer for layer in json.loads(str(file["description"]))["layers"]}
    assert layers["conv2"]["groups"] == 2 and layers["conv1 lrn"]["alpha"] == 1e-4
    assert "multiply by 0.5" in layers["fc6 dropout"]["at test"]
    assert call(capsys, "import", tmp_path / "net.npz", tmp_path / "net.h5")[0] == 0
    outputs = [call(capsys, "predict", path, "photo.png", "--json")[1] for path in (CHECKPOINT, tmp_path / "net.h5")]
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_resume_goes_on(trained, tmp_path, number, code):
    words = ["--data", trained / "squares.h5", "--epochs", "12", "--batch", "16", "--runs", tmp_path, "--schedule", "8"]
    process = subprocess.Popen([sys.executable, ROOT / "run.py", *map(str, words)], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "mini-1" / "checkpoint-last.h5").exists():
        time.sleep(0.02)
    time.sleep(0.3)
    process.send_signal(number)
    out, error = process.communicate(timeout=60)
    assert process.returncode == code, error
    assert f"stopped by {number.name}" in out and "--resume mini-1" in out and "Traceback" not in error
    done = run("--resume", "--runs", tmp_path, "--epochs", 13, check=0)
    assert "going on in epoch" in done.stdout and "epoch 13/13" in done.stdout
    run(*words[:3], "13", *words[4:], "--name", "whole", check=0)
    assert_same_arrays(tmp_path / "mini-1" / "checkpoint-last.h5", tmp_path / "whole" / "checkpoint-last.h5")


def test_summary_and_help(capsys):
    code, out, _ = call(capsys, "summary")
    assert code == 0 and "60,965,224" in out and "659,272" in out


def test_the_bundled_set_is_chosen_and_said(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, out, _ = call(capsys, "--epochs", "0")
    assert code == 0 and "bundled 12,000 images of Fashion-MNIST" in out and "imagenet.h5" in out
    assert os.listdir(tmp_path / "runs") == ["mini-1"]


def test_prepare_and_synthetic(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name in "cat", "dog":
        (tmp_path / "photos" / name).mkdir(parents=True)
        for k in range(10):
            Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save(tmp_path / "photos" / name / f"{k}.png")
    code, out, _ = call(capsys, "prepare", "photos", "photos.h5", "--size", "16", "--val-fraction", "0.2")
    assert code == 0 and "photos.h5: ready" in out
    code, out, _ = call(capsys, "synthetic", "noise.h5", "--images", "40", "--size", "16", "--classes", "2")
    assert code == 0 and "40 random images" in out
    for data in "photos.h5", "noise.h5":
        assert call(capsys, "--data", data, "--epochs", "0", "--batch", "8")[0] == 0

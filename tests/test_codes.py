"""Auto-encoders and binary codes (section 6.1): what they learn, and the command that makes them."""
import os
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest

import run as command_line
from cpnet.checkpoint import Checkpoint
from cpnet.errors import CpnetError
from cpnet.gpu.devices import Device
from cpnet.layers import Pass
from cpnet.network import Network
from cpnet.studies import codes, features, neighbours
from cpnet.studies.codes import Codes, Sign, auto_encoder, make
from cpnet.studies.features import Features
from cpnet.studies.ops.squared_error import squared_error_backward, squared_error_forward
from tests.gpus import gpus
from tests.helpers import ROOT, small_set

SETTINGS = dict(hidden=16, bits=12, epochs=3, batch=32, rate=1.0, seed=1)
CPU = Device()


def features_file(path, *, train=600, val=80, width=20, classes=6, seed=0):
    """A features file whose vectors lie around one centre for each class."""
    rng = np.random.default_rng(seed)
    centres = 3 * rng.standard_normal((classes, width))
    with h5py.File(path, "w") as file:
        file.attrs.update(format=features.FORMAT, version=features.VERSION)
        for split, count in ("train", train), ("val", val):
            labels = np.arange(count, dtype=np.int32) % classes
            file[f"{split}/features"] = (centres[labels] + rng.standard_normal((count, width))).astype(np.float32)
            file[f"{split}/labels"] = labels
    return path


@pytest.fixture
def source(tmp_path):
    opened = Features(features_file(tmp_path / "f.h5"))
    yield opened
    opened.close()


def test_the_gradients_of_an_auto_encoder(rng):
    """Against finite differences, but for what the sign stops: the layers above the code, and, with tanh for the sign, all."""
    x = rng.standard_normal((7, 5))
    for smooth in False, True:
        table = auto_encoder(7, 6, 4)
        if smooth:
            table.layers[3] = codes.Tanh("code sign")
        network = Network(table, [CPU], seed=3, dtype=np.float64)

        def loss(network=network):
            return squared_error_forward(network.forward(x.copy(), Pass(training=True)), x).mean()

        loss()
        network.backward_from(squared_error_backward(network.logits, x))
        for name in network.parameters if smooth else [name for name in network.parameters if name[:4] in ("deco", "vect")]:
            w, gradient = network.get("values", name), network.get("gradients", name)
            direction, slope = rng.standard_normal(w.shape), 0
            for step in 1e-6, -1e-6:
                network.set("values", name, w + step * direction)
                slope += loss() / (2 * step)
            network.set("values", name, w)
            assert np.sum(gradient * direction) == pytest.approx(slope, rel=1e-6), name


def test_the_sign_is_passed_by_as_tanh(rng):
    layer = Sign("sign")
    layer.device = CPU
    x, d_y = rng.standard_normal((2, 4, 5))
    y = layer.forward(x.copy(), Pass())
    np.testing.assert_array_equal(y, np.sign(x))
    np.testing.assert_allclose(layer.backward(d_y.copy()), d_y * (1 - np.tanh(x) ** 2), rtol=1e-12)


def test_codes_are_learned(source, tmp_path):
    lines = []
    make(source, tmp_path / "c.h5", SETTINGS, CPU, say=lines.append)
    errors = [float(line.split("error ")[1].split("%")[0]) for line in lines]
    assert lines[0].startswith("before training") and lines[3].startswith("epoch 3/3") and lines[5].startswith("val: 80 codes")
    assert errors[0] > 90 and errors[1] > errors[2] > errors[3] > errors[4] and errors[4] < 30 and errors[5] < 35
    found = Codes(tmp_path / "c.h5")
    (base, labels), (asked, wanted) = found.split("train"), found.split("val")
    assert base.shape == (600, 1) and base.dtype == np.uint64 and found.bits == 12 and found.kind == "features"
    assert base.max() < 1 << 16 and len(np.unique(base)) > 6
    near, _ = neighbours.nearest_codes(asked, base, 6)
    assert neighbours.precision(near, labels, wanted) > 0.95
    assert {path.name for path in tmp_path.iterdir()} == {"f.h5", "c.h5"}


def test_the_stored_bits_are_the_code_layers(source, tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr(codes.os, "remove", lambda path: kept.append(Checkpoint(path)) if path.endswith("checkpoint") else None)
    make(source, tmp_path / "c.h5", SETTINGS, CPU, say=lambda line: None)
    values, mean, scale = kept[0].arrays["values"], kept[0].mean, kept[0].state["scale"]
    vectors = source.split("train")[0][:]
    np.testing.assert_allclose(mean, vectors.mean(axis=0, dtype=np.float64), atol=1e-6)
    assert scale == pytest.approx(np.sqrt(np.square(vectors - mean).mean(dtype=np.float64)), rel=1e-6)
    hidden = np.tanh((vectors - mean) / scale @ values["encode.weight"].T + values["encode.bias"])
    code = hidden @ values["code.weight"].T + values["code.bias"]
    with h5py.File(tmp_path / "c.h5") as file:
        bits = np.unpackbits(file["train/codes"][()], axis=1)
    assert not bits[:, 12:].any()
    sure = np.abs(code) > 1e-5
    np.testing.assert_array_equal(bits[:, :12][sure], (code > 0)[sure])


def test_interrupted_and_again(source, tmp_path, monkeypatch):
    """After two epochs and a bit, the same call ends with the same bytes; one with other settings begins anew."""
    make(source, tmp_path / "whole.h5", SETTINGS, CPU, say=lambda line: None)
    step, seen = codes.Coder._step, []

    def stop(self, *arguments):
        seen.append(1)
        if len(seen) == 2 * 19 + 5:
            raise KeyboardInterrupt
        return step(self, *arguments)

    monkeypatch.setattr(codes.Coder, "_step", stop)
    with pytest.raises(KeyboardInterrupt):
        make(source, tmp_path / "part.h5", SETTINGS, CPU, say=lambda line: None)
    assert not (tmp_path / "part.h5").exists()
    lines = []
    make(source, tmp_path / "part.h5", SETTINGS, CPU, say=lines.append)
    assert lines[0] == "going on after epoch 2" and len(seen) == 2 * 19 + 5 + 19
    assert (tmp_path / "part.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()
    codes.Coder(source, f"{tmp_path}/x", SETTINGS, CPU)
    assert codes.Coder(source, f"{tmp_path}/x", {**SETTINGS, "seed": 2}, CPU).state["epoch"] == 0
    make(source, tmp_path / "other.h5", {**SETTINGS, "seed": 2}, CPU, say=lambda line: None)
    assert (tmp_path / "other.h5").read_bytes() != (tmp_path / "whole.h5").read_bytes()


def test_killed(tmp_path):
    """SIGKILL in the middle of training; the same command goes on to the same codes."""
    features_file(tmp_path / "f.h5", train=1500)
    words = ["codes", "f.h5", "c.h5", "--bits", "16", "--hidden", "32", "--epochs", "15", "--devices", "cpu", "--threads", "1"]
    process = subprocess.Popen([sys.executable, ROOT / "run.py", *words], cwd=tmp_path, stdout=subprocess.PIPE,
                               stderr=subprocess.DEVNULL, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    next(line for line in process.stdout if line.startswith("epoch 2"))
    time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.stdout.close()
    assert process.wait() == -9 and not (tmp_path / "c.h5").exists()
    for line, name in ("going on after epoch", "c.h5"), ("before training", "whole.h5"):
        done = subprocess.run([sys.executable, ROOT / "run.py", *words[:2], name, *words[3:]], cwd=tmp_path, text=True,
                              capture_output=True, timeout=300, check=True)
        assert done.stdout.startswith(line), done.stdout
    assert (tmp_path / "c.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()


def test_on_a_gpu_as_on_the_cpu(tmp_path):
    """Float32 rounds differently there, so a bit whose number is next to 0 may differ."""
    source = Features(features_file(tmp_path / "f.h5", train=60, val=30))
    coders = [codes.Coder(source, f"{tmp_path}/{number}", {**SETTINGS, "epochs": 1}, where)
              for number, where in enumerate((CPU, *gpus("1", 1)))]
    lines = [[], []]
    for coder, said in zip(coders, lines, strict=True):
        coder.train(said.append)
    assert lines[0] == lines[1]
    for name in coders[0].network.parameters:
        np.testing.assert_allclose(*(coder.network.get("values", name) for coder in coders), atol=1e-4)
    one, other = (coder.encode(source.split("val")[0], "val") for coder in coders)
    assert (one[0] != other[0]).sum() <= 1 and one[1] == pytest.approx(other[1], rel=0.01)


def test_vectors_that_are_all_equal(tmp_path):
    with h5py.File(features_file(tmp_path / "f.h5"), "r+") as file:
        file["train/features"][...] = 7
    with pytest.raises(CpnetError, match="all training vectors are equal"):
        make(Features(tmp_path / "f.h5"), tmp_path / "c.h5", SETTINGS, CPU)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """f.h5, features; nan.h5, with one that is no number; chunks.h5, stored otherwise; squares.h5, a data set; text.h5."""
    folder = tmp_path_factory.mktemp("codes")
    for name in "f.h5", "nan.h5":
        features_file(folder / name)
    with h5py.File(folder / "nan.h5", "r+") as file:
        file["train/features"][7, 3] = np.nan
    small_set(folder / "squares.h5")
    with h5py.File(features_file(folder / "chunks.h5"), "r+") as file:
        vectors = file["train/features"][()]
        del file["train/features"]
        file.create_dataset("train/features", data=vectors, chunks=True)
    (folder / "text.h5").write_text("not HDF5")
    return folder


MISTAKES = [
    ("codes none.h5 c.h5", 1, "none.h5: there is no such features file or data set"),
    ("codes text.h5 c.h5", 1, "text.h5: cannot be read as a features file or data set"),
    ("codes f.h5 no/c.h5", 1, "no/c.h5: could not be written"),
    ("codes f.h5 f.h5", 1, "f.h5: is the file with the vectors"),
    ("codes nan.h5 c.h5", 1, "nan.h5: all training vectors are equal, or not all of their numbers finite"),
    ("codes chunks.h5 c.h5", 1, "chunks.h5: 'train' is not one block of float32 vectors"),
    ("codes f.h5 c.h5 --rate 1000", 1, "try a smaller --rate than 1000"),
    ("codes f.h5 c.h5 --bits 0", 2, "argument --bits: '0' is not a whole number above 0"),
    ("codes f.h5 c.h5 --bit 8", 2, "there is no option --bit: did you mean --bits?"),
    ("codes f.h5 c.h5 --devices cpu,cpu", 1, "--devices cpu,cpu: 1 column"),
    ("neighbours f.h5 squares.h5 --codes f.h5 --queries val", 1, "f.h5: is not a codes file"),
    ("neighbours f.h5 squares.h5 --codes none.h5 --queries val", 1, "none.h5: there is no such codes file"),
]


@pytest.mark.parametrize("words, code, message", MISTAKES, ids=[words for words, *_ in MISTAKES])
def test_mistakes_are_one_line(folder, monkeypatch, capsys, words, code, message):
    monkeypatch.chdir(folder)
    try:
        result = command_line.main(words.split())
    except SystemExit as exit:
        result = exit.code
    error = capsys.readouterr().err.split("\r")[-1].lstrip()
    assert result == code and error.startswith("error: ") and error.count("\n") == 1 and message in error
    assert not (folder / "c.h5").exists()

"""Probabilities of a split, their scores, averages and tables."""
import json
import shutil

import h5py
import numpy as np
import pytest

import run as command_line
from cpnet import scores
from cpnet.evaluate import predict_split
from cpnet.gpu.devices import named
from cpnet.nets import build
from cpnet.network import Network
from data.loading.augment import ten_views
from data.store.dataset import Dataset
from tests.helpers import small_set


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with squares.h5 and two runs, a and b."""
    folder = tmp_path_factory.mktemp("evaluate")
    small_set(folder / "squares.h5", channels=3, val=21)
    for seed, name in enumerate("ab"):
        words = f"--data {folder}/squares.h5 --epochs 2 --batch 16 --seed {seed} --name {name} --runs {folder}/runs"
        assert command_line.main(words.split()) == 0
    return folder


def call(capsys, folder, words):
    capsys.readouterr()
    code = command_line.main(words.format(a=folder / "runs/a/checkpoint-last.h5", b=folder / "runs/b/checkpoint-last.h5",
                                          f=folder).split())
    return code, *capsys.readouterr()


def test_scores():
    p = np.array([[0.1, 0.2, 0.7], [0.5, 0.3, 0.2], [0.25, 0.5, 0.25]])
    result = scores.scores(p, np.array([2, 1, 2]))
    assert result["top1"] == pytest.approx(2 / 3) and result["top5"] == 0 and result["images"] == 3
    assert result["loss"] == pytest.approx(-np.log([0.7, 0.3, 0.25]).mean())
    many = np.full((1, 10), 0.01)
    many[0, :5] = 0.19
    assert scores.scores(many, np.array([7]))["top5"] == 1 and scores.scores(many, np.array([4]))["top5"] == 0
    assert np.isfinite(scores.scores(np.array([[1.0, 0.0]]), np.array([1]))["loss"])


def test_confusion_and_the_worst_class_first():
    p = np.eye(3)[[0, 1, 1, 2, 1]]
    labels = np.array([0, 0, 1, 2, 2])
    np.testing.assert_array_equal(scores.confusion(p, labels).table(), [[1, 1, 0], [0, 1, 0], [0, 1, 1]])
    lines = scores.by_class(p, labels, ["cat", "dog", "elk"]).splitlines()
    assert lines[0].split() == "50.00% of 2 cat, most often taken for dog (1)".split()
    assert lines[2].split() == "0.00% of 1 dog".split()


def test_published_rows_are_the_papers():
    text = scores.tables([("mine", 0.5, None)])
    rows = [" ".join(line.split()) for line in text.splitlines()]
    for row in ("CNN 37.5% 17.0% published", "SIFT + FVs – 26.2% published", "5 CNNs 38.1% 16.4% published",
                "7 CNNs* 36.7% 15.4% published", "7 CNNs* – 15.3% published", "mine 50.0% –"):
        assert row in rows


@pytest.mark.parametrize("crops", [1, 10])
def test_a_split_image_by_image(trained, crops):
    with Dataset(trained / "squares.h5") as dataset:
        table = build("mini", (3, 14, 14), 4)
        network = Network(table, named("cpu", 2), seed=2)
        together = predict_split(network, dataset, "val", crops=crops, batch=64)
        apart = predict_split(network, dataset, "val", crops=crops, batch=crops)
        np.testing.assert_allclose(together, apart, atol=1e-6)
        np.testing.assert_allclose(together.sum(axis=1), 1, rtol=1e-5)


def test_ten_crops_as_pytorch_computes_them(trained, torch):
    """Section 4.1, with the exported weights and nothing of ours but these."""
    F = torch.nn.functional
    with Dataset(trained / "squares.h5") as dataset:
        network = Network(build("mini", (3, 14, 14), 4), named("cpu,cpu", 2), seed=2)
        for name in network.parameters:
            if name.endswith("weight"):  # large enough for the images to differ
                network.set("values", name, 1.3 * network.get("values", name))
        ours = predict_split(network, dataset, "val", crops=10)
        w = {name: torch.tensor(network.get("values", name), dtype=torch.float64) for name in network.parameters}
        images = dataset.read("val", np.arange(21)).astype(np.float64) - dataset.mean
    assert len(ten_views((3, 16, 16), 14).top) == 10
    total = 0
    for mirror in False, True:
        for top, left in ((0, 0), (0, 2), (2, 0), (2, 2), (1, 1)):
            x = torch.tensor(images[:, :, top:top + 14, left:left + 14].copy())
            x = x.flip(3) if mirror else x
            for k, groups, norm in ((1, 1, True), (2, 2, True), (3, 1, False), (4, 2, False), (5, 2, False)):
                weight = w[f"conv{k}.weight"]
                x = F.relu(F.conv2d(x, weight, w[f"conv{k}.bias"], padding=weight.shape[2] // 2, groups=groups))
                if norm:
                    x = torch.cat([F.local_response_norm(part, 5, alpha=5e-4, beta=0.75, k=2) for part in x.chunk(2, 1)], 1)
                if k in (1, 2, 5):
                    x = F.max_pool2d(x, 3, 2, ceil_mode=True)
            x = x.flatten(1)
            for k in 6, 7:
                x = 0.5 * F.relu(F.linear(x, w[f"fc{k}.weight"], w[f"fc{k}.bias"]))
            total = total + F.softmax(F.linear(x, w["fc8.weight"], w["fc8.bias"]), dim=1)
    assert np.ptp(ours, axis=0).max() > 0.05  # not all alike
    np.testing.assert_allclose(ours, (total / 10).numpy(), atol=1e-5)


def test_an_ensemble_and_its_saved_probabilities(trained, capsys):
    code, out, _ = call(capsys, trained, "evaluate {a} {b} --crops 10 --json")
    rows = json.loads(out)
    assert code == 0 and [row["model"] for row in rows][2] == "average of 2"
    for name in "ab":
        assert call(capsys, trained, f"evaluate {{{name}}} --crops 10 --save-probabilities {{f}}/{name}.p.h5")[0] == 0
    code, out, _ = call(capsys, trained, "evaluate {f}/a.p.h5 {b} --data {f}/squares.h5 --crops 10 --json")
    assert code == 0 and [row["top1"] for row in json.loads(out)] == [row["top1"] for row in rows]
    np.testing.assert_allclose([row["loss"] for row in json.loads(out)], [row["loss"] for row in rows], rtol=1e-6)
    assert "give --data" in call(capsys, trained, "evaluate {f}/a.p.h5")[2]
    assert "images of 'val', not of these 96 of 'train'" in call(
        capsys, trained, "evaluate {f}/a.p.h5 --data {f}/squares.h5 --split train")[2]


def test_images_are_seen_less_the_mean_that_the_net_was_trained_with(trained, capsys):
    """A test set prepared by itself has another mean image."""
    shutil.copy(trained / "squares.h5", trained / "other.h5")
    with h5py.File(trained / "other.h5", "r+") as file:
        file["mean"][...] = 255 - file["mean"][()]
    errors = [json.loads(call(capsys, trained, f"evaluate {{a}} --data {{f}}/{name}.h5 --json")[1])
              for name in ("squares", "other")]
    assert errors[0] == errors[1]


def test_tables_and_pictures(trained, capsys):
    code, out, _ = call(capsys, trained, "evaluate {a} --by-class --table --confusion {f}/c.png --picture {f}/p.png")
    assert code == 0 and "published" in out and "place 3" in out and "val, 21 images, centre crop: top-1 error" in out
    for name in "c.png", "p.png":
        assert (trained / name).read_bytes()[:4] == b"\x89PNG"

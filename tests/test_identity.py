"""Data, weights and classes are checked to be what they were."""
import shutil

import h5py
import numpy as np
import pytest

import run as command_line
from cpnet.run_folder import RunFolder
from data.store.dataset import Dataset
from data.store.identity import class_difference, difference, fingerprint, reorder
from tests.helpers import small_set

TRAIN = "train --data squares.h5 --net four-layer --batch 16 --epochs 1 --devices cpu --threads 1 --name a"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """squares.h5, and the run a."""
    folder = tmp_path_factory.mktemp("identity")
    small_set(folder / "squares.h5", train=32, val=20)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert command_line.main(TRAIN.split()) == 0
    return folder


@pytest.fixture
def here(trained, tmp_path, monkeypatch):
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    config = tmp_path / "runs/a/config.json"
    config.write_text(config.read_text().replace(str(trained), str(tmp_path)))
    with h5py.File(tmp_path / "runs/a/checkpoint-last.h5", "r+") as file:
        file.attrs["settings"] = file.attrs["settings"].decode().replace(str(trained), str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(capsys, line, *messages):
    """The command says this in one line, with another exit code than 0."""
    capsys.readouterr()
    assert command_line.main(line.split()) == 1
    error = capsys.readouterr().err
    assert error.count("error: ") == 1, error
    for message in messages:
        assert message in error, error


def rename(path, names):
    with h5py.File(path, "r+") as file:
        del file["classes"]
        file["classes"] = names


def relabel(path):
    with h5py.File(path, "r+") as file:
        file["train/labels"][...] = np.roll(file["train/labels"], 1)


OTHERS = [
    (lambda: small_set("o.h5", train=48, val=20), "it has 48 train, 20 val images, not 32 train, 20 val"),
    (lambda: small_set("o.h5", train=32, val=20, seed=1), "its labels or its mean image are others"),
    (lambda: small_set("o.h5", train=32, val=20, classes=3), "o.h5: has 3 classes, the net 4"),
    (lambda: small_set("o.h5", train=32, val=20, size=20), "o.h5: its images are 1×20×20"),
    (lambda: small_set("o.h5", train=32, val=20, channels=3), "o.h5: its images are 3×16×16"),
    (lambda: rename(shutil.copy("squares.h5", "o.h5"), ["place 0", "place 1", "x", "y"]), "its class 2 is 'x', not 'place 2'"),
    (lambda: relabel(shutil.copy("squares.h5", "o.h5")), "its labels or its mean image are others"),
]


@pytest.mark.parametrize("make, message", OTHERS, ids=[message for _, message in OTHERS])
@pytest.mark.parametrize("how", ["--data o.h5", "in its place"])
def test_a_run_does_not_go_on_with_other_data(here, capsys, make, message, how):
    make()
    before = (here / "runs/a/checkpoint-last.h5").read_bytes()
    if how == "in its place":
        (here / "o.h5").replace(here / "squares.h5")
        message, how = message.replace("o.h5", "squares.h5"), ""
    refused(capsys, f"train --resume a --epochs 2 {how}", message)
    assert (here / "runs/a/checkpoint-last.h5").read_bytes() == before


def test_a_run_goes_on_with_its_data_elsewhere(here, capsys):
    """Moved, and made again from the same images: what counts is what the file holds."""
    (here / "squares.h5").unlink()
    refused(capsys, "train --resume a --epochs 2", "squares.h5: the run's data set is no longer there; say with --data")
    small_set(here / "again.h5", train=32, val=20)
    assert command_line.main("train --resume a --epochs 2 --data again.h5".split()) == 0
    assert RunFolder("runs/a").read()[0].data == str(here / "again.h5")
    assert command_line.main("train --resume a --epochs 3".split()) == 0


def test_runs_of_the_first_version_are_compared_by_their_mean_image(here, capsys):
    with h5py.File("runs/a/checkpoint-last.h5", "r+") as file:
        settings = file.attrs["settings"].decode() if isinstance(file.attrs["settings"], bytes) else file.attrs["settings"]
        begin = settings.index('"fingerprint"')
        file.attrs["settings"] = settings[:begin] + settings[settings.index("}, ", settings.index('"content"')) + 3:]
    small_set("o.h5", train=32, val=20, seed=1)
    refused(capsys, "train --resume a --epochs 2 --data o.h5", "its mean image is another")
    assert command_line.main("train --resume a --epochs 2".split()) == 0


def test_other_class_names_are_refused(here, capsys):
    rename(shutil.copy("squares.h5", "other.h5"), ["place 0", "dog", "cat", "place 3"])
    for line in ("evaluate runs/a/checkpoint-last.h5 --data other.h5", "report runs/a --data other.h5",
                 "features runs/a/checkpoint-last.h5 other.h5 f.h5",
                 "evaluate runs/a/checkpoint-last.h5 --data other.h5 --by-name"):
        refused(capsys, line, "other.h5: does not have the classes of", "its class 1 is 'dog', not 'place 1'")
    assert not (here / "f.h5").exists()


def test_the_same_classes_in_another_order(here, capsys):
    order = [2, 0, 3, 1]
    shutil.copy("squares.h5", "other.h5")
    with h5py.File("other.h5", "r+") as file:
        names = [file["classes"][k] for k in order]
        for split in "train", "val":
            file[f"{split}/labels"][...] = np.argsort(order)[file[f"{split}/labels"][()]]
    rename("other.h5", names)
    refused(capsys, "evaluate runs/a/checkpoint-last.h5 --data other.h5", "its class 0 is 'place 2', not 'place 0'; --by-name")
    said = []
    for words in "--data squares.h5", "--data other.h5 --by-name":
        assert command_line.main(f"evaluate runs/a/checkpoint-last.h5 {words}".split()) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]


def test_saved_probabilities_keep_their_classes(here, capsys):
    assert command_line.main("evaluate runs/a/checkpoint-last.h5 --save-probabilities p.h5".split()) == 0
    rename("squares.h5", ["place 0", "place 1", "place 2", "Place 3"])
    refused(capsys, "evaluate p.h5 --data squares.h5", "does not have the classes of p.h5: its class 3 is 'Place 3'")


@pytest.mark.parametrize("name, spoil, message", [
    ("mean", lambda mean: mean * np.nan, "its mean holds values that are not finite"),
    ("classes", lambda names: np.append(names, b"fifth"), "names 5 classes, and its net has 4"),
    ("values/fc4.weight", lambda w: w.astype(np.float64) * 1e300, "fc4.weight holds values that are not finite"),
    ("mean", lambda mean: mean[:, 1:], "its mean image is 1×15×16"),
])
def test_a_checkpoint_is_checked_before_anything_is_computed(here, capsys, name, spoil, message):
    path = "runs/a/checkpoint-last.h5"
    with h5py.File(path, "r+") as file:
        value = file[name][()]
        del file[name]
        file[name] = spoil(value + 0.1 if name.startswith("values") else value)
    for line in f"evaluate {path}", f"export {path} o.npz", f"features {path} squares.h5 o.h5":
        refused(capsys, line, message)


def test_outputs_that_are_too_large_for_numbers(here, capsys):
    with h5py.File("runs/a/checkpoint-last.h5", "r+") as file:
        for name in file["values"]:
            file[f"values/{name}"][...] = 1e30
    refused(capsys, "evaluate runs/a/checkpoint-last.h5", "the net's outputs are not finite numbers")


def test_fingerprints(tmp_path):
    one, other = (Dataset(small_set(tmp_path / f"{k}.h5", train=8, val=4, seed=k)) for k in (0, 1))
    assert difference(fingerprint(one), fingerprint(one)) == ""
    assert difference(fingerprint(one), fingerprint(other)) == "its labels or its mean image are others"
    reorder(one, one.classes[::-1])
    assert one.split("val").labels.tolist() == [3, 2, 1, 0] and one.classes[0] == "place 3"
    with pytest.raises(ValueError, match="not the same"):
        reorder(one, ["a", "b", "c", "d"])


def test_classes_of_imagenet_are_compared_by_wordnets_identifier():
    assert class_difference(["n01440764 tench", "n01443537"], ["n01440764", "n01443537 goldfish, Carassius"]) == ""
    assert class_difference(["tench, Tinca"], ["n01440764 tench, Tinca"]) == ""
    assert class_difference(["n01440764 tench"], ["n01443537 tench"]) == \
        "its class 0 is 'n01440764 tench', not 'n01443537 tench'"
    assert class_difference(["a"], ["a", "b"]) == "it has 1 classes, not 2"

"""All that `prepare` finds is in the file, or listed in OUT.skipped.jsonl with its reason and counted."""
import io
import json
import os
import re
import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image

from cpnet.commands.prepare import main
from data.check import check
from data.errors import DataError
from data.prepare import prepare
from data.sources.image import load_image
from data.store.dataset import Dataset
from tests import ilsvrc
from tests.helpers import run
from tests.test_prepare import folders

SIZE = 8
KIND = "is of a kind that is not read ({})"


@pytest.fixture
def source(tmp_path, rng):
    """Two class folders of ten images each."""
    return folders(tmp_path / "s", rng, {"a": 10, "b": 10}) and tmp_path / "s"


def photograph(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(ilsvrc.photograph(seed))


def prepared(source, **options):
    """What becomes of a folder: (Prepared, {path: reason} as listed, which is all that is not in the file)."""
    out = source.parent / "out.h5"
    done = prepare(str(source), str(out), size=SIZE, **options)
    path = out.with_suffix(".skipped.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    assert sum(done.left_out.values()) == len(rows)
    return done, {row["image"]: row["reason"] for row in rows}


def counts(out):
    """{split: images of each class}."""
    with Dataset(out) as data:
        return {name: np.bincount(split.labels, minlength=len(data.classes)).tolist() for name, split in data.splits.items()}


def refuse(source, words):
    before = sorted(os.listdir(source.parent))
    with pytest.raises(DataError, match=words) as caught:
        prepare(str(source), str(source.parent / "out.h5"), size=SIZE)
    assert "\n" not in str(caught.value) and sorted(os.listdir(source.parent)) == before


@pytest.mark.parametrize("name", [".ipynb_checkpoints/000-checkpoint.png", ".git/x.jpg", "__MACOSX/._000.png", "._000.png",
                                  ".hidden/deep/1.jpg", "@eaDir/000.png/thumb.jpg", "Thumbs.db", "desktop.ini"])
@pytest.mark.parametrize("where", ["a", "a/deeper", "."])
def test_hidden_files_are_no_data(source, where, name):
    photograph(source / where / name)
    done, listed = prepared(source)
    assert listed == {os.path.normpath(f"{where}/{name}"): "is hidden"}
    assert done[1:] == (20, 0, {"is hidden": 1}) and counts(done.out) == {"train": [9, 9], "val": [1, 1]}


def test_a_folder_of_links_is_read(source, tmp_path):
    shutil.move(source / "a", tmp_path / "elsewhere")
    (source / "a").symlink_to(tmp_path / "elsewhere")
    for k in range(3):
        photograph(tmp_path / "more" / f"{k}.jpg", k)
    (source / "b" / "more").symlink_to("../../more")
    done, listed = prepared(source)
    assert listed == {} and counts(done.out) == {"train": [9, 12], "val": [1, 1]}


def test_links_that_lead_nowhere_or_back(source, tmp_path):
    (source / "a" / "up").symlink_to("..")
    (source / "a" / "top").symlink_to(tmp_path)
    (source / "a" / "self").symlink_to(".")
    (source / "b" / "gone.jpg").symlink_to("nothing")
    (source / "b" / "round.jpg").symlink_to("round.jpg")
    (source / "c").symlink_to(source)
    os.mkfifo(source / "b" / "pipe.jpg")
    done, listed = prepared(source)
    back, nowhere = "is a link that leads back to a folder around it", "is a link that leads nowhere"
    assert listed == {"a/up": back, "a/top": back, "a/self": back, "c": back, "b/gone.jpg": nowhere, "b/round.jpg": nowhere,
                      "b/pipe.jpg": "is no plain file"}
    assert done.images == 20


def test_what_lies_beside_class_folders(source):
    (source / "c.tar").write_bytes(ilsvrc.tar({"0.jpg": ilsvrc.photograph(1)}))
    photograph(source / "loose.jpg")
    (source / "README.md").write_text("read me")
    (source / "other.h5.part").mkdir()
    (source / "other.h5.part" / "data").write_bytes(b"")
    done, listed = prepared(source)
    assert listed == {"c.tar": "lies beside class folders", "loose.jpg": "lies beside class folders",
                      "README.md": KIND.format(".md"), "other.h5.part/data": "is of a data set in the making"}
    assert done.images == 20


def test_what_lies_beside_class_tars(tmp_path):
    for k, name in enumerate("ab"):
        path = tmp_path / "s" / f"{name}.tar"
        path.parent.mkdir(exist_ok=True)
        images = {f"./{name}/{i}.jpg": ilsvrc.photograph(10 * k + i) for i in range(4)}
        path.write_bytes(ilsvrc.tar(images | {f"./{name}/._0.jpg": b"Mac OS X", "__MACOSX/1.jpg": b"", "notes.txt": b"",
                                              "inner.tar": ilsvrc.tar({"5.jpg": ilsvrc.photograph(5)})}))
    photograph(tmp_path / "s" / "loose.jpg")
    done, listed = prepared(tmp_path / "s")
    assert listed == {"loose.jpg": "lies beside class tars"} | {
        f"{c}.tar/{name}": reason for c in "ab" for name, reason in (
            (f"./{c}/._0.jpg", "is hidden"), ("__MACOSX/1.jpg", "is hidden"), ("notes.txt", KIND.format(".txt")),
            ("inner.tar/5.jpg", "is in a tar in a class's tar"))}
    assert done[1:3] == (8, 0)


def test_an_archive_for_training_without_class_tars(source):
    name = "ILSVRC2012_img_train.tar"
    (source / name).write_bytes(ilsvrc.tar({"0.JPEG": ilsvrc.photograph(1)}))
    done, listed = prepared(source)
    assert listed == {name: "holds no class's tar"} and done.images == 20


def test_hidden_files_in_tars_in_a_tar(tmp_path):
    parts = ilsvrc.write(tmp_path / "s")
    path = tmp_path / "s" / "ILSVRC2012_img_train.tar"
    inner = {f"{wnid}.tar": ilsvrc.tar({"._x.JPEG": b"Mac OS X"} | {
        name: data for name, data, owner in parts["train"] if owner == wnid}) for wnid in ilsvrc.IDS}
    path.write_bytes(ilsvrc.tar(inner | {"._n01440764.tar": b"Mac OS X", "loose.JPEG": ilsvrc.photograph(0)}))
    (tmp_path / "s" / "val").mkdir()
    photograph(tmp_path / "s" / "val" / "0.jpg")
    done, listed = prepared(tmp_path / "s")
    assert done[1:] == (sum(map(len, parts.values())), 0, {
        "has no label": 6, "is hidden": 5, "lies beside class tars": 1, "is in no split": 1})
    assert listed[f"{path.name}/n01440764.tar/._x.JPEG"] == listed[f"{path.name}/._n01440764.tar"] == "is hidden"
    assert listed["val/0.jpg"] == "is in no split" and listed[f"{path.name}/loose.JPEG"] == "lies beside class tars"


@pytest.mark.parametrize("suffix", [".jfif", ".JFIF", ".jif", ".pjpeg", ".pjp"])
def test_other_suffixes_of_jpegs(source, suffix):
    photograph(source / "a" / f"z{suffix}", 7)
    done, listed = prepared(source)
    assert listed == {} and done.images == 21
    expected = load_image(io.BytesIO(ilsvrc.photograph(7)), SIZE, name="z")
    with Dataset(done.out) as data:
        assert any((image == expected).all() for split in data.splits.values() for image in split.read(range(len(split))))


def test_kinds_that_are_not_read(source):
    for name in "0.heic", "1.HEIC", "2.avif", "no suffix", "notes.txt":
        photograph(source / "a" / name)
    done, listed = prepared(source)
    assert listed == {"a/0.heic": KIND.format(".heic"), "a/1.HEIC": KIND.format(".heic"), "a/2.avif": KIND.format(".avif"),
                      "a/no suffix": KIND.format("no suffix"), "a/notes.txt": KIND.format(".txt")}
    assert list(done.left_out.items())[0] == (KIND.format(".heic"), 2) and done.images == 20


def test_a_class_of_a_kind_that_is_not_read(source):
    for k in range(12):
        photograph(source / "c" / f"{k}.heic")
    photograph(source / "c" / ".hidden.jpg")
    refuse(source, re.escape("the class c holds no images; 12 files in it are left out, as each " + KIND.format(".heic")
                             + "; 1 files in it are left out, as each is hidden; fill or remove it"))
    for name in "abc":
        shutil.rmtree(source / name)
    photograph(source / "0.jpg")
    photograph(source / "1.heic")
    refuse(source, "no folders in it; 1 files in it are left out, as each is in no class's folder; 1 files .*heic")


@pytest.mark.parametrize("train, val, test", [("Train", "Val", "Test"), ("TRAIN", "valid", "testing"),
                                              ("training", "Validation", "TEST")])
def test_names_of_splits(tmp_path, rng, train, val, test):
    for name, count in ((train, 5), (val, 2), (test, 1)):
        folders(tmp_path / "s", rng, {"a": count, "b": count}, name)
    (tmp_path / "s" / "notes.txt").write_text("")
    photograph(tmp_path / "s" / "unlabelled" / "0.jpg")
    done, listed = prepared(tmp_path / "s")
    assert counts(done.out) == {"train": [5, 5], "val": [2, 2], "test": [1, 1]}
    assert listed == {"notes.txt": "is in no split", "unlabelled/0.jpg": "is in no split"}


def test_loose_images_of_a_split_with_another_name(tmp_path, rng):
    folders(tmp_path / "s", rng, {"a": 5, "b": 5}, "Train")
    for k in range(3):
        photograph(tmp_path / "s" / "Validation" / f"{k}.jpg", k)
    refuse(tmp_path / "s", "'val' has 3 images without classes")
    (tmp_path / "s" / "Validation" / "val_ground_truth.txt").write_text("b\na\nb\n")
    (tmp_path / "s" / "Validation" / "1.jpg").rename(tmp_path / "s" / "Validation" / "1.heic")
    refuse(tmp_path / "s", "has 3 lines for 2 images of 'val'; .*; 1 files in it are left out, as each is of a kind .*heic")
    (tmp_path / "s" / "Validation" / "1.heic").rename(tmp_path / "s" / "Validation" / "1.jpg")
    (tmp_path / "s" / "._val_ground_truth.txt").write_text("Mac OS X")
    done, listed = prepared(tmp_path / "s")
    assert counts(done.out) == {"train": [5, 5], "val": [1, 2]} and listed == {"._val_ground_truth.txt": "is hidden"}


def test_splits_that_cannot_be_told(source, rng):
    folders(source, rng, {"a": 2, "b": 2}, "val")  # which would else be a class, of validation images
    refuse(source, "s/val: lies beside the class folders; put these into a folder train beside it")
    os.mkdir(source / "train")
    for name in "ab":
        shutil.move(source / name, source / "train")
    folders(source, rng, {"a": 1}, "valid")
    refuse(source, "holds two folders of 'val', val and valid; move one of them elsewhere")


def test_names_that_are_not_utf8(source):
    """They are read; bytes that are no text are written as Python does."""
    folder = os.path.join(os.fsencode(source), b"caf\xe9")
    os.mkdir(folder)
    for k in range(10):
        with open(os.path.join(folder, b"\xfc%d.jpg" % k), "wb") as file:
            file.write(ilsvrc.photograph(k) if k else b"damaged")
    photograph(source / os.fsdecode(b"a/\xe4.txt"))
    done, listed = prepared(source)
    with Dataset(done.out) as data:
        assert data.classes == ["a", "b", "caf\\xe9"]
    assert sum(split[2] for split in counts(done.out).values()) == 9
    assert listed.pop(r"caf\xe9/\xfc0.jpg").startswith("is not an image") and listed == {r"a/\xe4.txt": KIND.format(".txt")}
    source = source.rename(os.fsdecode(os.path.join(os.fsencode(source.parent), b"\xe9")))
    with Dataset(prepared(source)[0].out) as data:
        assert data.source.startswith(r"\xe9; classes")


def test_hidden_files_in_a_development_kit(tmp_path):
    parts = ilsvrc.write(tmp_path / "s")
    with tarfile.open(tmp_path / "s" / "ILSVRC2012_devkit_t12.tar.gz") as tar:
        files = {member.name: tar.extractfile(member).read() for member in tar}
    hidden = {f"{os.path.dirname(name)}/._{os.path.basename(name)}": b"Mac OS X" for name in files}
    (tmp_path / "s" / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(ilsvrc.tar(files | hidden, "w:gz"))
    assert prepared(tmp_path / "s")[0].images == sum(map(len, parts.values()))


def test_patches_that_replace_nothing(tmp_path):
    ilsvrc.write(tmp_path / "s", 2010)
    (tmp_path / "s" / "patch_images.tar").write_bytes(ilsvrc.tar({"patch_images/train/x.JPEG": ilsvrc.photograph(1)}))
    assert prepared(tmp_path / "s")[1] == {"patch_images.tar/patch_images/train/x.JPEG": "replaces no image"}


def test_its_own_files_are_not_listed(source, tmp_path):
    photograph(source / "a" / "0.heic")
    for _ in range(2):
        assert not main([str(source), str(source / "out.h5"), "--size", "8"])
        rows = [json.loads(line) for line in (source / "out.skipped.jsonl").read_text().splitlines()]
        assert rows == [{"split": None, "index": None, "image": "a/0.heic", "reason": KIND.format(".heic")}]


def test_the_summary(source):
    for name in "0.heic", "1.heic", ".2.jpg":
        photograph(source / "a" / name)
    (source / "b" / "000.png").write_bytes(b"")
    out = source.parent / "out.h5"
    lines = run("prepare", source, out, "--size", "8", "--max-skipped", "9%", check=0).stdout.splitlines()
    assert lines == ["images of each class:", f"  {'train':>12}{'val':>12}", f"  {9:12}{1:12}  0 a", f"  {8:12}{1:12}  1 b",
                     f"  {17:12}{2:12}  all", "left out:", f"  {2:12}  {KIND.format('.heic')}", f"  {1:12}  is empty",
                     f"  {1:12}  is hidden", f"{out}: ready, 19 images of 2 classes; 4 files left out, which "
                     f"{out.with_suffix('.skipped.jsonl')} lists; train with python run.py --data {out}"]
    shutil.rmtree(source / "a")
    folders(source, np.random.default_rng(0), {"a": 10})
    (source / "b" / "000.png").unlink()
    assert run("prepare", source, out, "--size", "8", check=0).stdout.splitlines()[-2:] == [
        "left out: nothing", f"{out}: ready, 19 images of 2 classes; 0 files left out; train with python run.py --data {out}"]


def test_copies_across_splits_are_found(tmp_path, rng):
    """The same picture in two splits, in files of different kinds."""
    source = tmp_path / "s"
    folders(source, rng, {"a": 5, "b": 5}, "train")
    folders(source, rng, {"a": 2, "b": 2}, "val")
    folders(source, rng, {"a": 2, "b": 2}, "test")
    for copy, of in (("val/b/x.bmp", "train/a/003.png"), ("test/a/x.ppm", "val/a/001.png"), ("test/a/y.tiff", "train/b/000.png")):
        Image.open(source / of).save(source / copy)
    with Dataset(prepared(source)[0].out) as data:
        assert check(data).warnings == [
            f"1 of {n} images of '{later}' are copies of images of '{earlier}', {m} of them in another class; the first: {pair}"
            for n, later, earlier, m, pair in ((5, "val", "train", 1, "val 4 is train 3"), (6, "test", "train", 1, "test 3 is train 5"),
                                               (6, "test", "val", 0, "test 2 is val 1"))]


def test_an_output_by_way_of_a_link(tmp_path, monkeypatch):
    """The file that the link names is made, and the link stays."""
    monkeypatch.chdir(tmp_path)
    for name in "a", "b":
        for k in range(12):
            path = tmp_path / "photos" / name / f"{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (20, 20), (k, 0, 0)).save(path)
    (tmp_path / "disk").mkdir()
    (tmp_path / "set.h5").symlink_to("disk/large.h5")
    assert main("photos set.h5 --size 16".split()) in (0, None)
    assert (tmp_path / "set.h5").is_symlink() and (tmp_path / "disk/large.h5").is_file()
    assert not list(tmp_path.glob("**/*.part"))

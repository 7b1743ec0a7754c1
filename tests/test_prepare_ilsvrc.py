"""ILSVRC as downloaded: labels, names and pixels of miniatures, and archives that are not as they should be."""
import gzip
import io
import os
import shutil
import sys
import tarfile

import h5py
import numpy as np
import pytest

from data.errors import DataError
from data.prepare import prepare
from data.sources.image import load_image
from data.store.dataset import Dataset
from tests import ilsvrc

SIZE = 16


def check(out, parts):
    """The data set holds these images in this order, each with the label of its synset."""
    with Dataset(out) as data, h5py.File(out) as file:
        synsets = list(file["synsets"].asstr())
        assert synsets == sorted(ilsvrc.IDS) and data.classes == [ilsvrc.WORDS[wnid] for wnid in synsets]
        assert "sorted synsets (WNIDs), words from" in data.source
        assert list(data.splits) == list(parts)
        for name, images in parts.items():
            split = data.splits[name]
            assert [synsets[label] for label in split.labels] == [wnid for _, _, wnid in images]
            expected = np.stack([load_image(io.BytesIO(image), SIZE, name="x") for _, image, _ in images])
            np.testing.assert_array_equal(data.read(name, range(len(split))), expected)


def snapshot(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize("year", [2012, 2010])
def test_as_downloaded(tmp_path, year):
    parts = ilsvrc.write(tmp_path / "s", year)
    before = snapshot(tmp_path / "s")
    done = prepare(str(tmp_path / "s"), str(tmp_path / "out.h5"), size=SIZE, workers=2)
    assert done[1:3] == (sum(map(len, parts.values())), 0)
    check(done.out, parts)
    assert snapshot(tmp_path / "s") == before
    assert done.left_out == ({"has no label": 6} if year == 2012 else {})
    assert sorted(os.listdir(tmp_path)) == ["out.h5", *["out.skipped.jsonl"] * (year == 2012), "s"]


def test_unpacked_in_whole_or_part(tmp_path):
    parts = ilsvrc.write(tmp_path / "s", 2010)
    whole = prepare(str(tmp_path / "s"), str(tmp_path / "whole.h5"), size=SIZE)
    source = tmp_path / "s"
    with tarfile.open(source / "ILSVRC2010_images_train.tar") as tar:  # as many people do: a folder of class tars
        tar.extractall(source / "train", filter="data")
    (source / "ILSVRC2010_images_train.tar").unlink()
    for k in range(3):
        check(prepare(str(source), str(tmp_path / f"{k}.h5"), size=SIZE).out, parts)
        if k == 0:  # and then class folders, and a folder of validation images with its ground truth
            for path in (source / "train").glob("*.tar"):
                with tarfile.open(path) as tar:
                    tar.extractall(path.with_suffix(""), filter="data")
                path.unlink()
            for split in "val", "test":
                with tarfile.open(source / f"ILSVRC2010_images_{split}.tar") as tar:
                    tar.extractall(source, filter="data")
                (source / f"ILSVRC2010_images_{split}.tar").unlink()
        if k == 1:  # and the development kit, first beside its archive
            with tarfile.open(source / "ILSVRC2010_devkit-1.0.tar.gz") as tar:
                tar.extractall(source, filter="data")
            check(prepare(str(source), str(tmp_path / "both.h5"), size=SIZE).out, parts)
            (source / "ILSVRC2010_devkit-1.0.tar.gz").unlink()
    with h5py.File(whole.out) as one, h5py.File(tmp_path / "2.h5") as other:
        np.testing.assert_array_equal(one["mean"], other["mean"])
    (source / "devkit-1.0").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="line 1, '.', names no class .*; numbers need the development kit"):
        (source / "val_ground_truth.txt").write_bytes(
            (tmp_path / "elsewhere" / "data" / "ILSVRC2010_validation_ground_truth.txt").read_bytes())
        prepare(str(source), str(tmp_path / "out.h5"), size=SIZE)
    for split in "val", "test":  # names instead of numbers need no devkit
        (source / f"{split}_ground_truth.txt").write_text("\n".join(wnid for _, _, wnid in parts[split]))
    (source / "ILSVRC2010_test_ground_truth.txt").unlink()
    with Dataset(prepare(str(source), str(tmp_path / "out.h5"), size=SIZE).out) as data:
        assert data.classes == sorted(ilsvrc.IDS)
        assert [data.classes[k] for k in data.splits["val"].labels] == [wnid for _, _, wnid in parts["val"]]


def test_patches_and_a_gzipped_image(tmp_path):
    parts = ilsvrc.write(tmp_path / "s", 2010)
    patched = {"train": 3, "val": 4, "test": 0}
    files = {}
    for split, k in patched.items():
        name, _, wnid = parts[split][k]
        data = ilsvrc.photograph(7000 + k)
        parts[split][k] = name, data, wnid
        files[f"patch_images/{split}/{name}"] = gzip.compress(data) if split == "val" else data
    (tmp_path / "s" / "patch_images.tar").write_bytes(ilsvrc.tar(files))
    check(prepare(str(tmp_path / "s"), str(tmp_path / "out.h5"), size=SIZE).out, parts)


def member(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_a_malicious_tar_writes_nothing_and_reads_nothing(tmp_path):
    parts = ilsvrc.write(tmp_path / "s")
    secret = tmp_path / "secret.JPEG"
    secret.write_bytes(ilsvrc.photograph(1))
    path = tmp_path / "s" / "ILSVRC2012_img_train.tar"
    evil = {str(tmp_path / "absolute.JPEG"): secret.read_bytes(), "../../climbs.JPEG": secret.read_bytes(),
            member("link.JPEG", tarfile.SYMTYPE, str(secret)): b"", member("hard.JPEG", tarfile.LNKTYPE, str(secret)): b"",
            member("device.JPEG", tarfile.CHRTYPE): b"", member("pipe.JPEG", tarfile.FIFOTYPE): b""}
    good = {f"{wnid}.tar": {name: data for name, data, owner in parts["train"] if owner == wnid} for wnid in ilsvrc.IDS}
    path.write_bytes(ilsvrc.tar({name: ilsvrc.tar(evil | files) for name, files in good.items()}
                                | {"../n99999999.tar": ilsvrc.tar(evil)}))
    before = snapshot(tmp_path)
    done = prepare(str(tmp_path / "s"), str(tmp_path / "out.h5"), size=SIZE)
    check(done.out, parts)
    after = snapshot(tmp_path)
    del after[tmp_path / "out.h5"], after[tmp_path / "out.skipped.jsonl"]
    assert after == before
    assert done.left_out == {"is no plain file in a tar": 16, "has a name that leads out of its tar": 9, "has no label": 6}


def test_archives_that_are_not_in_order(tmp_path):
    def refuse(words, source=None):
        with pytest.raises(DataError, match=words) as caught:
            prepare(str(source or tmp_path / "s"), str(tmp_path / "out.h5"), size=SIZE)
        assert "\n" not in str(caught.value) and not (tmp_path / "out.h5").exists()

    ilsvrc.write(tmp_path / "s")
    train, val, devkit = (tmp_path / "s" / f"ILSVRC2012_{name}" for name in
                          ("img_train.tar", "img_val.tar", "devkit_t12.tar.gz"))
    refuse("give the folder that holds the archives", train)
    whole = train.read_bytes()
    for cut in (0, 100, 700, 5000, len(whole) // 2 + 1, 12 * 512 + 7):
        train.write_bytes(whole[:cut])
        refuse("img_train.tar.*(download it again|not a whole, uncompressed tar)|at least two classes|no class n0")
    with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
        third = tar.getmembers()[2]
    train.write_bytes(whole[:third.offset] + b"\x07" * 512 + whole[third.offset + 512:])
    refuse(f"is damaged at byte {third.offset}; download it again")
    train.write_bytes(whole[:third.offset_data] + b"\x07" * 512 + whole[third.offset_data + 512:])
    refuse(f"img_train.tar, {third.name}: is not a whole, uncompressed tar")
    train.write_bytes(gzip.compress(whole))
    refuse("is not a whole, uncompressed tar")
    with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
        files = {name: tar.extractfile(name).read() for name in tar.getnames()}
    train.write_bytes(ilsvrc.tar({name: data for name, data in files.items() if "n02012849" not in name}))
    refuse("has no class n02012849, unlike .*devkit")
    train.write_bytes(ilsvrc.tar(files | {"n02012848.tar": files["n02012849.tar"]}))
    refuse("has a class n02012848, unlike .*devkit")
    train.write_bytes(ilsvrc.tar(files | {"n02012849.tar": ilsvrc.tar({})}))
    refuse("class n02012849 holds no images")
    train.write_bytes(whole)
    truth = {"d/meta.mat": ilsvrc.meta_mat(2012), "d/ILSVRC2012_validation_ground_truth.txt": b"1\n" * 8}
    for name, data, words in (("d/meta.mat", b"MATLAB 5.0", "meta.mat: is not the synsets"),
                              ("d/meta.mat", None, "no meta.mat"),
                              ("d/ILSVRC2012_validation_ground_truth.txt", b"1\n" * 7, "has 7 lines for 9 images of 'val'"),
                              ("d/ILSVRC2012_validation_ground_truth.txt", b"1\n" * 8 + b"5\n", "line 9, '5', names no class"),
                              ("d/ILSVRC2012_validation_ground_truth.txt", None, "put the development kit or a")):
        changed = {key: value for key, value in (truth | {name: data}).items() if value is not None}
        devkit.write_bytes(ilsvrc.tar(changed, "w:gz"))
        refuse(words)
    devkit.write_bytes(devkit.read_bytes()[:-40])
    refuse("devkit_t12.tar.gz: cannot be read")
    devkit.unlink()
    refuse("'val' has 9 images without classes; put the development kit")
    val.unlink()
    (tmp_path / "s" / "ILSVRC2010_images_val.tar").write_bytes(b"")
    refuse("archives of two years")


def test_fuzzed_archives(tmp_path):
    """Headers with random bytes, sizes and ends: a data set or one line of why not."""
    ilsvrc.write(tmp_path / "s")
    rng, refused = np.random.default_rng(0), 0
    for name in ("img_train.tar", "devkit_t12.tar.gz"):
        path = tmp_path / "s" / f"ILSVRC2012_{name}"
        whole = path.read_bytes()
        for _ in range(30):
            data = bytearray(whole)
            block = 512 * rng.integers(len(data) // 512)
            for place in block + rng.integers(512, size=4):
                data[place] = rng.integers(256)
            path.write_bytes(data[:rng.integers(len(data))] if rng.random() < 0.2 else data)
            try:
                prepare(str(tmp_path / "s"), str(tmp_path / "out.h5"), size=8)
            except DataError as error:
                refused += 1
                assert "\n" not in str(error)
            shutil.rmtree(tmp_path / "out.h5.part", ignore_errors=True)
        path.write_bytes(whole)
    assert refused > 20


def test_without_scipy(tmp_path, monkeypatch):
    ilsvrc.write(tmp_path / "s")
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(DataError, match="meta.mat: is read by SciPy, which is not installed: pip install scipy"):
        prepare(str(tmp_path / "s"), str(tmp_path / "out.h5"), size=SIZE)

"""Odd and damaged files (corpus.py): each is converted or refused with its reason; none crashes, hangs or fills the memory."""
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data.errors import DataError
from data.sources.encoded import as_text
from data.sources.image import load_image
from data.store.dataset import Dataset
from tests import corpus
from tests.helpers import ROOT, run


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What became of every file, in a process of its own: kinds by path, lines by path, the last line, stderr."""
    root = tmp_path_factory.mktemp("corpus")
    kinds = corpus.write(root)
    done = subprocess.run([sys.executable, "-m", "tests.corpus", str(root)], cwd=ROOT, capture_output=True, text=True,
                          timeout=300)
    assert done.returncode == 0, f"{done.stdout[-300:]}\n{done.stderr}"
    *lines, last = (json.loads(line) for line in done.stdout.splitlines())
    return kinds, {line["path"]: line for line in lines}, last, done.stderr


def problem(kind, line):
    """What is wrong with the line on a file of this kind; "" if nothing."""
    colours = None if isinstance(kind.expect, str) else np.array(kind.expect)
    wanted, error = kind.expect if colours is None else corpus.CONVERTED, line.get("error")
    if (corpus.CONVERTED if error is None else corpus.REFUSED) != wanted != corpus.EITHER:
        return error or "converted"
    if error is not None:
        return "" if error.isprintable() and len(error.rpartition(": ")[2]) > 5 else f"no reason in one line: {error!r}"
    if line["shape"] != [3, corpus.SIZE, corpus.SIZE] or line["dtype"] != "uint8":
        return f"{line['dtype']} {line['shape']}"
    close = colours is None or np.abs(line["quadrants"] - colours).max() <= 6
    return "" if close else f"colours {line['quadrants']}, not {colours.tolist()}"


def test_every_file_is_converted_or_refused(results):
    kinds, lines, _, _ = results
    assert len(kinds) == len(corpus.kinds()) >= 200
    assert lines.keys() == kinds.keys()
    wrong = [f"{path!r}: {words}" for path, line in lines.items() if (words := problem(kinds[path], line))]
    assert not wrong, "\n".join(wrong)


def test_the_terminal_stays_clean(results):
    libtiff = re.compile(r"[\w.]+: ")  # it speaks from C, past Python: "LZWDecode: Not enough data …"
    assert [line for line in results[3].splitlines() if not libtiff.match(line)] == []


def test_time_and_memory_are_bounded(results):
    _, lines, last, _ = results
    slowest = max(lines.values(), key=lambda line: line["seconds"])
    assert slowest["seconds"] < 20, slowest
    assert last["megabytes"] < 700


def test_files_that_are_not_files(tmp_path):
    """A pipe would make open() wait for ever, and a device may never end."""
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "device.jpg").symlink_to("/dev/zero")
    (tmp_path / "dangling.jpg").symlink_to("nowhere")
    for name, words in (("pipe", "is not a file"), ("folder", "is not a file"), ("device", "is not a file"),
                        ("dangling", "is not a file"), ("missing", "no such file")):
        with pytest.raises(DataError, match=rf"{name}\.jpg: {words}"):
            load_image(tmp_path / f"{name}.jpg", 8)


@pytest.mark.filterwarnings("ignore::UserWarning")  # pytest has its own filters in place of those that image.py sets
def test_members_of_archives_are_read_alike():
    for kind in corpus.kinds()[:60]:
        try:
            image = load_image(io.BytesIO(kind.data), corpus.SIZE, name=f"a.tar: {kind.name}")
        except DataError as error:
            assert str(error).startswith(f"a.tar: {kind.name}: ")
            assert kind.expect in (corpus.REFUSED, corpus.EITHER)
        else:
            assert image.shape == (3, corpus.SIZE, corpus.SIZE)


def test_grey_sets_take_any_picture():
    for kind in corpus.kinds():
        if kind.name in ("plain.jpg", "cmyk.jpg", "16 bits.tif", "alpha.png"):
            image = load_image(io.BytesIO(kind.data), corpus.SIZE, channels=1)
            assert image.shape == (1, corpus.SIZE, corpus.SIZE)
            assert np.abs(corpus.quadrants(image.repeat(3, axis=0)) - corpus.grey(kind.expect)).max() <= 6


def test_no_program_is_started(tmp_path, monkeypatch):
    """Pillow has Ghostscript run what is in an EPS file, whatever that file is called."""
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    data = corpus.save(corpus.picture(), "EPS")
    with pytest.raises(DataError, match="is not an image that can be read"):
        load_image(io.BytesIO(data), 8, name="a.jpg")
    assert not (tmp_path / "started").exists()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_prepare_takes_them_all(tmp_path):
    """Each file is in the data set or listed with its reason; nothing else is written."""
    kinds, out = corpus.write(tmp_path / "photos"), tmp_path / "out" / "set.h5"
    out.parent.mkdir()
    done = run("prepare", tmp_path / "photos", out, "--size", corpus.SIZE, cwd=tmp_path)
    assert done.returncode == 1, done.stderr  # a third of them is more than may be left out
    assert {str(path) for path in tmp_path.rglob("*") if path.is_file()} - kinds.keys() == {
        str(out), str(out.with_suffix(".skipped.jsonl"))}
    assert all(Path(path).read_bytes() == kind.data for path, kind in kinds.items())
    listed = [json.loads(line) for line in out.with_suffix(".skipped.jsonl").read_text().splitlines()]
    with Dataset(out) as dataset:
        found = {(dataset.classes[label], image.tobytes()) for split in dataset.splits.values()
                 for label, image in zip(split.labels, split.read(range(len(split))), strict=True)}
        assert sum(len(split) for split in dataset.splits.values()) + len(listed) == len(kinds)
    assert f"{len(listed)} files left out" in done.stdout.splitlines()[-1]
    for path in map(Path, kinds):
        lines = [line for line in listed if line["image"] == f"{path.parent.name}/{as_text(path.name)}"]
        try:
            image = load_image(path, corpus.SIZE)
        except DataError:
            assert len(lines) == 1 and len(lines[0]) > 1, path
        else:
            assert not lines and (path.parent.name, image.tobytes()) in found, path

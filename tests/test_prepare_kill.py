"""`prepare` killed (SIGKILL) at random moments and begun again makes the same file, byte for byte, as one left alone.

`python -m tests.test_prepare_kill 20` kills twenty times, a set of pixels and one of JPEGs.
"""
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from data import prepare
from data.errors import DataError
from data.sources.recognise import list_source
from data.store import part
from data.store.begun import as_begun
from data.store.dataset import Dataset
from tests import ilsvrc
from tests.helpers import ROOT

# The command with states as often as the disk allows, and small pieces, so that a kill finds it in the middle of something.
PROGRAM = """
import sys
from data.store import part
from data import prepare
part.SECONDS, prepare.PIECE = 0, 2
import run
print("ready", flush=True)
sys.exit(run.main(sys.argv[1:]))
"""


def command(*words):
    return subprocess.Popen([sys.executable, "-c", PROGRAM, *map(str, words)], cwd=ROOT, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def kill_and_go_on(folder, kills, store, seed=0):
    """Kill `prepare` `kills` times, begin it again each time, and let it end. Returns how many images it found each time."""
    source = folder / "photos"
    for k in range(300):
        path = source / "train val".split()[k % 6 == 0] / "ab"[k % 2] / f"{k:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(ilsvrc.photograph(k) if k % 50 else b"not an image")
    options = "--size", "96", "--store", store, "--workers", "2", "--max-skipped", "5%"
    whole, out = folder / "whole" / "set.h5", folder / "set.h5"
    whole.parent.mkdir()
    process = command("prepare", source, whole, *options)
    started = [time.monotonic() for line in process.stdout if line == "ready\n"][0]
    assert process.wait() == 0
    seconds = time.monotonic() - started
    chance, found = random.Random(seed), []
    while len(found) < kills:
        process = command("prepare", source, out, *options)
        assert process.stdout.readline() == "ready\n"
        time.sleep(chance.uniform(0, 0.7 * seconds))  # a file is finished now and then: then a new one is begun
        process.kill()
        text = process.stdout.read()
        assert process.wait() in (0, -9), text
        found.append(text.partition(": going on after ")[2].partition(" images")[0] or "0")
        if out.exists():
            assert out.read_bytes() == whole.read_bytes()  # never a file that is not complete
            if not (folder / "set.h5.part").exists():
                out.unlink()
    process = command("prepare", source, out, *options)
    text = process.stdout.read()
    assert process.wait() == 0, text
    assert out.read_bytes() == whole.read_bytes()
    assert (folder / "set.skipped.jsonl").read_bytes() == (whole.parent / "set.skipped.jsonl").read_bytes()
    assert sorted(path.name for path in folder.iterdir()) == ["photos", "set.h5", "set.skipped.jsonl", "whole"]
    return found


@pytest.mark.parametrize("store", ["raw", "jpeg"])
def test_killed_at_random_moments(tmp_path, store):
    assert len(kill_and_go_on(tmp_path, 4, store)) == 4


class Killed(BaseException):
    """In place of a SIGKILL, at a chosen moment."""


@pytest.mark.parametrize("store", ["raw", "jpeg"])
@pytest.mark.parametrize("where", ["os.pwrite", "os.fsync", "np.savez", "publish", "write_statistics", "shutil.rmtree"])
def test_killed_at_chosen_moments(tmp_path, monkeypatch, where, store):
    """Each call that changes the disk is once the last one."""
    monkeypatch.setattr(part, "SECONDS", 0)
    monkeypatch.setattr(prepare, "PIECE", 4)
    source, out = tmp_path / "s", tmp_path / "set.h5"
    for k in range(24):
        path = source / "ab"[k % 2] / f"{k}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(ilsvrc.photograph(k) if k != 7 else b"")
    options = dict(size=12, val_fraction=0.25, store=store, workers=2)
    prepare.prepare(str(source), str(tmp_path / "whole.h5"), **options)
    owner, _, name = where.rpartition(".")
    target = getattr(part, owner) if owner else part
    true, stop = getattr(target, name), 0

    def dying(*arguments, **names):
        calls[0] += 1
        if calls[0] > stop:
            raise Killed
        return true(*arguments, **names)

    while True:
        calls = [0]
        with monkeypatch.context() as patch:
            patch.setattr(target, name, dying)
            try:
                prepare.prepare(str(source), str(out), **options)
                break
            except Killed:
                assert not out.exists() or out.read_bytes() == (tmp_path / "whole.h5").read_bytes()
        stop += 1
    assert stop and out.read_bytes() == (tmp_path / "whole.h5").read_bytes()
    assert not (tmp_path / "set.h5.part").exists()


def test_what_is_not_gone_on_with(tmp_path, monkeypatch):
    source, out = tmp_path / "s", str(tmp_path / "set.h5")
    for k in range(8):
        path = source / "ab"[k % 2] / f"{k}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(ilsvrc.photograph(k))

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(part, "SECONDS", 0)
    monkeypatch.setattr(prepare, "PIECE", 1)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(part, "write_header", interrupted)
        prepare.prepare(str(source), out, size=12)
    for options, words in ((dict(size=13), r"set.h5.part: was begun with another size \(12, now 13\)"),
                           (dict(size=12, store="jpeg"), "was begun with another store"),
                           (dict(size=12, seed=1), "was begun with another source")):
        with pytest.raises(DataError, match=f"{words}.*or delete the folder to start anew"):
            prepare.prepare(str(source), out, **options)
    (source / "a" / "0.jpg").write_bytes(ilsvrc.photograph(99))
    with pytest.raises(DataError, match="was begun with another set of images"):
        prepare.prepare(str(source), out, size=12)
    state = tmp_path / "set.h5.part" / "state.npz"
    state.write_bytes(state.read_bytes()[:200])
    with pytest.raises(DataError, match="state.npz: cannot be read.*delete .* to start anew"):
        prepare.prepare(str(source), out, size=12)
    state.unlink()
    with part.Part(out, {}, "raw", (3, 12, 12)), pytest.raises(DataError, match="another process is writing it"):
        prepare.prepare(str(source), out, size=12)
    assert not os.path.exists(out)
    assert prepare.prepare(str(source), out, size=12)[1:3] == (8, 0)


def test_images_that_vanish_between_two_runs(tmp_path, monkeypatch):
    """It goes on: those that are in the file stay, the others are listed. Those that changed or were added it refuses."""
    source, out = tmp_path / "s", tmp_path / "set.h5"
    for k in range(40):
        path = source / "ab"[k % 2] / f"{k:02d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(ilsvrc.photograph(k))
    monkeypatch.setattr(part, "SECONDS", 0)
    monkeypatch.setattr(prepare, "PIECE", 2)
    true, calls = part.Part.append, []

    def dying(self, *arguments):
        calls.append(1)
        if len(calls) > 10:
            raise Killed
        true(self, *arguments)
        self._wait()  # so that a state counts these images

    options = dict(size=12, val_fraction=0.25, workers=1)
    whole = prepare.prepare(str(source), str(tmp_path / "whole.h5"), **options).out
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(part.Part, "append", dying)
        prepare.prepare(str(source), str(out), **options)
    listing = tmp_path / "set.h5.part" / "listing.npz"
    with np.load(listing) as arrays:
        names = [arrays[f"{split}/names"].tobytes().decode().split("\0") for split in ("train", "val")]
    assert list(map(len, names)) == [30, 10]
    gone = names[0][3], names[0][29], names[1][4]  # the first of them is in the file
    for name in gone:
        (source / name).rename(tmp_path / f"old {Path(name).name}")
    path = source / names[0][5]
    before, stamp = path.read_bytes(), path.stat().st_mtime_ns
    for change in (lambda: (source / "a" / "new.jpg").write_bytes(before), lambda: path.write_bytes(ilsvrc.photograph(99))):
        change()
        with pytest.raises(DataError, match="was begun with another set of images.* or delete the folder to start anew"):
            prepare.prepare(str(source), str(out), **options)
        (source / "a" / "new.jpg").unlink(missing_ok=True)
    path.write_bytes(before)
    os.utime(path, ns=(stamp, stamp))
    now = list_source(source, 0.25)
    assert [len(images) for images, _ in as_begun(listing.parent, now, "").parts.values()] == [30, 10]
    for other in now._replace(how="of another seed"), now._replace(classes=["a", "c"]):
        assert as_begun(listing.parent, other, "") is other
    whole_listing = listing.read_bytes()
    listing.write_bytes(whole_listing[:300])
    with pytest.raises(DataError, match="listing.npz: cannot be read.*delete .*set.h5.part to start anew"):
        prepare.prepare(str(source), str(out), **options)
    listing.write_bytes(whole_listing)
    done = prepare.prepare(str(source), str(out), **options)
    assert done[1:] == (38, 2, {"has vanished since it was listed": 2})
    listed = [json.loads(line) for line in (tmp_path / "set.skipped.jsonl").read_text().splitlines()]
    assert [(row["split"], row["index"], row["image"]) for row in listed] == [("train", 29, gone[1]), ("val", 4, gone[2])]
    with Dataset(whole) as before, Dataset(str(out)) as data:
        for split, missing in (("train", 29), ("val", 4)):
            count = len(before.splits[split])
            np.testing.assert_array_equal(data.read(split, range(count - 1)), np.delete(before.read(split, range(count)), missing, 0))
            np.testing.assert_array_equal(data.splits[split].labels, np.delete(before.splits[split].labels, missing))


def test_a_folder_that_another_process_uses_already(tmp_path, monkeypatch):
    for k in range(8):
        path = tmp_path / "s" / "ab"[k % 2] / f"{k}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(ilsvrc.photograph(k))

    def rmtree(folder):
        raise error

    monkeypatch.setattr(part.shutil, "rmtree", rmtree)
    error = OSError(39, "Directory not empty")
    assert prepare.prepare(str(tmp_path / "s"), str(tmp_path / "set.h5"), size=12).images == 8
    error = PermissionError(13, "Permission denied")
    with pytest.raises(DataError, match="other.h5.part: cannot be deleted: Permission denied; delete it by hand"):
        prepare.prepare(str(tmp_path / "s"), str(tmp_path / "other.h5"), size=12)


def test_a_full_disk(tmp_path, monkeypatch):
    source, out = tmp_path / "s", str(tmp_path / "set.h5")
    for k in range(8):
        path = source / "ab"[k % 2] / f"{k}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(ilsvrc.photograph(k))

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(DataError, match="set.h5: needs .* GB, .* has 0.0 GB free"):
        patch.setattr(prepare.shutil, "disk_usage", lambda folder: type("", (), {"free": 999}))
        prepare.prepare(str(source), out, size=12)
    for name in "os.pwrite", "os.fsync":
        with monkeypatch.context() as patch, pytest.raises(DataError, match="No space left on device; the same command"):
            patch.setattr(f"data.store.part.{name}", full)
            prepare.prepare(str(source), out, size=12)
    assert prepare.prepare(str(source), out, size=12)[1:3] == (8, 0)


if __name__ == "__main__":
    for kind in "raw", "jpeg":
        with tempfile.TemporaryDirectory() as folder:
            print(kind, "killed after", *kill_and_go_on(Path(folder), int(sys.argv[1]), kind))
    print(f"2 × {sys.argv[1]} kills; the files are the same as those of undisturbed runs, byte for byte")

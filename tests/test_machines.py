"""Paths, streams and machines as they may be: one line, the right exit code, nothing of others' touched."""
import json
import os
import resource
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from PIL import Image

import run as command_line
from cpnet import figures, kinds, machine, scores
from cpnet.errors import CpnetError
from cpnet.files import check_output, owned, write_atomically
from cpnet.studies import codes
from data.errors import DataError
from data.store import hdf5
from tests.helpers import ROOT, small_set


def program(*words, cwd=ROOT, limit=None, **options):
    """The program in a process of its own, with other limits than usual."""
    before = (lambda: resource.setrlimit(*limit)) if limit else None
    return subprocess.run([sys.executable, str(ROOT / "run.py"), *map(str, words)], cwd=cwd, timeout=600, preexec_fn=before,
                          **{"capture_output": True, "text": True, **options})


# Files


def test_an_output_replaces_regular_files_only(tmp_path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "dangling").symlink_to("new")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    for name, message in ("pipe", "it is no regular file"), (".", "it is a folder"), ("loop", "it is no regular file"), \
            ("none/x", "there is no folder"), ("/dev/null", "it is no regular file"), ("a\0b", "could not be written"):
        with pytest.raises(CpnetError, match=message):
            write_atomically(os.path.join(tmp_path, name), "new")
    for name in "link", "dangling":  # what a link names is written, and the link stays
        write_atomically(tmp_path / name, "new")
        assert (tmp_path / name).is_symlink() and (tmp_path / name).read_text() == "new"
    assert (tmp_path / "file").read_text() == "new" and check_output(tmp_path / "link") == str(tmp_path / "file")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dangling", "file", "link", "loop", "new", "pipe"]


def test_an_input_is_a_regular_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, message in ("pipe", "pipe: is no regular file; name a checkpoint"), (".", "is a folder"), \
            ("none", "none: there is no such checkpoint"), ("/dev/zero", "/dev/zero: is no regular file"):
        with pytest.raises(DataError, match=message):
            hdf5.check_input(os.path.join(tmp_path, name), "checkpoint", DataError)


def test_the_lock_of_hdf5_is_explained(tmp_path, monkeypatch):
    (tmp_path / "a.h5").write_text("")

    def locked(*arguments):
        raise BlockingIOError("unable to lock file, errno = 11")

    monkeypatch.setattr(hdf5.h5py, "File", locked)
    with pytest.raises(CpnetError, match="HDF5_USE_FILE_LOCKING=FALSE"), hdf5.reading(tmp_path / "a.h5", "file", CpnetError):
        pass


def test_an_output_has_one_owner(tmp_path):
    code = "import sys\nfrom cpnet.files import owned\nwith owned(sys.argv[1]): print('mine', flush=True); sys.stdin.read()"
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "x")], cwd=ROOT, stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "mine\n"
    with pytest.raises(CpnetError, match="x: another process is writing it"), owned(tmp_path / "x"):
        pass
    other.kill()  # the lock ends with it
    other.communicate()
    with owned(tmp_path / "x"):
        assert (tmp_path / "x.lock").exists()
    assert not (tmp_path / "x.lock").exists()


@pytest.mark.parametrize("words, message", [
    (["--data", ""], "argument --data: '' is not the name of a file"),
    (["--name", "a/b"], "argument --name: 'a/b' is not a name"),
    (["--batch", "1000000000000"], f"a whole number above 0, at most {kinds.MOST}"),
    (["--epochs", "nan"], "'nan' is not a whole number"),
    (["--lr=--"], "argument --lr: '--' is no value for it"),
])
def test_values_that_cannot_be(capsys, words, message):
    with pytest.raises(SystemExit) as ended:
        command_line.main(["train", *words])
    error = capsys.readouterr().err
    assert ended.value.code == 2 and message in error and error.count("\n") == 1


def test_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    assert kinds.filename("~/my.h5") == "/home/ada/my.h5"


# Streams


def test_an_ascii_terminal():
    done = program("summary", "--net", "mini", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0 and "images of 1?24?24" in done.stdout


def test_a_full_or_closed_standard_output():
    with open("/dev/full", "w") as full:
        done = program("summary", stdout=full, stderr=subprocess.PIPE, capture_output=False)
        assert done.returncode == 1 and done.stderr == \
            "error: standard output could not be written (No space left on device)\n"
        assert program("nonsense", stderr=full, stdout=full, capture_output=False).returncode == 2
    done = subprocess.run(["sh", "-c", f"{sys.executable} run.py summary >&-; echo $?"], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_a_reader_that_goes_away():
    done = subprocess.run(["sh", "-c", f"{sys.executable} run.py summary --net alexnet | head -n 1"], cwd=ROOT,
                          capture_output=True, text=True)
    assert done.stderr == "" and done.stdout.startswith("alexnet")


def test_an_inherited_backend_for_pictures(tmp_path):
    done = program("summary", "--picture", tmp_path / "n.png", env={**os.environ, "MPLBACKEND": "module://not.installed"})
    assert done.returncode == 0 and (tmp_path / "n.png").read_bytes()[:4] == b"\x89PNG"


# Machines


def test_cores_of_a_container(tmp_path):
    root = tmp_path / "cgroup"
    (root / "a" / "b").mkdir(parents=True)
    (tmp_path / "self").write_text("0::/a/b\n")
    assert machine._quotas(root, tmp_path / "self") == []
    (root / "a" / "b" / "cpu.max").write_text("max 100000\n")
    (root / "a" / "cpu.max").write_text("250000 100000\n")
    assert machine._quotas(root, tmp_path / "self") == [3]
    (root / "cpu" / "c").mkdir(parents=True)
    (root / "cpu" / "c" / "cpu.cfs_quota_us").write_text("100000\n")
    (root / "cpu" / "c" / "cpu.cfs_period_us").write_text("100000\n")
    (tmp_path / "self").write_text("4:cpu,cpuacct:/c\n3:memory:/c\n")
    assert machine._quotas(root, tmp_path / "self") == [1]
    assert machine._quotas(root, tmp_path / "none") == [] and machine.cores() >= 1


def test_without_sched_getaffinity(monkeypatch):
    """As on macOS."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(machine, "_quotas", lambda: [])
    assert machine.cores() == os.cpu_count()


def test_too_little_memory(tmp_path):
    """2 GB of addresses hold the program, and not a batch of 9,000 images; it neither hangs nor shows a traceback."""
    done = program("train", "--batch", 9000, "--net", "mini", "--epochs", 1, "--threads", 1, "--devices", "cpu", "--runs",
                   tmp_path / "runs", limit=(resource.RLIMIT_AS, (2 << 30, 2 << 30)), stdin=subprocess.DEVNULL)
    error = done.stderr.split("\r")[-1].strip()
    assert done.returncode == 1 and error.count("error: ") == 1 and "out of memory" in error and "Traceback" not in done.stderr
    assert "; a batch of " in error and " instead of 9000 may fit" in error


def test_a_limit_on_the_size_of_files(tmp_path):
    """HDF5 would end the program by a signal."""
    small_set(tmp_path / "s.h5", train=64, val=40)
    program("train", *"--data s.h5 --net mini --epochs 0 --batch 8 --devices cpu --name a".split(), cwd=tmp_path)
    limit = resource.RLIMIT_FSIZE, (200_000, 200_000)
    done = program("synthetic", "n.h5", "--images", 20, cwd=tmp_path, limit=limit)
    assert done.returncode == 1 and "n.h5: 'train' needs 3.9 MB, and a file may have 0.2 MB here (ulimit -f)" in done.stderr
    done = program("features", "runs/a/checkpoint-last.h5", "s.h5", "f.h5", cwd=tmp_path, limit=limit)
    assert done.returncode == 1 and "f.h5: could not be written (File too large)" in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "f.h5").exists()


def test_a_confusion_table_of_many_classes_takes_little_memory(tmp_path):
    classes, rng = 20_000, np.random.default_rng(0)
    found = scores.Confusion(classes, *(rng.integers(0, classes, 50_000) for _ in range(2)), np.ones(50_000, int))
    tracemalloc.start()
    figures.draw_confusion(found, [""] * classes, tmp_path / "c.png")
    worst = scores.class_errors(found)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 300e6 and found.table(1000).sum() == 50_000 and len(worst) > 15_000


# Partial success


def test_good_and_bad_images(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small_set("s.h5", train=16, val=8)
    assert command_line.main("train --data s.h5 --net four-layer --epochs 0 --batch 8 --devices cpu --name a".split()) == 0
    for name in "one.png", "two.png":
        Image.new("L", (20, 20), 100).save(name)
    (tmp_path / "bad.png").write_text("no image")
    capsys.readouterr()
    words = ["predict", "runs/a/checkpoint-last.h5", "one.png", "bad.png", "two.png"]
    assert command_line.main(words) == 1
    said = capsys.readouterr()
    assert [line for line in said.out.splitlines() if ".png" in line] == ["one.png", "two.png"]
    assert said.err.count("error: ") == 1 and "bad.png" in said.err
    assert command_line.main([*words, "--json"]) == 1
    rows = json.loads(capsys.readouterr().out)
    assert [list(row) for row in rows] == [["image", "predictions"], ["image", "error"], ["image", "predictions"]]


def test_codes_that_diverge_in_the_last_step(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small_set("s.h5", train=16, val=8)
    monkeypatch.setattr(codes.Coder, "encode", lambda self, rows, name: (np.zeros((len(rows), 1), np.uint8), float("nan")))
    assert command_line.main("codes s.h5 o.h5 --bits 8 --epochs 1 --devices cpu".split()) == 1
    assert "try a smaller --rate" in capsys.readouterr().err and not (tmp_path / "o.h5").exists()

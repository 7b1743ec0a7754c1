"""Bad input of every kind, to every command: damaged files, absurd options, inputs and outputs that are no files.

Each case runs in a process of its own (forked, so that it takes milliseconds) and must end: with exit code 0, or
with another one and exactly one line on stderr, "error: …". Whatever was there before must be as it was.

    python -m tests.fuzz 4000        # so many cases; prints what each kind came to
"""
import collections
import contextlib
import hashlib
import io
import json
import os
import random
import shutil
import signal
import stat
import sys
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

import run
from cpnet.options import Parser
from tests import helpers

LIMIT = 60  # seconds after which a case counts as hanging
# Each command with good arguments. Outputs begin with o.
COMMANDS = {
    "train": "--data d.h5 --net four-layer --epochs 0 --batch 8 --devices cpu --threads 1 --runs runs --name o",
    "evaluate": "c.h5 --data d.h5 --devices cpu --threads 1",
    "predict": "c.h5 i.png --devices cpu --threads 1",
    "prepare": "photos o.h5 --size 16 --val 2 --threads 1",
    "report": "runs/r o.html --devices cpu --threads 1 --sample 8",
    "check": "d.h5 --sheet o.png --threads 1",
    "subset": "d.h5 o.h5 --classes 0-1",
    "synthetic": "o.h5 --images 4 --classes 2 --size 16",
    "export": "c.h5 o.npz",
    "import": "e.npz o.h5",
    "filters": "c.h5 o.png",
    "features": "c.h5 d.h5 o.h5 --devices cpu --threads 1",
    "codes": "f.h5 o.h5 --bits 8 --hidden 4 --epochs 1 --devices cpu --threads 1",
    "neighbours": "f.h5 d.h5 --codes k.h5 --queries val --devices cpu --threads 1",
    "summary": "--net mini",
}
RESUME = "train --resume r --runs runs --data d.h5 --threads 1"
# Which commands read a file, by its name.
READERS = {
    "c.h5": ["evaluate", "predict", "export", "filters", "features"], "d.h5": ["check", "evaluate", "subset", "train"],
    "j.h5": ["check"], "f.h5": ["codes", "neighbours"], "k.h5": ["neighbours"], "p.h5": ["evaluate"],
    "e.npz": ["import"], "i.png": ["predict"], "runs/r/checkpoint-last.h5": [RESUME],
    "runs/r/checkpoint-best.h5": ["report"], "runs/r/config.json": ["report", RESUME],
    "runs/r/log.jsonl": ["report"], "runs/r/filters/001.npy": ["report", "filters --film o.gif"],
    "o.h5.progress": ["features"], "o.h5.partial": ["features"], "o.h5.checkpoint": ["codes"],
}
ABSURD = ["", "-1", "0", "nan", "inf", "-inf", "1e400", "10000000000000000000000", "x" * 3000, "ü☃", ",", "=", "a=b=c", "..",
          "/", "~", "[]", "{}", "1,2", "0x10", "--", "-", " ", "%s", "1.5", "no/such/folder/x"]
LONG = {"--epochs", "--images", "--size", "--count", "--hidden", "--sample", "--bits"}  # a large number is honest work


@dataclass
class Case:
    """A command line, in a folder that `prepare(folder)` has changed first."""
    kind: str
    words: list
    prepare: object = lambda folder: None


def fixture(folder):
    """Good files of each kind, small: a net of 80,000 weights, images of 16 pixels."""
    small = dict(train=16, val=8, size=16)
    helpers.small_set(folder / "d.h5", **small)
    helpers.as_jpegs(folder / "d.h5", folder / "j.h5")
    (folder / "photos").mkdir()
    rng = np.random.default_rng(0)
    for name in "a", "b":
        (folder / "photos" / name).mkdir()
        for k in range(4):
            Image.fromarray(rng.integers(0, 255, (20, 24, 3), dtype=np.uint8)).save(folder / "photos" / name / f"{k}.png")
    Image.fromarray(rng.integers(0, 255, (20, 20), dtype=np.uint8)).save(folder / "i.png")
    good = ["train " + COMMANDS["train"].replace("--epochs 0", "--epochs 2").replace("--name o", "--name r")]
    good += ["features runs/r/checkpoint-last.h5 d.h5 f.h5 --devices cpu", "codes f.h5 k.h5 --bits 8 --epochs 1 --devices cpu",
             "evaluate runs/r/checkpoint-last.h5 --save-probabilities p.h5 --devices cpu",
             "export runs/r/checkpoint-last.h5 e.npz"]
    for line in good:
        helpers.run(*line.split(), cwd=folder, check=0)
    shutil.copy(folder / "runs/r/checkpoint-last.h5", folder / "c.h5")
    shutil.copy(folder / "f.h5", folder / "o.h5.partial")
    (folder / "o.h5.progress").write_text(json.dumps({"token": "a", "task": {"checkpoint": "c.h5"}, "done": {"train": 8}}))
    shutil.copy(folder / "c.h5", folder / "o.h5.checkpoint")


def line_of(reader, file):
    """The words of a command of READERS that reads this file."""
    if reader not in COMMANDS:
        return reader.split() if reader != "filters --film o.gif" else "filters runs/r/checkpoint-last.h5 o.png --film o.gif".split()
    words = [reader, *COMMANDS[reader].split()]
    if file == "j.h5":
        return [file if word == "d.h5" else word for word in words]
    return [file if word == "c.h5" else word for word in words] if file == "p.h5" else words


# Damage


def damage_bytes(data, rng):
    """The bytes of a file with some of them changed, lost or repeated."""
    data = bytearray(data)
    where, length = rng.randrange(max(1, len(data))), rng.choice([1, 8, 64, 4096])
    how = rng.choice(["flip", "flip", "flip", "flip", "cut", "zero", "noise", "repeat", "lose", "empty"])
    if how == "flip":
        for _ in range(rng.choice([1, 1, 2, 16])):
            if data:
                data[rng.randrange(min(len(data), rng.choice([4096, 1 << 30])))] ^= 1 << rng.randrange(8)
    elif how == "cut":
        del data[where:]
    elif how in ("zero", "noise"):
        data[where:where + length] = bytes(length) if how == "zero" else rng.randbytes(length)
    elif how == "repeat":
        data[where:where] = data[where:where + length]
    elif how == "lose":
        del data[where:where + length]
    return b"" if how == "empty" else bytes(data)


ODD = [None, True, -1, 0, 1, 2**70, 1e300, float("nan"), float("inf"), "", "x", "ü", [], {}, [1], {"a": 1}, [[]], [None] * 3]


def damage_json(value, rng):
    """A JSON value with something in it replaced, removed, added or nested."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        value = dict(value)
        key = rng.choice(sorted(value))
        how = rng.random()
        if how < 0.15:
            del value[key]
        elif how < 0.25:
            value[rng.choice(["x", "", "epochs", "table"])] = rng.choice(ODD)
        else:
            value[key] = damage_json(value[key], rng)
        return value
    if isinstance(value, list) and value and rng.random() < 0.7:
        value = list(value)
        k = rng.randrange(len(value))
        value[k] = damage_json(value[k], rng)
        return value if rng.random() < 0.8 else value[:k]
    return rng.choice(ODD)


def damage_hdf5(path, rng):
    """Replace an attribute or a dataset of an HDF5 file by something of another type, shape or value."""
    with h5py.File(path, "r+") as file:
        names = []
        file.visititems(lambda name, item: names.append(name))
        if rng.random() < 0.5:
            key = rng.choice(sorted(file.attrs))
            old = file.attrs[key]
            if key in ("settings", "state", "fingerprint") and rng.random() < 0.8:
                new = json.dumps(damage_json(json.loads(old), rng))
            else:
                new = rng.choice([None, -1, 2**40, "", "x", b"\xff\xfe", 1.5, np.zeros(3), h5py.Empty("f")])
            del file.attrs[key]
            if new is not None:
                file.attrs[key] = new
            return
        name = rng.choice(names)
        old = file[name][()] if isinstance(file[name], h5py.Dataset) else None
        del file[name]
        choices = [None, 1, "text", np.zeros(0), np.zeros((2, 2)), h5py.Empty("f"), np.array([b"\xff", b"a"])]
        if isinstance(old, np.ndarray) and old.dtype.kind in "fiu" and old.size:
            spoiled = np.array(old)
            with np.errstate(all="ignore"):
                spoiled.flat[rng.randrange(old.size)] = rng.choice([np.nan, np.inf, 1e30, -1]) if old.dtype.kind == "f" else 77
            choices += [spoiled, old[:-1], old.astype("f8") * 1e300, old.astype("i8"), -np.abs(old.astype("f4")), old[None]]
        new = rng.choice(choices)
        if new is not None:
            file[name] = new


# Cases


def damaged(rng):
    """A file that some command reads is damaged."""
    file = rng.choice(sorted(READERS))
    deep = file.endswith((".h5", ".json", ".progress", ".partial", ".checkpoint")) and rng.random() < 0.5

    def prepare(folder):
        path = folder / file
        data = path.read_bytes()
        path.unlink()  # it is a link to the good one
        if not deep:
            path.write_bytes(damage_bytes(data, rng))
        elif file.endswith((".json", ".progress")):
            path.write_text(json.dumps(damage_json(json.loads(data), rng)))
        else:
            path.write_bytes(data)
            damage_hdf5(path, rng)
    return Case(f"damaged {file}", line_of(rng.choice(READERS[file]), file), prepare)


def absurd(rng):
    """An option of some command has an absurd value."""
    command = rng.choice(sorted(COMMANDS))
    option = rng.choice([option for option in options_of(command) if option not in ("--help", "-h", "--devices")])
    value = rng.choice([value for value in ABSURD if option not in LONG or not value.isdigit() or value == "0"])
    return Case(f"absurd {command}", [command, *COMMANDS[command].split(), f"{option}={value}"])


def odd_place(rng):
    """An input or an output of some command is a folder, a pipe, a device, a loop of links, or not there."""
    command = rng.choice(sorted(COMMANDS))
    words = COMMANDS[command].split()
    places = [word for word in words if not word.startswith("-") and ("." in word or word in ("photos", "runs/r", "runs"))]
    if not places:
        return absurd(rng)
    place, what = rng.choice(places), rng.choice(["folder", "pipe", "device", "loop", "missing", "unreadable", "text", "dangling"])

    def prepare(folder):
        path = folder / place
        if path.is_dir():
            shutil.rmtree(path)
        elif path.exists():
            path.unlink()
        if what == "folder":
            path.mkdir()
            (path / "precious").write_text("x")
        elif what == "pipe":
            os.mkfifo(path)
        elif what == "device":
            try:
                os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, rng.choice([3, 5])))  # null or zero
            except OSError:
                os.mkfifo(path)  # not allowed
        elif what == "loop":
            path.symlink_to(path.name)
        elif what == "dangling":
            path.symlink_to("nowhere/at-all")
        elif what in ("unreadable", "text"):
            path.write_text("precious")
            path.chmod(0 if what == "unreadable" else 0o644)
    return Case(f"{what} as {place}", [command, *words], prepare)


def options_of(command):
    """The spellings of a command's options."""
    class Seen(Exception):
        pass

    def parse(parser, words):
        raise Seen([spelling for action in parser._actions for spelling in action.option_strings])

    before, Parser.parse = Parser.parse, parse
    try:
        run.main([command])
    except Seen as seen:
        return seen.args[0]
    finally:
        Parser.parse = before


MAKERS = damaged, damaged, damaged, absurd, odd_place


# Running them


def outcome(case, folder):
    """"" if the case ended as it must, else what was wrong. Runs in the forked process."""
    before = contents(folder)
    error = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(error):
        try:
            code = run.main([str(word) for word in case.words])
        except SystemExit as ended:
            code = ended.code
        except MemoryError:
            code = run.fail("out of memory")
        except BaseException:
            return traceback.format_exc()
    said = [line for line in error.getvalue().replace("\r", "\n").split("\n") if line.startswith("error: ")]
    if code not in (0, None) and len(said) != 1:
        return f"exit code {code}, and on stderr: {error.getvalue()[-500:]}"
    after = contents(folder)
    changed = [name for name in before if before[name] != after.get(name)]
    ours = ("o", "runs/o", "runs/r") if code in (0, None) or "runs/r" in case.words or "--resume" in case.words else ("o.h5.",)
    changed = [name for name in changed if not name.startswith(ours)]
    changed += [name for name in before if not stat.S_ISREG(before[name][0]) and after.get(name, (0,))[0] != before[name][0]]
    return f"exit code {code}: {changed} changed" if changed else ""


def contents(folder):
    """{path: what it is and holds}."""
    found = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        held = path.read_bytes() if stat.S_ISREG(mode) else os.readlink(path) if stat.S_ISLNK(mode) else ""
        found[str(path.relative_to(folder))] = stat.S_IFMT(mode), hashlib.md5(held).hexdigest() if held else ""
    return found


def link_tree(good, folder):
    """The good files in a folder of its own, as links to the same bytes."""
    for path in sorted(good.rglob("*")):
        to = folder / path.relative_to(good)
        if path.is_dir():
            to.mkdir()
        elif path.name.startswith("o."):
            shutil.copy(path, to)  # an output may be gone on with, in place
        else:
            os.link(path, to)


def attempt(maker, seed, good):
    """(Case, what was wrong with it or "") of the case with this seed."""
    rng = random.Random(f"{maker.__name__} {seed}")
    case = maker(rng)
    with tempfile.TemporaryDirectory(dir=good.parent) as place:
        folder = Path(place)
        link_tree(good, folder)
        case.prepare(folder)
        here, there = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.chdir(folder)
                signal.alarm(LIMIT)
                os.write(there, outcome(case, folder).encode()[-4000:])
            finally:
                os._exit(0)
        os.close(there)
        with open(here, "rb") as pipe:
            wrong = pipe.read().decode(errors="replace")
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            name = signal.Signals(os.WTERMSIG(status)).name
            wrong = f"hung for {LIMIT} s" if name == "SIGALRM" else f"crashed with {name}"
    return case, wrong


def fuzz(count, place, first=0):
    """({kind of case: how many}, [(seed, Case, what was wrong)]) of so many cases in the folder `place`."""
    good = Path(place) / "good"
    good.mkdir()
    fixture(good)
    before, kinds, wrong = contents(good), collections.Counter(), []
    for seed in range(first, first + count):
        case, found = attempt(MAKERS[seed % len(MAKERS)], seed, good)
        kinds[case.kind.split()[0]] += 1
        if found:
            wrong.append((seed, case, found))
    if contents(good) != before:
        wrong.append((None, None, "files that existed were changed"))
    return kinds, wrong


def main(count, first=0):
    with tempfile.TemporaryDirectory() as place:
        kinds, wrong = fuzz(count, place, first)
    for seed, case, found in wrong:
        print(f"--- seed {seed}: {case and case.kind}: {case and ' '.join(case.words)[:300]}\n{found}")
    print(f"{sum(kinds.values())} cases ({', '.join(f'{n} {kind}' for kind, n in sorted(kinds.items()))}): {len(wrong)} wrong")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))

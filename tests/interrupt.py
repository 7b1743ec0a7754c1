"""Long outputs, killed at any system call, and made by two processes at once.

    python -m tests.interrupt kills 50      # kills each of features, codes and ablate so often
    python -m tests.interrupt races 100     # so many rounds of two processes for each output

A killed command is given again and must end with what it makes undisturbed. Of two at once, a process that ends with
exit code 0 must have made its own output, whole, unless the other one made its own after it.
"""
import contextlib
import io
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import run
from cpnet.studies import features
from tests import fuzz, helpers

CALLS = "replace", "remove", "fsync", "mkdir", "pwrite", "open", "rename", "unlink"  # of the module os
NET = "--net four-layer --devices cpu --threads 1 --batch 8"
KILLED = {  # a command, and the files that it makes
    "features": ("features c.h5 d.h5 o.h5 --batch 1 --devices cpu --threads 1", ["o.h5"]),
    "codes": ("codes f.h5 o.h5 --bits 8 --hidden 4 --epochs 4 --devices cpu --threads 1", ["o.h5"]),
    "ablate": ("ablate --data d.h5 --net four-layer --only no-decay --epochs 2 --batch 8 --runs o --devices cpu --threads 1",
               ["o/results.json", "o/no-decay-0/checkpoint-last.h5"]),
}
TRAIN = f"train --data d.h5 {NET} --epochs 2 --name o --runs runs --overwrite --seed"
RACES = {  # two commands for one output
    "features": ("features c.h5 d.h5 o.h5 --devices cpu", "features other.h5 d.h5 o.h5 --devices cpu", "o.h5"),
    "codes": ("codes f.h5 o.h5 --bits 8 --epochs 2 --devices cpu", "codes f.h5 o.h5 --bits 16 --epochs 2 --devices cpu", "o.h5"),
    "train": (f"{TRAIN} 1", f"{TRAIN} 2", "runs/o/checkpoint-last.h5"),
    "resume": ("train --resume r --epochs 4", "train --resume r --epochs 5", "runs/r/checkpoint-last.h5"),
    "probabilities": ("evaluate c.h5 --data d.h5 --save-probabilities o.h5 --devices cpu",
                      "evaluate other.h5 --data d.h5 --save-probabilities o.h5 --devices cpu", "o.h5"),
    "export": ("export c.h5 o.npz", "export other.h5 o.npz", "o.npz"),
    "prepare": ("prepare photos o.h5 --size 16 --val 2 --seed 1", "prepare photos o.h5 --size 16 --val 2 --seed 2", "o.h5"),
}


def fixture(folder):
    """fuzz's files, and another net; without what a killed command left."""
    fuzz.fixture(folder)
    for path in folder.glob("o.*"):
        path.unlink()
    helpers.run(*f"train --data d.h5 {NET} --epochs 1 --name other --runs runs --seed 5".split(), cwd=folder, check=0)
    shutil.copy(folder / "runs/other/checkpoint-last.h5", folder / "other.h5")


def fork(folder, line, before=lambda: None):
    """Begin a command in a process of its own; `before()` runs in it first. Returns the process's id."""
    child = os.fork()
    if child:
        return child
    code = 99
    try:
        os.chdir(folder)
        signal.alarm(fuzz.LIMIT)
        features.SAVE_EVERY = 2
        before()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            code = run.main(line.split())
    except SystemExit as ended:
        code = ended.code
    finally:
        os._exit(code or 0)


def wait(child):
    """The exit code of a process, or minus the number of the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_at(number, after):
    """From now on, this process is killed at its call `number` of CALLS: before it, or after it."""
    count = [0]

    def counted(call):
        def wrapper(*arguments, **options):
            count[0] += 1
            if count[0] == number and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = call(*arguments, **options)
            if count[0] == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return result
        return wrapper

    for name in CALLS:
        setattr(os, name, counted(getattr(os, name)))


def content(path):
    """What a file holds, apart from how it was named and when it was made."""
    if path.suffix == ".npz":
        with np.load(path) as file:
            return {name: file[name].tobytes() for name in file.files}
    if path.suffix == ".h5":
        found = helpers.checkpoint_arrays(path)
        return {name: found[name].tobytes() for name in sorted(found)}
    return {"text": path.read_text()}


@contextlib.contextmanager
def folder_like(good):
    """A copy of the good files."""
    with tempfile.TemporaryDirectory(dir=good.parent) as place:
        shutil.copytree(good, place, dirs_exist_ok=True)
        yield Path(place)


def kills(name, count, good, seed=0):
    """Kill the command `name` of KILLED so often, at random calls. Returns how many calls it makes undisturbed."""
    line, files = KILLED[name]
    with folder_like(good) as folder:
        assert wait(fork(folder, line)) == 0
        expected = [content(folder / file) for file in files]
        assert len(list(folder.glob("o.*"))) <= 1, "something was left"
    chance, calls, done = random.Random(f"{name} {seed}"), 120, 0
    while done < count:
        with folder_like(good) as folder:
            for _ in range(chance.choice([1, 1, 2, 3])):  # killed again as it goes on
                number, after = chance.randint(1, calls), chance.random() < 0.5
                code = wait(fork(folder, line, lambda number=number, after=after: kill_at(number, after)))
                assert code in (0, -signal.SIGKILL), f"{name}, call {number}: exit code {code}"
                done += code != 0
                if code == 0:
                    calls = max(10, min(calls, number))  # it makes fewer
            assert wait(fork(folder, line)) == 0, f"{name} does not go on after call {number}"
            for file, whole in zip(files, expected, strict=True):
                assert content(folder / file) == whole, f"{name}, call {number}: {file} is another"
            assert not list(folder.glob("*.partial")) and not list(folder.glob("*.progress"))
    return calls


def races(name, rounds, good, seed=0):
    """Two processes at once, so many times. Returns {(exit code, exit code): how often}."""
    *lines, output = RACES[name]
    expected = []
    for line in lines:
        with folder_like(good) as folder:
            assert wait(fork(folder, line)) == 0, line
            expected.append(content(folder / output))
    assert expected[0] != expected[1]
    chance, seen = random.Random(f"{name} {seed}"), {}
    for _ in range(rounds):
        with folder_like(good) as folder:
            delays = [chance.choice([0, 0, 0.02, 0.1]) for _ in lines]
            children = [fork(folder, line, lambda delay=delay: time.sleep(delay))
                        for line, delay in zip(lines, delays, strict=True)]
            codes = tuple(map(wait, children))
            assert set(codes) <= {0, 1} and 0 in codes, f"{name}: exit codes {codes}"
            found = content(folder / output)
            assert any(code == 0 and found == whole for code, whole in zip(codes, expected, strict=True)), \
                f"{name}: the file is of neither that ended well ({codes})"
            seen[codes] = seen.get(codes, 0) + 1
    return seen


def main(what, count):
    with tempfile.TemporaryDirectory() as place:
        good = Path(place) / "good"
        good.mkdir()
        fixture(good)
        for name in KILLED if what == "kills" else RACES:
            if what == "kills":
                print(f"{name}: {count} kills, then the same output; it makes about {kills(name, count, good)} calls", flush=True)
            else:
                print(f"{name}: {count} rounds, exit codes {races(name, count, good)}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))

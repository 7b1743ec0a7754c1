"""A run that is killed (SIGKILL) at random moments and resumed ends with the same arrays as one that is left alone.

`python -m tests.test_kill 50` kills fifty times.
"""
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.helpers import ROOT, assert_same_arrays, run, small_set

OPTIONS = "--batch", "16", "--schedule", "3,5", "--checkpoint-minutes", "0.0005", "--threads", "1"


def kill_and_resume(folder, kills, epochs, seed=0):
    """Kill a run `kills` times, resume it each time, and let it end. Returns the steps at which it was found again."""
    data = small_set(folder / "squares.h5", train=160)
    words = ["--data", data, "--runs", folder / "runs", "--epochs", epochs, *OPTIONS]
    run(*words, "--name", "whole", check=0)
    chance, found = random.Random(seed), []
    last = folder / "runs" / "parts" / "checkpoint-last.h5"
    while len(found) < kills:
        resumed = last.exists()
        options = ["--resume", "parts", "--runs", folder / "runs"] if resumed else [*words, "--name", "parts", "--overwrite"]
        process = subprocess.Popen([sys.executable, ROOT / "run.py", *map(str, options)], stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
        line = next((line for line in process.stdout if line.startswith(str(folder / "runs"))), "")
        time.sleep(chance.uniform(0, 0.6))  # from before the first step to a few epochs later
        process.kill()
        rest = process.stdout.read()
        code = process.wait()
        assert code in (0, -9), f"{line}{rest}"
        assert code == -9, f"the run ended after {len(found)} kills: give it more epochs"
        found.append(line.strip().rpartition(": ")[2])
    run("--resume", "parts", "--runs", folder / "runs", check=0)
    for name in "checkpoint-last.h5", "checkpoint-best.h5":
        assert_same_arrays(folder / "runs" / "whole" / name, folder / "runs" / "parts" / name)
    epochs_logged = (folder / "runs" / "parts" / "log.jsonl").read_text().count('"epoch"')
    assert epochs_logged == epochs
    return found


def test_killed_at_random_moments(tmp_path):
    assert len(kill_and_resume(tmp_path, kills=4, epochs=10)) == 4


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        count = int(sys.argv[1])
        for line in kill_and_resume(Path(folder), count, epochs=3 * count):
            print(line)
        print(f"{count} kills; every array of both checkpoints is the same, bit by bit")

"""All that is to be measured on a GPU, in one command: the parts in order of worth, each in a process of its own.

    python -m bench.all FOLDER [--devices 0] [--minutes 9]

Each part writes its figures to FOLDER/<part>.json and what it prints to FOLDER/<part>.txt. A part whose .json is there is not
run again, so the same command goes on where it stopped. A part that would not end within the minutes is left for the next
time; one that fails is named, and the others go on. The exit status is 0 once every part's figures are there.
"""
import argparse
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# (name, seconds that it takes at the most, by guess, module and options)
PARTS = [
    ("step-fp32", 170, ["bench.step", "--class", "fp32", "--batch", "128,256,1024"]),
    ("kernels-fp32", 25, ["bench.kernels", "--class", "fp32"]),
    ("train", 50, ["bench.train", "--graph"]),
    ("step-tf32", 170, ["bench.step", "--class", "tf32", "--batch", "128,256,1024"]),
    ("kernels-tf32", 25, ["bench.kernels", "--class", "tf32"]),
    ("step-default", 40, ["bench.step", "--class", "default", "--peers", "eager,channels_last"]),
    ("step-bf16", 60, ["bench.step", "--class", "bf16", "--peers", "graph,channels_last"]),
    ("train-without-graphs", 50, ["bench.train"]),
]


def run_part(name, words, folder, seconds):
    """Run one part for `seconds` at the most. "" once its figures are there, else why they are not."""
    text, figures = folder / f"{name}.txt", folder / f"{name}.json"
    with text.open("w") as out:
        try:
            code = subprocess.run([sys.executable, "-m", *words, "--json", str(figures)], cwd=ROOT, stdout=out,
                                  stderr=subprocess.STDOUT, timeout=seconds).returncode
        except subprocess.TimeoutExpired:
            figures.unlink(missing_ok=True)  # perhaps half written
            return f"stopped after {seconds:.0f} s"
    if code or not figures.exists():
        figures.unlink(missing_ok=True)
        return f"exit status {code}: {(text.read_text().strip().splitlines() or ['nothing was printed'])[-1]}"
    return ""


def run_all(folder, devices, seconds, parts=None, say=print):
    """Run what is missing, within `seconds`. The names of the parts that are still missing."""
    end, missing = time.monotonic() + seconds, []
    for name, guess, words in parts or PARTS:
        if (folder / f"{name}.json").exists():
            say(f"{name}: was there")
            continue
        left = end - time.monotonic()
        if guess > left:
            say(f"{name}: left for the next time, it may take {guess} s")
            missing.append(name)
            continue
        began = time.monotonic()
        wrong = run_part(name, [*words, "--devices", devices], folder, left)
        say(f"{name}: {wrong or 'done'} ({time.monotonic() - began:.0f} s)")
        if wrong:
            missing.append(name)
        else:
            say((folder / f"{name}.txt").read_text().rstrip())
    return missing


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m bench.all", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the figures go; made if it is not there")
    parser.add_argument("--devices", default="0", help="the GPU")
    parser.add_argument("--minutes", type=float, default=9.0, help="no part is begun that would not end within these")
    args = parser.parse_args(arguments)
    if not args.devices.isdigit():
        parser.error(f"--devices {args.devices}: name one GPU by its number")
    args.folder = args.folder.resolve()
    args.folder.mkdir(parents=True, exist_ok=True)
    missing = run_all(args.folder, args.devices, 60 * args.minutes, say=lambda line: print(line, flush=True))
    if missing:
        print(f"missing: {', '.join(missing)}; the same command goes on with them")
    sys.exit(bool(missing))


if __name__ == "__main__":
    main()

"""One training step of the paper's net at 224×224, ours and PyTorch's in turn: forward, loss, backward, update.

    python -m bench.step --devices cpu --batch 128 [--json FILE] [--repeats R] [--peers eager,compile] [--quick]

First the gradients of the whole net are checked against PyTorch in float64; what is wrong is not timed. Each contestant then
lives in a process of its own, with its own memory and threads, and only one works at a time: ours, eager, …, ours, eager, …
Figures are medians. A ratio is the peer's time over ours: above 1, ours is faster.
"""
import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_info
from tqdm import tqdm

from bench.contestant import PEERS, environment

ROOT = Path(__file__).resolve().parent.parent
WARM_UP = 2  # steps that are not counted: memory, threads and compiled code settle
PAUSE = 0.3  # seconds between turns, in which the last contestant's threads stop spinning
BUSY = 0.02  # more than this share of a core, used while waiting, spoils the others' figures


class Contestant:
    """A process that does a step when asked."""

    def __init__(self, name, batch, threads, devices):
        self.name, self.samples, self.idle, self.peak_mib = name, [], [], 0.0
        self.errors = tempfile.TemporaryFile("w+")
        command = [sys.executable, "-m", "bench.contestant", name, "--batch", str(batch), "--threads", str(threads)]
        self.process = subprocess.Popen([*command, "--devices", devices], text=True, cwd=ROOT, env=environment(name),
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors)

    def step(self, counted=True):
        """One step; its time is kept if `counted`. Raises RuntimeError if the process ended or the loss is not finite."""
        try:
            self.process.stdin.write("step\n")
            self.process.stdin.flush()
            answer = json.loads(self.process.stdout.readline() or "null")
        except BrokenPipeError:
            answer = None
        if answer is None:
            self.errors.seek(0)
            raise RuntimeError((self.errors.read().strip().splitlines() or ["ended without a word"])[-1])
        if not math.isfinite(answer["loss"]):
            raise RuntimeError(f"the loss became {answer['loss']}")
        self.peak_mib = answer["peak_mib"]
        if counted:
            self.samples.append(answer["ms"])
            self.idle.append(answer["idle"])

    def close(self):
        """End the process."""
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        self.errors.close()


def race(names, batch, threads, devices, repeats):
    """(contestants that finished, {name of the others: why}), each with `repeats` samples, taken in turn."""
    running, failed = [], {}
    with tqdm(total=len(names) * (WARM_UP + repeats), desc="steps", leave=False) as bar:

        def turn(contestant, counted):
            try:
                contestant.step(counted)
                time.sleep(PAUSE)
            except RuntimeError as error:
                failed[contestant.name] = str(error)
                running.remove(contestant)
                contestant.close()
            bar.update()

        try:
            for name in names:
                running.append(Contestant(name, batch, threads, devices))
                for _ in range(WARM_UP):
                    if name not in failed:
                        bar.set_postfix_str(f"{name} warms up")
                        turn(running[-1], counted=False)
            for _ in range(repeats):
                for contestant in list(running):
                    bar.set_postfix_str(contestant.name)
                    turn(contestant, counted=True)
        finally:
            for contestant in running:
                contestant.close()
    return running, failed


def rows(contestants, batch):
    """A row for each peer: medians in ms, and the peer's time over ours."""
    medians = {contestant.name: statistics.median(contestant.samples) for contestant in contestants}
    mine = medians.pop("ours")
    return [{"class": "fp32", "batch": batch, "peer": name, "ours_ms": mine, "peer_ms": ms, "ratio": ms / mine}
            for name, ms in medians.items()]


def machine():
    """What the figures depend on."""
    import torch

    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())
    blas = sorted({f"{pool['internal_api']} {pool['version']} {pool.get('architecture', '')}".strip()
                   for pool in threadpool_info() if pool["user_api"] == "blas"})
    return {"cpu": model, "cores": len(os.sched_getaffinity(0)), "python": platform.python_version(), "numpy": np.__version__,
            "blas": ", ".join(blas), "torch": torch.__version__, "date": time.strftime("%Y-%m-%d")}


def report(contestants, failed, batch):
    """The figures as a table, and what was wrong with them."""
    ratios = {row["peer"]: f"{row['ratio']:.2f}" for row in rows(contestants, batch)}
    lines = [f"{'batch ' + str(batch):<14} {'ms':>8} {'from':>8} {'to':>8} {'images/s':>9} {'peak MiB':>9} {'ratio':>6}"]
    for each in contestants:
        ms = statistics.median(each.samples)
        lines.append(f"{each.name:<14} {ms:8.0f} {min(each.samples):8.0f} {max(each.samples):8.0f} {1000 * batch / ms:9.1f} "
                     f"{each.peak_mib:9.0f} {ratios.get(each.name, ''):>6}  {PEERS.get(each.name, '')}".rstrip())
    lines += [f"{name}: failed: {why}" for name, why in failed.items()]
    lines += [f"{each.name}: was busy ({statistics.median(each.idle):.0%} of a core) while others ran: do not trust the figures"
              for each in contestants if statistics.median(each.idle) > BUSY]
    return "\n".join(lines)


def parse(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m bench.step", description=__doc__.splitlines()[0])
    parser.add_argument("--devices", default="cpu", help="of ours: cpu or cpu,cpu")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=7, help="steps of each that count")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of each (default: all cores)")
    parser.add_argument("--peers", default=",".join(PEERS), help="some of %(default)s")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="a first look: 8 images, 3 repeats, eager only")
    args = parser.parse_args(arguments)
    if args.quick:
        args.batch, args.repeats, args.peers = min(args.batch, 8), min(args.repeats, 3), "eager"
    args.peers = args.peers.split(",")
    for name in args.peers:
        if name not in PEERS:
            parser.error(f"--peers: there is no peer {name!r}, only {', '.join(PEERS)}")
    return args


def check(devices):
    """Print how far the gradients are from PyTorch's; exit if they are wrong. In a process of its own, for its memory."""
    done = subprocess.run([sys.executable, "-m", "bench.check", "--devices", devices], cwd=ROOT)
    if done.returncode:
        sys.exit("not timed: the gradients are wrong, or could not be checked")


def main(arguments=None):
    args = parse(arguments)
    check(args.devices)
    contestants, failed = race(["ours", *args.peers], args.batch, args.threads, args.devices, args.repeats)
    if "ours" in failed:
        sys.exit(f"ours failed: {failed['ours']}")
    print(report(contestants, failed, args.batch))
    if args.json:
        result = {"machine": {**machine(), "threads": args.threads}, "rows": rows(contestants, args.batch), "failed": failed,
                  "repeats": args.repeats, "peak_mib": {each.name: round(each.peak_mib) for each in contestants},
                  "samples_ms": {each.name: each.samples for each in contestants}}
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

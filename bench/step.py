"""One training step of a net, ours and PyTorch's in turn: forward, loss, backward, update.

    python -m bench.step --devices cpu --batch 128 [--net mini] [--json FILE] [--repeats R] [--peers eager,compile] [--quick]
    python -m bench.step --devices 0 --class fp32 --batch 128,256,1024 --json FILE

First losses and gradients of the whole net are checked against PyTorch; what is wrong is not timed. Each contestant then
lives in a process of its own, with its own memory and threads, and only one works at a time: ours, eager, …, ours, eager, …
Figures are medians. A ratio is the peer's time over ours: above 1, ours is faster. Of several batch sizes the first is run
by all peers, the others by the best of them that need no minutes to start (on a GPU: by events; gpu.py has the peers).
"""
import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tqdm import tqdm

from bench import gpu
from bench.contestant import OURS, PEERS, environment
from cpnet.machine import machine
from cpnet.nets import NETS

ROOT = Path(__file__).resolve().parent.parent
WARM_UP = 2  # steps that are not counted: memory, threads and compiled code settle
PAUSE = 0.3  # seconds between turns on a CPU, in which the last contestant's threads stop spinning
BUSY = 0.02  # more than this share of a core, used while waiting, spoils the others' figures


class Contestant:
    """A process that does a step when asked."""

    def __init__(self, name, batch, threads, devices, kind="fp32", net="alexnet", math="fp32"):
        self.name, self.samples, self.idle, self.peak_mib = name, [], [], 0.0
        self.errors = tempfile.TemporaryFile("w+")
        command = [sys.executable, "-m", "bench.contestant", name, "--batch", str(batch), "--threads", str(threads),
                   "--devices", devices, "--class", kind, "--net", net, "--math", math]
        self.process = subprocess.Popen(command, text=True, cwd=ROOT, env=environment(name),
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


def race(names, batch, threads, devices, repeats, kind="fp32", net="alexnet", math="fp32"):
    """(contestants that finished, {name of the others: why}), each with `repeats` samples, taken in turn."""
    running, failed = [], {}
    with tqdm(total=len(names) * (WARM_UP + repeats), desc="steps", leave=False) as bar:

        def turn(contestant, counted):
            try:
                contestant.step(counted)
                time.sleep(PAUSE if devices.startswith("cpu") else 0)
            except RuntimeError as error:
                failed[contestant.name] = str(error)
                running.remove(contestant)
                contestant.close()
            bar.update()

        try:
            for name in names:
                running.append(Contestant(name, batch, threads, devices, kind, net, math))
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


def best(contestants, names):
    """Of those of these names, the one with the smallest median; None if there is none."""
    return min((each for each in contestants if each.name in names), default=None,
               key=lambda each: statistics.median(each.samples))


def rows(contestants, batch, kind="fp32"):
    """A row for each peer: medians in ms, and the peer's time over ours (the better of ours, where there are two)."""
    mine = statistics.median(best(contestants, OURS).samples)
    return [{"class": kind, "batch": batch, "peer": each.name, "ours_ms": mine, "peer_ms": statistics.median(each.samples),
             "ratio": statistics.median(each.samples) / mine} for each in contestants if each.name not in OURS]


def report(contestants, failed, batch, about=PEERS):
    """The figures as a table, and what was wrong with them."""
    ratios = {row["peer"]: f"{row['ratio']:.2f}" for row in rows(contestants, batch)}
    lines = [f"{'batch ' + str(batch):<14} {'ms':>8} {'from':>8} {'to':>8} {'images/s':>9} {'peak MiB':>9} {'ratio':>6}"]
    for each in contestants:
        ms = statistics.median(each.samples)
        times = [f"{time:8.{0 if ms >= 100 else 2}f}" for time in (ms, min(each.samples), max(each.samples))]
        lines.append(f"{each.name:<14} {' '.join(times)} {1000 * batch / ms:9.1f} {each.peak_mib:9.0f} "
                     f"{ratios.get(each.name, ''):>6}  {about.get(each.name, '')}".rstrip())
    lines += [f"{name}: failed: {why}" for name, why in failed.items()]
    lines += [f"{each.name}: was busy ({statistics.median(each.idle):.0%} of a core) while others ran: do not trust the figures"
              for each in contestants if statistics.median(each.idle) > BUSY]
    return "\n".join(lines)


def parse(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m bench.step", description=__doc__.splitlines()[0])
    parser.add_argument("--devices", default="cpu", help="cpu, or cpu,cpu of ours; 0: ours and PyTorch on that GPU")
    parser.add_argument("--net", default="alexnet", choices=NETS, help="on a CPU; a GPU has alexnet's kernels timed")
    parser.add_argument("--math", default="fp32", choices=["fp32", "exact"], help="on a CPU: how ours computes products")
    parser.add_argument("--class", dest="kind", default="fp32", choices=gpu.CLASSES,
                        help=f"on a GPU: {'; '.join(f'{name}: {what}' for name, what in gpu.CLASSES.items())}")
    parser.add_argument("--batch", default="128", help="one, or several: 128,256,1024")
    parser.add_argument("--repeats", type=int, default=7, help="turns of each that count")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of each (default: all cores)")
    parser.add_argument("--peers", help=f"some of {','.join(PEERS)}; on a GPU of {','.join(gpu.PEERS)} (default: all)")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="a first look: 8 images, 3 repeats, eager only")
    args = parser.parse_args(arguments)
    args.on_cpu = args.devices.startswith("cpu")
    args.about = PEERS if args.on_cpu else gpu.PEERS
    try:
        args.batch = [int(size) for size in args.batch.split(",")]
    except ValueError:
        parser.error(f"--batch {args.batch}: give one size or several, such as 128,256")
    if min(args.batch) < 1:
        parser.error("--batch: a batch has at least one image")
    if args.quick:
        args.batch, args.repeats, args.peers = [min(args.batch[0], 8)], min(args.repeats, 3), "eager"
    args.peers = args.peers.split(",") if args.peers else list(args.about)
    for name in args.peers:
        if name not in args.about:
            parser.error(f"--peers: there is no peer {name!r}, only {', '.join(args.about)}")
    if args.on_cpu and args.kind != "fp32":
        parser.error(f"--class {args.kind} needs a GPU: --devices 0")
    if not args.on_cpu and (args.net, args.math) != ("alexnet", "fp32"):
        parser.error("--net and --math are for --devices cpu")
    return args


def check(devices, kind, path=None, net="alexnet"):
    """Print how far losses and gradients are from PyTorch's; exit if they are wrong. A process of its own, for its memory."""
    command = [sys.executable, "-m", "bench.check", "--devices", devices, "--net", net]
    if not devices.startswith("cpu"):
        command += ["--class", "fp32" if kind == "fp32" else "tf32"]
        command += ["--json", str(path.with_name(f"check-{path.name}"))] if path else []
    if subprocess.run(command, cwd=ROOT).returncode:
        sys.exit("not timed: losses or gradients are wrong, or could not be checked")


def measure(args):
    """[(batch, contestants, failed)]: the first batch size by all, the others by the best of ours and of the quick peers."""
    names = [*([name for name in OURS if name == "ours" or not args.on_cpu]), *args.peers]
    measured = []
    for batch in args.batch:
        finished, failed = race(names, batch, args.threads, args.devices, args.repeats, args.kind, args.net, args.math)
        if best(finished, OURS) is None:
            sys.exit("; ".join(f"{name} failed: {failed[name]}" for name in OURS if name in failed))
        print(report(finished, failed, batch, args.about), flush=True)
        measured.append((batch, finished, failed))
        fastest = best(finished, OURS), best(finished, set(args.peers) - gpu.AUTOTUNED)
        names = [each.name for each in fastest if each]
    return measured


def main(arguments=None):
    args = parse(arguments)
    check(args.devices, args.kind, args.json, args.net)
    measured = measure(args)
    if args.json:
        first, *others = [details(*each) for each in measured]
        result = {"net": args.net, "math": args.math, "machine": {**machine("cpu" if args.on_cpu else args.devices), "threads": args.threads},
                  "rows": [row for batch, finished, _ in measured for row in rows(finished, batch, args.kind)],
                  "repeats": args.repeats, **first, **({"others": others} if others else {})}
        args.json.write_text(json.dumps(result, indent=1) + "\n")


def details(batch, contestants, failed):
    """What the file says of a batch size beside the rows."""
    return {"batch": batch, "failed": failed, "peak_mib": {each.name: round(each.peak_mib) for each in contestants},
            "samples_ms": {each.name: list(each.samples) for each in contestants}}


if __name__ == "__main__":
    main()

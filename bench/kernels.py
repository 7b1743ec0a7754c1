"""Every launch of one training step of the paper's net: time, bytes, operations, and its share of what the card can do.

    python -m bench.kernels --devices 0 [--batch 128] [--class fp32] [--json FILE]
    python -m bench.kernels --predict [--bandwidth 4.3] [--tflops 130]
    … --unfused      response normalization and max pooling one after the other, as on the CPU

On a GPU each launch is timed where it stands in the step, so that it finds in the cache what the launch before it left there:
events between the launches, queued behind a pile of copies, so that the card never waits for Python; medians. The ceilings are
measured in the same run: that pile of copies, and PyTorch's product of two matrices of 8192 × 8192 (without PyTorch the stated
one). With --predict nothing runs: the
same list, and the time that each launch takes at least at the stated ceilings. launches.py says what is counted.
"""
import argparse
import json
import statistics
from pathlib import Path

import numpy as np

from bench import gpu
from bench.contestant import batch
from bench.launches import Recording, nowhere, record
from cpnet.gpu.devices import named
from cpnet.gpu.platform import gpus, register
from cpnet.machine import machine
from cpnet.nets import build
from cpnet.network import Network
from cpnet.step import Step

STATED = {"bandwidth": 4.3, "fp32": 130.0, "tf32": 390.0}  # TB/s, TFLOP/s: an H200; TF32 at half of the measured bf16 rate
COPY, SIDE = 1 << 30, 8192  # bytes of a copy; rows and columns of a product
PILE = 40  # copies before the launches: some 20 ms, in which Python queues the rest


def record_step(devices, size, fuse_pools=True):
    """(launches, platform): a step recorded on GPU `devices`, or on nothing at all where it is None."""
    if devices is None:
        platform, device = nowhere()
        placed = [device]
    else:
        placed = named(devices, 2)
        platform = Recording(gpus())
        register(platform.cupy.ndarray, platform)
    step = Step(Network(build("alexnet"), placed, fuse_pools=fuse_pools))
    if devices is None:
        images, labels = np.empty((3, 224, 224, size), np.float32), np.empty(size, np.int32)
    else:
        images, labels = batch(size)
        images, labels = np.ascontiguousarray(images.transpose(1, 2, 3, 0)), labels.astype(np.int32)
    images, labels = step.first.put(images), step.first.put(labels)
    record(step, platform, images, labels)  # the first time compiles, sets memory aside and sends the rates
    return record(step, platform, images, labels), platform


def table_rows(launches, bandwidth, tflops, times=None):
    """A row for each launch; bandwidth in TB/s. Without `times` (ms) the floor is all that is known."""
    rows = []
    for number, each in enumerate(launches):
        floor = max(each.bytes / bandwidth / 1e9, each.operations / tflops / 1e9)
        ms = times[number] if times else None
        rows.append({"layer": each.layer, "part": each.part, "kernel": each.kernel, "grid": list(each.grid), "ms": ms,
                     "bytes": each.bytes, "operations": each.operations, "floor_ms": floor,
                     "bound": "memory" if each.bytes / bandwidth > each.operations / tflops else "arithmetic",
                     "share": floor / ms if ms else None})
    return rows


def report(rows, predicted):
    """The rows as text, and their sums by kernel."""
    head = "floor ms" if predicted else "      ms  floor ms  share"
    lines = [f"{'layer':<14} {'part':<8} {'kernel':<24} {'MB':>8} {'GFLOP':>7} {head}"]

    def line(layer, part, kernel, some):
        size, operations, floor = (sum(row[key] for row in some) for key in ("bytes", "operations", "floor_ms"))
        text = f"{layer:<14} {part:<8} {kernel:<24} {size / 1e6:8.1f} {operations / 1e9:7.1f}"
        if predicted:
            return f"{text} {floor:8.3f}"
        ms = sum(row["ms"] for row in some)
        return f"{text} {ms:8.3f}  {floor:8.3f}  {floor / ms:5.0%}"

    lines += [line(row["layer"], row["part"], row["kernel"], [row]) for row in rows]
    lines.append("")
    for kernel in dict.fromkeys(row["kernel"] for row in rows):
        some = [row for row in rows if row["kernel"] == kernel]
        lines.append(line("all", f"{len(some)}", kernel, some))
    lines.append(line("the step", f"{len(rows)}", "", rows))
    return "\n".join(lines + (["PREDICTED: at the stated ceilings no launch can take less; nothing was measured"] if predicted
                              else []))


# On a GPU


def measure(platform, launches, kind, repeats):
    """(times in ms, a median for each launch; TB/s of a copy; TFLOP/s of a product in the class)."""
    cupy = platform.cupy
    source, to = (random(platform, (COPY // 4,)) for _ in range(2))
    times, copies = [], []
    for _ in range(repeats + 1):
        start, end = cupy.cuda.Event(), cupy.cuda.Event()
        start.record()
        for _ in range(PILE):
            cupy.copyto(to, source)
        end.record()
        events = [end]
        for each in launches:
            each.repeat()
            events.append(cupy.cuda.Event())
            events[-1].record()
        events[-1].synchronize()
        copies.append(cupy.cuda.get_elapsed_time(start, end) / PILE)
        times.append([cupy.cuda.get_elapsed_time(a, b) for a, b in zip(events, events[1:], strict=False)])
    medians = [statistics.median(each) for each in zip(*times[1:], strict=True)]  # the first round warms up
    return medians, 2 * COPY / statistics.median(copies[1:]) / 1e9, product_rate(kind)


def random(platform, shape):
    """Random float32 numbers on the GPU: zeros can be quicker than what is real. (By NumPy, as CuPy's need another library.)"""
    array = platform.empty(shape, np.float32)
    platform.assign(array, np.random.default_rng(0).random(shape, np.float32) - np.float32(0.5))
    return array


def product_rate(kind):
    """TFLOP/s of a large float32 product by PyTorch, or None where that is not installed. fp32: the faster of plain float32
    and a third of TF32's, by three products."""
    try:
        import torch
    except ImportError:
        return None
    a, b = (torch.rand(SIDE, SIDE, device="cuda") - 0.5 for _ in range(2))
    timed = gpu.clock("torch")

    def rate(tf32):
        gpu.precision("tf32" if tf32 else "fp32")
        times = [timed(lambda: torch.mm(a, b)) for _ in range(7)]
        return 2 * SIDE**3 / statistics.median(times[2:]) / 1e9

    return rate(True) if kind == "tf32" else max(rate(False), rate(True) / 3)


def parse(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m bench.kernels", description=__doc__.splitlines()[0])
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--devices", help="a GPU: 0")
    where.add_argument("--predict", action="store_true", help="without a GPU: bytes, operations and floors alone")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--class", dest="kind", choices=["fp32", "tf32"], default="fp32")
    parser.add_argument("--unfused", action="store_true", help="response normalization and max pooling one after the other")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--bandwidth", type=float, default=STATED["bandwidth"], help="with --predict: TB/s (an H200's)")
    parser.add_argument("--tflops", type=float, help="with --predict: of products (default, an H200's: 130 or, tf32, 390)")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args(arguments)
    if args.devices is not None and not args.devices.isdigit():
        parser.error(f"--devices {args.devices}: name one GPU by its number, or say --predict")
    if args.batch < 1 or args.repeats < 1 or args.bandwidth <= 0 or (args.tflops or 1) <= 0:
        parser.error("--batch, --repeats, --bandwidth and --tflops are above 0")
    return args


def main(arguments=None):
    args = parse(arguments)
    gpu.math(args.kind)
    launches, platform = record_step(args.devices, args.batch, not args.unfused)
    times, bandwidth, tflops = None, args.bandwidth, args.tflops or STATED[args.kind]
    if args.devices is not None:
        times, bandwidth, measured = measure(platform, launches, args.kind, args.repeats)
        tflops = measured or tflops
    rows = table_rows(launches, bandwidth, tflops, times)
    print(report(rows, args.predict))
    print(f"{'stated' if args.predict else 'measured'} ceilings: {bandwidth:.2f} TB/s, {tflops:.0f} TFLOP/s ({args.kind})")
    if args.json:
        result = {"machine": machine(args.devices or "cpu"), "predicted": args.predict, "class": args.kind, "batch": args.batch,
                  "fused": not args.unfused, "ceilings": {"TB/s": bandwidth, "TFLOP/s": tflops}, "rows": rows}
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

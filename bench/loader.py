"""Batches a second, ours and PyTorch's DataLoader's in turn from the same files, and what loading costs the rest.

    python -m bench.loader [--json FILE] [--images N] [--rounds R] [--threads T] [--folder DIR] [--quick]

Batches of 128 crops of 224×224 out of 256×256, in a random order, the files in the page cache. The cases:

    raw-uint8     read, crop, mirror; uint8. On a GPU run the kernel mirrors; here the threads do, as the peer must
    raw-float32   the same, the mean image subtracted and colours shifted; ours C H W N, as the net wants it, the peer's N C H W
    jpeg-pillow   as raw-float32 from JPEGs of about 30 KB

A ratio is our rate over the peer's. "Per core" is for a second of CPU time, all threads together. Then: by how much a training
step on the CPU is slowed by the loader that feeds it, and a loop that launches kernels and takes batches by the loader at full
rate, as the median of many short measurements in turn: on a shared machine either alone varies by a fifth. As a control, the
same work as one giant batch, made without the interpreter lock: that is what another busy core costs the loop on this machine.
"""
import argparse
import ctypes
import functools
import io
import json
import statistics
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np
from PIL import Image
from tqdm import tqdm

from bench.step import machine
from data.loading.loader import Loader
from data.store.dataset import Dataset
from data.store.moments import Statistics
from data.store.writer import Writer

CASES = {"raw-uint8": {"raw": True, "flip": True}, "raw-float32": {}, "jpeg-pillow": {}}
WANTED = 40_000  # images/s
WARM_UP = 4  # batches of an epoch that are not counted: as many as are under way at a time
KINDS = 64  # different images; the file has them again and again
LAUNCHES = 78  # of a training step on a GPU


def make(folder, images, size):
    """Two data sets of the same photograph-like images, raw and as JPEGs of quality 95: their paths."""
    random, raw, jpeg = np.random.default_rng(0), folder / "raw.h5", folder / "jpeg.h5"
    blotches = random.integers(256, size=(KINDS, size // 8, size // 8, 3)).astype(np.uint8)
    kinds = [Image.fromarray(each).resize((size, size), Image.Resampling.BICUBIC) for each in blotches]
    pixels = np.stack([np.asarray(image).transpose(2, 0, 1) for image in kinds])
    numbers = np.arange(images) % KINDS
    with Writer(raw, ["even", "odd"], (3, size, size), source="bench.loader") as writer:
        writer.add_split("train", numbers % 2)
        for start in range(0, images, KINDS):
            writer.write("train", start, pixels[numbers[start:start + KINDS]])
        writer.set_statistics(Statistics(pixels))
    stored = []
    for image in kinds:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=95)
        stored.append(file.getvalue())
    with h5py.File(raw) as source, h5py.File(jpeg, "w") as target:
        target.attrs.update(source.attrs)
        for name in "classes", "mean", "pca":
            source.copy(name, target)
        target["train/labels"] = source["train/labels"][()]
        target["train/jpeg"] = np.frombuffer(b"".join(stored[k] for k in numbers), np.uint8)
        target["train/offsets"] = np.cumsum([0, *(len(stored[k]) for k in numbers)], dtype=np.int64)
    return raw, jpeg


class Pool:
    """Buffers that are used again in the next round, as pinned memory is; fresh ones would cost page faults."""

    def __init__(self):
        self.held = []

    def round(self):
        """An allocator for one loader, once the one before it is closed."""
        left = list(self.held)

        def allocate(shape, dtype):
            for k, array in enumerate(left):
                if array.shape == shape and array.dtype == dtype:
                    return left.pop(k)
            self.held.append(np.zeros(shape, dtype))
            return self.held[-1]

        return allocate


def rate(batches, size):
    """Images a second of an iterator over batches of `size`, from the end of the WARM_UP batches on."""
    began = count = 0
    for number, _ in enumerate(batches, 1):
        if number == WARM_UP:
            began = time.perf_counter()
        count = number
    return size * (count - WARM_UP) / (time.perf_counter() - began)


def ours(data, pool, epoch, options):
    """(images/s, images a second of CPU time) of an epoch."""
    with Loader(data, "train", epoch=epoch, drop_last=True, allocate=pool.round(), **options) as loader:
        size, cpu = options["batch"], time.process_time()
        speed = rate(loader, size)
        return speed, size * len(loader) / (time.process_time() - cpu)


def race(case, data, rounds, options, say):
    """The row of a case: ours and the peer in turn, medians of the rounds after the first."""
    from bench.torch_loader import loader as peer
    pool = Pool()
    theirs = peer(data, case, batch=options["batch"], crop=options["crop"], workers=options["threads"])
    mine, others, cores = [], [], []
    for number in range(rounds + 1):
        speed, core = ours(data, pool, number, {**options, **CASES[case]})
        other = rate(theirs, options["batch"])
        say()
        if number:
            mine.append(speed), cores.append(core), others.append(other)
    mine, other, core = map(statistics.median, (mine, others, cores))
    return {"case": case, "ours": mine, "peer": other, "ratio": mine / other, **needed(core)}


def needed(core):
    return {"ours_per_core": core, f"cores_for_{WANTED}": WANTED / core}


def gpu_path(data, rounds, options):
    """As raw-uint8, mirrors left to the GPU: what a GPU run needs of the CPU."""
    pool = Pool()
    measured = [ours(data, pool, number, {**options, "raw": True}) for number in range(rounds + 1)][1:]
    speed, core = (statistics.median(each) for each in zip(*measured, strict=True))
    return {"ours": speed, **needed(core)}


# What the loader costs others


def slowed_step(data, net, batch, steps, rounds):
    """By which share of its time a training step on the CPU is slowed when a loader feeds it; its seconds without."""
    from cpnet import nets
    from cpnet.gpu.devices import named
    from cpnet.layers import Pass
    from cpnet.network import Network

    crop = nets.crop_size(data.height)
    network = Network(nets.build(net, (data.channels, crop, crop), len(data.classes)), named("cpu", 2))

    def seconds(batches):
        began = time.perf_counter()
        for number, (images, labels, _) in zip(range(steps), batches, strict=False):
            network.forward(images, Pass(training=True, step=number))
            network.backward(labels)
            network.update(1e-5)
        return (time.perf_counter() - began) / steps

    def loader(epoch):
        return Loader(data, "train", batch=batch, crop=crop, epoch=epoch, drop_last=True)

    with loader(0) as batches:
        images, labels, indices = next(batches)
        same = images.copy(), labels, indices
    alone, fed = [], []
    for number in range(rounds + 1):
        first, second = seconds([same] * steps), 0
        with loader(number) as batches:
            next(batches)
            second = seconds(batches)
        if number:
            alone.append(first), fed.append(second)
    return statistics.median(fed) / statistics.median(alone) - 1, statistics.median(alone)


def launches(count):
    """`count` times what a launch is to the interpreter: some Python, and a call into C with the lock released."""
    into_c, pack = ctypes.CDLL(None).getppid, functools.partial(dict, grid=(1, 2, 3), block=(32, 8))
    for number in range(count):
        arguments = [np.int32(number), *pack(shared=number).values()]
        sum(isinstance(each, tuple) for each in arguments)
        into_c()


def launch_loop(loader, seconds, *, take=False):
    """Steps and batches a second of a thread that launches steps and, if `take`, takes each batch when it is ready."""
    steps, taken, began = 0, 0, time.perf_counter()
    while (passed := time.perf_counter() - began) < seconds and taken < len(loader):
        launches(LAUNCHES)
        steps += 1
        if loader.ready() and take:
            next(loader)
            taken += 1
    return steps / passed, taken / passed


def slowed_launches(data, options, seconds, times):
    """How much slower the loop above is with a loader of one thread at full rate than beside one whose ring is full: quartiles
    of so many measurements in turn. How much slower, their median, beside one that makes a single batch all the time, and so
    does the same work without once needing the interpreter lock. And the images/s of the first."""
    options = {**options, "raw": True, "threads": 1}
    slowed, control, rates, pool, giant = [], [], [], Pool(), None
    for epoch in range(times):
        allocate = pool.round()
        with Loader(data, "train", epoch=epoch, drop_last=True, allocate=allocate, **options) as loader:
            next(loader)
            launch_loop(loader, seconds)  # the ring fills, the loop warms up
            before, _ = launch_loop(loader, seconds)
            taking, batches = launch_loop(loader, seconds, take=True)
            launch_loop(loader, seconds / 4)  # the ring fills again
            after, _ = launch_loop(loader, seconds)
        rates.append(batches * options["batch"])
        giant = giant or min(len(data.split("train")), int(1.5 * seconds * rates[0]))
        with Loader(data, "train", allocate=allocate, **{**options, "batch": giant}) as loader:
            beside, _ = launch_loop(loader, seconds)
        alone = (before + after) / 2
        slowed.append(alone / taking - 1), control.append(alone / beside - 1)
    low, middle, high = statistics.quantiles(slowed, method="inclusive")
    return {"slowed": middle, "quartiles": [low, high], "slowed_without_lock": statistics.median(control),
            "images_per_s": statistics.median(rates)}


def report(result):
    """The figures as text."""
    lines = [f"{'case':<14} {'ours':>8} {'peer':>8} {'ratio':>6} {'a core':>8}  cores for {WANTED:,}/s   (images/s)"]
    for row in result["rows"]:
        lines.append(f"{row['case']:<14} {row['ours']:8,.0f} {row['peer']:8,.0f} {row['ratio']:6.2f} "
                     f"{row['ours_per_core']:8,.0f}  {row[f'cores_for_{WANTED}']:.1f}")
    gpu, step, loop = result["gpu_path"], result["step"], result["launch_loop"]
    lines += [f"{'for a GPU':<14} {gpu['ours']:8,.0f} {'':>15} {gpu['ours_per_core']:8,.0f}  {gpu[f'cores_for_{WANTED}']:.1f}",
              f"a training step of {step['net']}, {step['seconds']:.2f} s, slowed by {step['slowed']:.1%}",
              f"a loop of launches slowed by {loop['slowed']:.1%} (half of the measurements: {loop['quartiles'][0]:.1%} to "
              f"{loop['quartiles'][1]:.1%}), the loader at {loop['images_per_s']:,.0f} images/s",
              f"the same loop slowed by {loop['slowed_without_lock']:.1%} by that work as one batch, without the lock"]
    return "\n".join(lines)


def measure(folder, *, images, rounds, threads, batch, size, net, steps, loop_seconds):
    """All figures, as the JSON file has them."""
    raw, jpeg = make(folder, images, size)
    options = dict(batch=batch, crop=size * 7 // 8, threads=threads)
    with Dataset(raw) as as_pixels, Dataset(jpeg) as as_jpegs, \
         tqdm(total=len(CASES) * (rounds + 1) + 3, unit=" rounds", leave=False) as bar:
        rows = []
        for case in CASES:
            bar.set_description(case)
            rows.append(race(case, as_jpegs if case.startswith("jpeg") else as_pixels, rounds, options, bar.update))
        bar.set_description("what it costs others")
        gpu = gpu_path(as_pixels, rounds, options)
        bar.update()
        step, seconds = slowed_step(as_pixels, net, min(batch, 32), steps, rounds)
        bar.update()
        loop = slowed_launches(as_pixels, options, loop_seconds, 20 * rounds)
    return {"rows": rows, "gpu_path": gpu, "step": {"net": net, "slowed": step, "seconds": seconds}, "launch_loop": loop,
            "threads": threads, "images": images, "rounds": rounds}


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m bench.loader", description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--images", type=int, default=8192, help="of the files, of 0.2 MB each")
    parser.add_argument("--rounds", type=int, default=5, help="that count, of each")
    parser.add_argument("--threads", type=int, default=2, help="ours, and the peer's processes")
    parser.add_argument("--folder", type=Path, help="for the files, on the disk to be measured (default: a temporary one)")
    parser.add_argument("--quick", action="store_true", help="a first look: 1,536 images, one round")
    args = parser.parse_args(arguments)
    if args.quick:
        args.images, args.rounds = min(args.images, 1536), 1
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        result = measure(Path(folder), images=args.images, rounds=args.rounds, threads=args.threads, batch=128, size=256,
                         net="alexnet", steps=4, loop_seconds=0.12)
    print(report(result))
    if args.json:
        args.json.write_text(json.dumps({"machine": machine(), **result}, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""How fast is `prepare`? Beside Pillow's decoding and scaling alone, of the same photographs, in turn, in the same run.

    python -m bench.prepare [--images 4000] [--workers 2] [--rounds 3] [--store raw] [--folder DIR] [--json FILE]

makes photograph-like JPEGs of 500×375 and prints images/s of both, the most memory that `prepare` took, and how long all of
ILSVRC-2012 would take at this rate. Each measurement is a process of its own.
"""
import argparse
import json
import multiprocessing
import os
import re
import resource
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image
from tqdm import tqdm

from data.prepare import prepare
from data.store.part import STORES

IMAGENET = 1_281_167 + 50_000  # training and validation images of ILSVRC-2012
WIDTH, HEIGHT, SIZE = 500, 375, 256


def landscape(rng):
    """A picture of twice the size with a photograph's spectrum, as much contrast in each octave: float32 (H, W, 3)."""
    picture = np.zeros((2 * HEIGHT, 2 * WIDTH, 3), np.float32)
    for octave in range(2, 10):
        grey, colour = rng.normal(0, 1, (2**octave, 2**octave)), rng.normal(0, 0.4, (2**octave, 2**octave, 3))
        for k in range(3):
            layer = Image.fromarray((grey + colour[..., k]).astype(np.float32))
            picture[..., k] += 25 * np.asarray(layer.resize((2 * WIDTH, 2 * HEIGHT), Image.Resampling.BICUBIC))
    return picture + 118


def make(folder, count, seed=0):
    """`count` photographs, windows of a few landscapes with noise of their own, in ten class folders, a twentieth of them
    in val/. Returns their mean size in bytes."""
    rng, size = np.random.default_rng(seed), 0
    landscapes = [landscape(rng) for _ in range(min(16, max(1, count // 10)))]
    for k in tqdm(range(count), desc="photographs"):
        top, left = rng.integers(HEIGHT), rng.integers(WIDTH)
        picture = landscapes[k % len(landscapes)][top:top + HEIGHT, left:left + WIDTH]
        pixels = np.clip(picture + 4 * rng.standard_normal(picture.shape, np.float32), 0, 255).astype(np.uint8)
        path = Path(folder) / ("val" if k // 10 % 20 == 0 else "train") / f"class {k % 10}" / f"{k:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, "JPEG", quality=88)
        size += path.stat().st_size
    return size / count


def ours(source, out, workers, store):
    """(seconds, bytes of memory at most) of `prepare`, to the finished file."""
    start = time.perf_counter()
    prepare(source, out, size=SIZE, workers=workers, store=store)
    seconds = time.perf_counter() - start
    os.remove(out)
    return seconds, _peak()


def _peak():
    """Bytes of memory that this process had at most. Linux's getrusage would count the parent's before it, too."""
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def pillow(source, workers):
    """Seconds of Pillow's part of the work, on as many threads."""
    def work(path):
        with Image.open(path) as image:
            side, (width, height) = min(image.size), image.size
            left, top = (width - side) / 2, (height - side) / 2
            image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))

    paths = sorted(Path(source).rglob("*.jpg"))
    start = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(work, paths))
    return time.perf_counter() - start


def in_a_process(work, *arguments):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)


def measure(folder, images, workers, rounds, store):
    """The figures, as a dict; images/s are medians of the rounds."""
    source, out = os.path.join(folder, "photographs"), os.path.join(folder, "bench.h5")
    size = make(source, images)
    runs = [(in_a_process(ours, source, out, workers, store), in_a_process(pillow, source, workers)) for _ in range(rounds)]
    rate, peer = (images / median(seconds) for seconds in ([run[0][0] for run in runs], [run[1] for run in runs]))
    return {"case": f"prepare-{store}", "images": images, "workers": workers, "rounds": rounds, "bytes_per_jpeg": round(size),
            "ours": round(rate, 1), "peer": round(peer, 1), "ratio": round(rate / peer, 3),
            "memory_bytes": max(run[0][1] for run in runs), "imagenet_hours": round(IMAGENET / rate / 3600, 2)}


def main(words=None):
    parser = argparse.ArgumentParser(description="Measure prepare beside Pillow's decoding and scaling alone.")
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--store", choices=STORES, default="raw")
    parser.add_argument("--folder", help="where to put the photographs and the data set (default: a temporary folder)")
    parser.add_argument("--json", help="write the figures to this file too")
    options = parser.parse_args(words)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        row = measure(folder, options.images, options.workers, options.rounds, options.store)
    print(f"prepare --store {options.store}, {row['workers']} workers: {row['ours']:,} "
          f"images/s; Pillow's decode and resize alone {row['peer']:,}: {row['ratio']:.1%}\n"
          f"memory at most {row['memory_bytes'] / 1e6:,.0f} MB; all of ILSVRC-2012 ({IMAGENET:,} images) at this rate: "
          f"{row['imagenet_hours']} hours; JPEGs here {row['bytes_per_jpeg'] / 1e3:.0f} kB each")
    if options.json:
        Path(options.json).write_text(json.dumps([row], indent=1) + "\n")


if __name__ == "__main__":
    main()

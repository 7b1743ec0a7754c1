"""Training as it is: from an ImageNet-shaped file through the real loader and trainer, beside the step alone.

    python -m bench.train --devices 0 [--graph] [--steps 100] [--json FILE]
    python -m bench.train --devices cpu --net mini --steps 5

The file is made of random images, just large enough for one epoch of the steps, and removed at the end (--data: one that is
there). Both rates are of the same net in the same run: first the trainer's own loop, then the last batch again and again. The
idle share is what the loop loses by waiting for input. Validation and checkpoints are left out; they are not in the projection.
"""
import argparse
import json
import os
import tempfile
import time
from pathlib import Path

from bench import gpu
from cpnet import nets
from cpnet.errors import Stopped
from cpnet.evaluate import check_data
from cpnet.gpu.devices import named
from cpnet.gpu.graph import check
from cpnet.machine import machine
from cpnet.network import Network
from cpnet.run_folder import RunFolder
from cpnet.train import Trainer
from data.prepare import synthetic
from data.store.dataset import Dataset

WARM = 10  # steps that do not count: kernels are compiled, graphs captured, the ring filled
EPOCHS, IMAGES = 90, 1_281_167  # of the paper
PAPER_DAYS = 5, 6


class Loop(Trainer):
    """The trainer's loop, timed from step WARM to step WARM + `steps`, between two waits for the GPU."""

    def __init__(self, *arguments, steps, **options):
        super().__init__(*arguments, stop=self._clock, **options)
        self.marks, self.ends = {}, (WARM, WARM + steps)

    def _clock(self):
        if self.state.step in self.ends:
            self.work.read()
            self.marks[self.state.step] = time.perf_counter()
        return self.state.step >= self.ends[1]

    def save(self, best=False):
        """Nothing: the loop is what is timed."""

    def step(self, images, labels):
        self.batch = images, labels
        super().step(images, labels)

    def images_per_s(self):
        first, last = (self.marks[end] for end in self.ends)
        return (self.ends[1] - self.ends[0]) * self.settings["batch"] / (last - first)

    def alone_images_per_s(self):
        """The same steps with the last batch, which lies where the net is."""
        for count in WARM, self.ends[1] - self.ends[0]:
            self.work.read()
            began = time.perf_counter()
            for _ in range(count):
                Trainer.step(self, *self.batch)
            self.work.read()
        return count * self.settings["batch"] / (time.perf_counter() - began)


def measure(dataset, folder, args):
    """(images a second in the loop, of the step alone)."""
    crop = nets.crop_size(min(dataset.height, dataset.width))
    table = nets.build(args.net, (dataset.channels, crop, crop), len(dataset.classes))
    network = Network(table, named(args.devices, table.columns))
    check_data(table, dataset)
    check(network, args.graph)
    settings = {"epochs": 1, "batch": args.batch, "lr": 1e-4, "momentum": 0.9, "decay": table.decay, "schedule": "plateau",
                "seed": 0, "mirror": True, "colour": True, "checkpoint_minutes": 1e9, "loader_threads": args.loader_threads,
                "graph": args.graph}
    folder = RunFolder(folder)
    folder.create(settings)
    loop = Loop(network, dataset, folder, settings, steps=args.steps, progress=False)
    try:
        loop.train()
    except Stopped:
        return loop.images_per_s(), loop.alone_images_per_s()
    raise SystemExit(f"{dataset.path}: has too few images for {WARM + args.steps} steps of {args.batch}")


def projection(rate):
    """90 epochs of ImageNet's 1,281,167 training images at so many images a second."""
    return {"epochs": EPOCHS, "images": IMAGES, "hours": EPOCHS * IMAGES / rate / 3600, "paper_days": list(PAPER_DAYS)}


def result(rate, alone, args):
    """What the file holds."""
    return {"machine": machine("cpu" if args.devices.startswith("cpu") else args.devices), "net": args.net, "class": args.kind,
            "graph": args.graph, "batch": args.batch, "steps": args.steps, "loader_threads": args.loader_threads,
            "images_per_s": rate, "alone_images_per_s": alone, "idle_share": 1 - rate / alone, "projection": projection(rate)}


def report(found):
    """The figures in words."""
    hours = found["projection"]["hours"]
    return (f"{found['net']}, batch {found['batch']}, {found['loader_threads']} loader threads: "
            f"{found['images_per_s']:,.0f} images/s in training, {found['alone_images_per_s']:,.0f} of the step alone, "
            f"idle {found['idle_share']:.1%}\n"
            f"{EPOCHS} epochs of {IMAGES:,} images at this rate: {hours:,.1f} hours ({hours / 24:.1f} days); "
            f"the paper's two GPUs took {PAPER_DAYS[0]} to {PAPER_DAYS[1]} days")


def parse(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m bench.train", description=__doc__.splitlines()[0])
    parser.add_argument("--devices", default="cpu")
    parser.add_argument("--class", dest="kind", default="fp32", choices=["fp32", "tf32"], help="on a GPU")
    parser.add_argument("--graph", action="store_true", help="the step as CUDA graphs")
    parser.add_argument("--net", default="alexnet")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=100, help=f"that count, after {WARM} that do not")
    parser.add_argument("--size", type=int, default=256, help="of the file's images")
    parser.add_argument("--loader-threads", type=int, default=max(1, (os.cpu_count() or 1) // 2))
    parser.add_argument("--data", help="an .h5 data set, instead of one made of random images")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args(arguments)
    if min(args.batch, args.steps, args.loader_threads) < 1:
        parser.error("--batch, --steps and --loader-threads are above 0")
    return args


def main(arguments=None):
    args = parse(arguments)
    gpu.math(args.kind)
    with tempfile.TemporaryDirectory(prefix="cpnet-bench-") as folder:
        path = args.data or os.path.join(folder, "synthetic.h5")
        if not args.data:
            synthetic(path, images=(WARM + args.steps) * args.batch, size=args.size)
        with Dataset(path) as dataset:
            found = result(*measure(dataset, Path(folder) / "run", args), args)
    print(report(found))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

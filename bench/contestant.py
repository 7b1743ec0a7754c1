"""One contestant of `bench.step`, in a process of its own: it waits, does a training step when told to, and says how long.

    python -m bench.contestant NAME --net alexnet --batch N --threads T [--devices 0 --class fp32 --math exact]

For each line "step" on its standard input it writes one JSON object: `ms`, a step's time (in a turn of several,
where they are short); `loss`; `peak_mib`, the largest memory so far; `idle`, the share of one core that it used while it was waiting,
which should be none.
"""
import argparse
import json
import os
import resource
import sys
import time

import numpy as np

from bench import gpu
from cpnet.nets import build

OURS = {"ours": "cpnet", "ours, eager": "cpnet without CUDA graphs"}
PEERS = {"eager": "PyTorch as it comes", "channels_last": "eager, N H W C in memory", "compile": "torch.compile",
         "compile+": "torch.compile, LRN by hand, fused SGD, malloc that keeps its memory"}
# glibc's malloc gives large blocks back at once, and asks for them anew, page by page, in every step. These stop that.
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40), "MALLOC_TOP_PAD_": str(64 << 20)}
TURN = 0.5  # seconds that a turn on a CPU takes at least: after a pause the first short steps are slow
RATE = 1e-4  # small, so that the loss on random labels stays finite for any number of steps


def environment(name):
    """What a contestant's process needs in its environment."""
    return {**os.environ, **(KEEP_MEMORY if name == "compile+" else {})}


def of_size(net):
    """The Table of a net with images and classes as it is mostly used."""
    if net.startswith("alexnet"):
        return build(net)
    return build(net, (1, 24, 24) if net.startswith("mini") else (3, 28, 28), 10)


def batch(count, table=None):
    """Images (N, C, H, W) as large as pixels are, and labels."""
    rng, table = np.random.default_rng(0), table or of_size("alexnet")
    images = 60 * rng.standard_normal((count, *table.image), dtype=np.float32)
    return images, rng.integers(table.settings["classes"], size=count)


def ours(table, count, threads, devices, math):
    """A function that does a step of cpnet's net, as the trainer does, and returns the loss."""
    from cpnet.gpu.devices import named
    from cpnet.network import Network
    from cpnet.precision import set_math
    from cpnet.step import Step
    from cpnet.threads import set_threads

    set_threads(threads)
    set_math(math)
    work = Step(Network(table, named(devices, table.columns)))
    images, labels = batch(count, table)
    images = np.ascontiguousarray(images.transpose(1, 2, 3, 0))
    steps = iter(range(1 << 31))

    def step():
        before = work.read()[0]
        work(images, labels, step=next(steps), rate=RATE)
        return (work.read()[0] - before) / count

    return step


def peer(name, table, count, threads):
    """The same with PyTorch."""
    import torch

    from bench.torch_net import TorchNet, fast_lrn, optimizer

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = TorchNet(table, lrn=fast_lrn if name == "compile+" else None)
    images, labels = map(torch.from_numpy, batch(count, table))
    if name == "channels_last":
        model, images = (each.to(memory_format=torch.channels_last) for each in (model, images))
    rule = optimizer(model, RATE, fused=name == "compile+")
    net = torch.compile(model) if name.startswith("compile") else model

    def step():
        loss = torch.nn.functional.cross_entropy(net(images), labels)
        rule.zero_grad()
        loss.backward()
        rule.step()
        return loss.item()

    return step


def on_cpu(name, net, count, threads, devices, math):
    """A function that takes a turn, steps for TURN seconds: {"ms" of a step, "loss", "peak_mib"}."""
    table = of_size(net)
    step = ours(table, count, threads, devices, math) if name == "ours" else peer(name, table, count, threads)

    def turn():
        began, steps, passed = time.perf_counter(), 0, 0.0
        while passed < TURN:
            loss, steps = step(), steps + 1
            passed = time.perf_counter() - began
        return {"ms": 1000 * passed / steps, "loss": loss,
                "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}

    return turn


def on_gpu(name, count, devices, kind):
    """The same on a GPU; a turn is several steps."""
    images, labels = batch(count)
    if name in OURS:
        work = gpu.ours(count, images, labels, devices, kind, graph=name == "ours")
    else:
        work = gpu.peer(name, images, labels, kind, RATE)
    return gpu.turns(*work, gpu.clock(name), RATE)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=[*OURS, *PEERS, *gpu.PEERS])
    parser.add_argument("--net", default="alexnet")
    parser.add_argument("--math", default="fp32")
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--devices", default="cpu")
    parser.add_argument("--class", dest="kind", default="fp32", choices=gpu.CLASSES)
    args = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w")  # libraries may print; their lines go to standard error
    os.dup2(2, 1)
    if args.devices.startswith("cpu"):
        turn = on_cpu(args.name, args.net, args.batch, args.threads, args.devices, args.math)
    else:
        turn = on_gpu(args.name, args.batch, args.devices, args.kind)
    rested = None
    for line in sys.stdin:
        if line.strip() != "step":
            break
        began, cpu = time.perf_counter(), time.process_time()
        idle = (cpu - rested[1]) / (began - rested[0]) if rested else 0.0
        answers.write(json.dumps({**turn(), "idle": idle}) + "\n")
        answers.flush()
        rested = time.perf_counter(), time.process_time()


if __name__ == "__main__":
    main()

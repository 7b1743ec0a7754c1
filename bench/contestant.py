"""One contestant of `bench.step`, in a process of its own: it waits, does a training step when told to, and says how long.

    python -m bench.contestant NAME --batch N --threads T

For each line "step" on its standard input it writes one JSON object: `ms`, the step's time; `loss`; `peak_mib`, the largest
memory so far; `idle`, the share of one core that it used while it was waiting, which should be none.
"""
import argparse
import json
import os
import resource
import sys
import time

import numpy as np

PEERS = {"eager": "PyTorch as it comes", "channels_last": "eager, N H W C in memory", "compile": "torch.compile",
         "compile+": "torch.compile, LRN by hand, fused SGD, malloc that keeps its memory"}
# glibc's malloc gives large blocks back at once, and asks for them anew, page by page, in every step. These stop that.
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40), "MALLOC_TOP_PAD_": str(64 << 20)}
RATE = 1e-4  # small, so that the loss on random labels stays finite for any number of steps


def environment(name):
    """What a contestant's process needs in its environment."""
    return {**os.environ, **(KEEP_MEMORY if name == "compile+" else {})}


def batch(count, classes=1000, size=224):
    """Images (N, C, H, W) as large as pixels are, and labels."""
    rng = np.random.default_rng(0)
    return 60 * rng.standard_normal((count, 3, size, size), dtype=np.float32), rng.integers(classes, size=count)


def ours(count, threads, devices):
    """A function that does a step of cpnet's net, as the trainer does, and returns the loss."""
    from cpnet import arrays, columns
    from cpnet.launch import to_host
    from cpnet.layers import Pass
    from cpnet.nets import build
    from cpnet.network import Network
    from cpnet.ops import softmax

    arrays.set_threads(threads)
    table = build("alexnet")
    network = Network(table, columns.devices(devices, table.columns))
    images, labels = batch(count)
    images = np.ascontiguousarray(images.transpose(1, 2, 3, 0))
    steps = iter(range(1 << 31))

    def step():
        right = network.devices[0].put(labels)
        logits = network.forward(images, Pass(training=True, step=next(steps)))
        losses = softmax.cross_entropy_forward(logits, right, check=False)
        network.backward(right)
        loss = float(to_host(losses).mean())
        network.update(RATE)
        return loss

    return step


def peer(name, count, threads):
    """The same with PyTorch."""
    import torch

    from bench.torch_alexnet import TorchAlexNet, fast_lrn, optimizer

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = TorchAlexNet(lrn=fast_lrn if name == "compile+" else None)
    images, labels = map(torch.from_numpy, batch(count))
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


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=["ours", *PEERS])
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--devices", default="cpu", help="of ours")
    args = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w")  # libraries may print; their lines go to standard error
    os.dup2(2, 1)
    step = ours(args.batch, args.threads, args.devices) if args.name == "ours" else peer(args.name, args.batch, args.threads)
    rested = None
    for line in sys.stdin:
        if line.strip() != "step":
            break
        began, cpu = time.perf_counter(), time.process_time()
        idle = (cpu - rested[1]) / (began - rested[0]) if rested else 0.0
        loss = step()
        ms = 1000 * (time.perf_counter() - began)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        answers.write(json.dumps({"ms": ms, "loss": loss, "peak_mib": peak, "idle": idle}) + "\n")
        answers.flush()
        rested = time.perf_counter(), time.process_time()


if __name__ == "__main__":
    main()

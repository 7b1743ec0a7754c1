"""Does cpnet compute what PyTorch computes? A net of both, with the same weights, images and dropped neurons.

    python -m bench.check [--devices cpu] [--net alexnet]
    python -m bench.check --devices 0 --class tf32 [--json FILE]

The first prints the largest error of a layer's gradient in float64, and exits with status 1 if it is more than rounding.
The second does so too, then how far float32 training, ours and PyTorch's of the same class, is from float64: loss, logits,
gradients, and ‖Δw − Δw64‖ / ‖Δw64‖ after 1 and 10 steps. Status 1 if ours is more than twice as far by the loss, the logits or
the worst gradient. (The rest is reported: it is w's own rounding, and what a ReLU or a pool decides otherwise.)
"""
import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from bench import gpu
from bench.contestant import of_size
from bench.torch_net import TorchNet, load, masks, optimizer
from cpnet.gpu.devices import named
from cpnet.gpu.memory import to_host
from cpnet.gpu.platform import on_gpu
from cpnet.layers import Pass
from cpnet.machine import machine
from cpnet.nets import NETS
from cpnet.network import Network
from cpnet.ops import softmax
from cpnet.step import Step

TOLERANCE = 1e-10  # of float64: rounding, grown by eight layers, stays far below


def relative_error(a, b):
    """‖a − b‖ / ‖b‖; NaN, which is not below any tolerance, where b is zero or either is not finite."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(np.linalg.norm(a - b) / np.linalg.norm(b)) if np.any(b) else float("nan")


class Pair:
    """A network of cpnet and its PyTorch counterpart in float64, from the same weights."""

    def __init__(self, network):
        self.network = network
        self.model = TorchNet(network.table).double()
        load(self.model, network)

    def forward(self, images, run):
        """images (C, H, W, N) → our logits, PyTorch's logits, both (classes, N)."""
        x = torch.from_numpy(np.ascontiguousarray(images.transpose(3, 0, 1, 2))).double()
        self.output = self.model(x, masks(self.network, images.shape[-1], run))
        return to_host(self.network.forward(images, run)), self.output.detach().numpy().T

    def backward(self, labels):
        """After forward: the losses of both; the gradients are in their places."""
        ours = to_host(softmax.cross_entropy_forward(self.network.logits, self.network.devices[0].put(labels))).mean()
        self.network.backward(labels)
        loss = F.cross_entropy(self.output, torch.from_numpy(labels))
        self.model.zero_grad()
        loss.backward()
        return float(ours), loss.item()

    def gradient_errors(self):
        """‖ours − PyTorch's‖ / ‖PyTorch's‖ by parameter."""
        return {name: relative_error(self.network.get("gradients", name), parameter.grad.numpy())
                for name, parameter in self.model.named_parameters()}

    def train(self, images, labels, runs, rate):
        """A step of both for each of `runs`: the losses of both, step by step, and the errors of the steps taken in all.

        The latter are ‖Δw − PyTorch's Δw‖ / ‖PyTorch's Δw‖ by parameter.
        """
        rule = optimizer(self.model, rate)
        start = {name: self.network.get("values", name) for name in self.network.parameters}
        losses = []
        for run in runs:
            self.forward(images, run)
            losses.append(self.backward(labels))
            self.network.update(rate)
            rule.step()
        moved = dict(self.model.named_parameters())
        return losses, {name: relative_error(self.network.get("values", name) - before,
                                             moved[name].detach().numpy() - before)
                        for name, before in start.items()}


def largest_error(where="cpu", net="alexnet", images=2, seed=0):
    """(parameter, error) where the gradients of the whole net differ most; "logits" where those do."""
    rng = np.random.default_rng(seed)
    table = of_size(net)
    pair = Pair(Network(table, named(where, table.columns), seed=seed, dtype=np.float64))
    labels = rng.integers(table.settings["classes"], size=images)
    logits = pair.forward(60 * rng.standard_normal((*table.image, images)), Pass(training=True, seed=seed))
    errors = {"logits": relative_error(*logits)}
    pair.backward(labels)
    errors |= pair.gradient_errors()
    return max(errors.items(), key=lambda item: np.inf if np.isnan(item[1]) else item[1])


STEPS = 1, 10  # after which the weights are compared
RATE = 0.01


class Training:
    """PyTorch's model of a network, in `dtype`, trained from the network's weights on the network's dropped neurons."""

    def __init__(self, network, dtype, where):
        self.network, self.dtype, self.where = network, dtype, where
        self.model = TorchNet(network.table).to(where, dtype)
        load(self.model, network)
        self.start = self.weights()
        self.rule = optimizer(self.model, RATE)

    def weights(self):
        """{name: float64 array}."""
        return {name: parameter.detach().cpu().numpy().astype(np.float64) for name, parameter in self.model.named_parameters()}

    def gradients(self):
        """{name: float64 array}, of the last step."""
        return {name: parameter.grad.cpu().numpy().astype(np.float64) for name, parameter in self.model.named_parameters()}

    def step(self, images, labels, run):
        """A step; the loss and the logits (classes, N) before it."""
        x = torch.from_numpy(np.ascontiguousarray(images.transpose(3, 0, 1, 2))).to(self.where, self.dtype)
        output = self.model(x, [mask.to(self.where) for mask in masks(self.network, images.shape[-1], run)])
        loss = F.cross_entropy(output, torch.from_numpy(labels).to(self.where))
        self.model.zero_grad()
        loss.backward()
        self.rule.step()
        return loss.item(), output.detach().cpu().double().numpy().T


def distances(network, steps=STEPS, images=8, seed=0):
    """[(what, steps taken, ours, PyTorch's)]: relative distances to PyTorch in float64, of float32 training.

    what: "loss", "logits" or a parameter's name: its gradient in the first step (steps taken: 0), its way in so many steps.
    On the same images throughout; ours is `network`, a fresh one.
    """
    rng = np.random.default_rng(seed)
    where = "cpu" if not on_gpu(network.values[0]) else f"cuda:{network.devices[0].number}"
    theirs, exact = Training(network, torch.float32, where), Training(network, torch.float64, where)
    labels = rng.integers(network.table.settings["classes"], size=images)
    pixels = (60 * rng.standard_normal((*network.table.image, images))).astype(np.float32)
    work, found = Step(network, seed=seed), []
    for number in range(max(steps)):
        run = Pass(training=True, seed=seed, step=number)
        (their_loss, their_logits), (loss, logits) = (each.step(pixels, labels, run) for each in (theirs, exact))
        if number == 0:
            ours = to_host(network.forward(pixels, run)).astype(np.float64)
            found.append(("logits", 0, relative_error(ours, logits), relative_error(their_logits, logits)))
        work(pixels, labels, step=number, rate=RATE)
        if number == 0:
            found.append(("loss", 0, abs(work.read()[0] / images / loss - 1), abs(their_loss / loss - 1)))
            found += [(name, 0, *errors) for name, errors in _errors(network, "gradients", theirs, exact)]
        if number + 1 in steps:
            found += [(name, number + 1, *errors) for name, errors in _errors(network, "values", theirs, exact)]
    return found


def _errors(network, kind, theirs, exact):
    """(name, (ours, PyTorch's)) of gradients, or of how far the values have moved."""
    def of(training):
        return training.gradients() if kind == "gradients" else training.weights()

    their = of(theirs)
    for name, right in of(exact).items():
        start = exact.start[name] if kind == "values" else 0.0
        own = network.get(kind, name).astype(np.float64)
        yield name, tuple(relative_error(each - start, right - start) for each in (own, their[name]))


def as_near(found):
    """Whether ours is at most twice as far as PyTorch's: the loss (but for its last digit), the logits, the worst gradient."""
    # np.max passes NaN on, which max may not
    own, their = ([np.max([row[k] for row in found if row[1] == 0 and _group(row[0]) == group])
                   for group in ("loss", "logits", "")] for k in (2, 3))
    return all(bool(a <= max(2 * b, least)) for a, b, least in zip(own, their, (1e-6, 0, 0), strict=True))


def _group(what):
    return what if what in ("loss", "logits") else ""


def measured_distances(where, kind, net="alexnet", path=None):
    """Print `distances` on devices `where` in class `kind`, write them to `path`; whether ours is as near."""
    gpu.precision(kind)
    gpu.math(kind)
    table = of_size(net)
    found = distances(Network(table, named(where, table.columns)))
    print(f"{kind}: distance to float64 {'ours':>18} {'PyTorch':>9}")
    for what, steps, own, their in found:
        when = f"after {steps} step{'s' * (steps > 1)}" if steps else "gradient" if not _group(what) else ""
        print(f"{what:<14} {when:<17} {own:9.1e} {their:9.1e}")
    near = as_near(found)
    if path:
        rows = [{"what": what, "steps": steps, "ours": own, "torch": their} for what, steps, own, their in found]
        path.write_text(json.dumps({"machine": machine(where), "class": kind, "as_near": near, "rows": rows}, indent=1) + "\n")
    return near


def main():
    parser = argparse.ArgumentParser(prog="python -m bench.check", description=__doc__.splitlines()[0])
    parser.add_argument("--devices", default="cpu")
    parser.add_argument("--net", default="alexnet", choices=NETS)
    parser.add_argument("--class", dest="kind", choices=["fp32", "tf32"], help="compare float32 training too")
    parser.add_argument("--json", type=Path, help="with --class: write the figures to this file")
    args = parser.parse_args()
    name, error = largest_error(args.devices, args.net)
    verdict = "right" if error <= TOLERANCE else "WRONG"
    print(f"{verdict}: gradients against PyTorch in float64, largest relative error {error:.1e}, in {name}", flush=True)
    if verdict == "right" and args.kind and not measured_distances(args.devices, args.kind, args.net, args.json):
        verdict = "WRONG"
        print("WRONG: ours is more than twice as far from float64 as PyTorch is")
    sys.exit(verdict == "WRONG")


if __name__ == "__main__":
    main()

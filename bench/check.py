"""Does cpnet compute what PyTorch computes? The two-column net of both, with the same weights, images and dropped neurons.

    python -m bench.check [--devices cpu]

prints the largest error of a layer's gradient in float64, and exits with status 1 if it is more than rounding.
"""
import argparse
import sys

import numpy as np
import torch
from torch.nn import functional as F

from bench.torch_alexnet import TorchAlexNet, load, masks, optimizer
from cpnet.columns import devices
from cpnet.launch import to_host
from cpnet.layers import Pass
from cpnet.nets import build
from cpnet.network import Network
from cpnet.ops import softmax

TOLERANCE = 1e-10  # of float64: rounding, grown by eight layers, stays far below


def relative_error(a, b):
    """‖a − b‖ / ‖b‖; NaN, which is not below any tolerance, where b is zero or either is not finite."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(np.linalg.norm(a - b) / np.linalg.norm(b)) if np.any(b) else float("nan")


class Pair:
    """A network of cpnet and its PyTorch counterpart in float64, from the same weights."""

    def __init__(self, network):
        settings = network.table.settings
        self.network = network
        self.model = TorchAlexNet(settings["image"][1], settings["classes"], settings["profile"]).double()
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


def largest_error(where="cpu", images=2, seed=0):
    """(parameter, error) where the gradients of the whole net at 224×224 differ most; "logits" where those do."""
    rng = np.random.default_rng(seed)
    table = build("alexnet")
    pair = Pair(Network(table, devices(where, table.columns), seed=seed, dtype=np.float64))
    labels = rng.integers(table.settings["classes"], size=images)
    logits = pair.forward(60 * rng.standard_normal((*table.image, images)), Pass(training=True, seed=seed))
    errors = {"logits": relative_error(*logits)}
    pair.backward(labels)
    errors |= pair.gradient_errors()
    return max(errors.items(), key=lambda item: np.inf if np.isnan(item[1]) else item[1])


def main():
    parser = argparse.ArgumentParser(description="Compare the gradients of the whole net with PyTorch's, in float64.")
    parser.add_argument("--devices", default="cpu")
    name, error = largest_error(parser.parse_args().devices)
    verdict = "right" if error <= TOLERANCE else "WRONG"
    print(f"{verdict}: gradients against PyTorch in float64, largest relative error {error:.1e}, in {name}")
    sys.exit(verdict == "WRONG")


if __name__ == "__main__":
    main()

"""Any of cpnet's nets in PyTorch, layer by layer as one would write it there: what cpnet is compared with and timed against."""
from collections import defaultdict

import torch
from torch import nn
from torch.nn import functional as F

from cpnet import layers
from cpnet.ops import dropout


class TorchNet(nn.Module):
    """The net of a Table: images (N, C, H, W) → logits (N, classes).
    `lrn`: a function (x, layer, columns) → x, normalising within each column."""

    def __init__(self, table, lrn=None):
        super().__init__()
        self.table, self.lrn = table, lrn or library_lrn
        for layer, shape, out in table.shapes():
            columns = table.columns if layer.reads == "column" else 1
            if isinstance(layer, layers.Conv):
                self.add_module(layer.name, nn.Conv2d(shape[0], out[0], layer.size, stride=layer.stride, groups=columns,
                                                      padding=layer.pads[0] if layer.pads[0] == layer.pads[1] else 0))
            elif isinstance(layer, layers.Linear):
                self.add_module(layer.name, nn.Linear(shape[0] if len(shape) == 1 else shape[0] * shape[1] * shape[2], out[0]))

    def forward(self, x, masks=None):
        """`masks`: what the outputs of the dropout layers are multiplied by, each (N, units) or a number; by default PyTorch's
        dropout (which multiplies by 2 in training and by 1 at test)."""
        masks = masks and list(masks)
        for layer in self.table.layers:
            match layer:
                case layers.Conv():
                    before, after = layer.pads
                    if before != after:
                        x = F.pad(x, (before, after, before, after))
                    x = getattr(self, layer.name)(x)
                case layers.Linear():
                    x = getattr(self, layer.name)(x.flatten(1))
                case layers.ReLU():
                    x = F.relu(x)
                case layers.Tanh():
                    x = torch.tanh(x)
                case layers.LRN():
                    x = self.lrn(x, layer, self.table.columns if layer.reads == "column" else 1)
                case layers.MaxPool():
                    x = F.max_pool2d(x, layer.z, layer.s, ceil_mode=layer.ceil)
                case layers.AveragePool():
                    x = F.avg_pool2d(x, layer.z, layer.s, ceil_mode=layer.ceil)
                case layers.Dropout():
                    x = x * masks.pop(0) if masks else F.dropout(x, layer.rate, self.training)
                case _:
                    raise ValueError(f"{layer.name}: no PyTorch counterpart of {type(layer).__name__}")
        return x


def library_lrn(x, layer, columns):
    """PyTorch's own, which divides α by n, on each column as if it were an image of its own."""
    images, channels, height, width = x.shape
    apart = x.reshape(columns * images, channels // columns, height, width)
    return F.local_response_norm(apart, layer.n, layer.n * layer.alpha, layer.beta, layer.k).reshape(x.shape)


def fast_lrn(x, layer, columns):
    """The same for β = 3/4 by shifted sums and two square roots: what `torch.compile` makes the best of."""
    images, channels, height, width = x.shape
    apart, half = x.reshape(images, columns, channels // columns, height, width), layer.n // 2
    squares = F.pad(apart * apart, (0, 0, 0, 0, half, half))
    total = sum(squares[:, :, shift:shift + channels // columns] for shift in range(layer.n))
    root = torch.rsqrt(layer.k + layer.alpha * total)
    return (apart * root * torch.sqrt(root)).reshape(x.shape)


def load(model, network):
    """Give the model the network's weights and biases."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(network.get("values", name)))


def optimizer(model, rate, **options):
    """Section 5's rule, with the net's decay and each parameter's own rate and decay."""
    own, decay, groups = model.table.parameters(), model.table.decay, defaultdict(list)
    for name, parameter in model.named_parameters():
        groups[own[name].rate, decay if own[name].decay is None else own[name].decay].append(parameter)
    return torch.optim.SGD([{"params": parameters, "lr": rate * factor, "weight_decay": shrink}
                            for (factor, shrink), parameters in groups.items()], lr=rate, momentum=0.9, **options)


def masks(network, images, run):
    """The factors of the dropout layers in this pass, as the model takes them: the network's masks, or 1 − rate at test."""
    drops = [(index, layer, shape) for index, (layer, shape, _) in enumerate(network.table.shapes())
             if isinstance(layer, layers.Dropout)]
    if not run.training:
        return [1 - layer.rate for _, layer, _ in drops]
    return [torch.from_numpy(dropout.dropout_mask((shape[0], images), seed=run.seed, step=run.step, layer=index, rate=layer.rate).T)
            for index, layer, shape in drops]

"""The paper's two-column net in PyTorch, as one would write it there: what cpnet is compared with and timed against."""
import torch
from torch import nn
from torch.nn import functional as F

from cpnet.nets import PROFILES
from cpnet.ops import dropout

LAYERS = ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"]


class TorchAlexNet(nn.Module):
    """images (N, 3, size, size) → logits (N, classes). `lrn`: a function (x, alpha) → x, normalising within each column."""

    def __init__(self, size=224, classes=1000, profile="paper", lrn=None):
        super().__init__()
        final = (((size + 3 - 11) // 4 + 1 - 1) // 2 - 1) // 2  # after conv1 and two pools; the third halves it again
        final = (final - 1) // 2
        self.profile, self.lrn = PROFILES[profile], lrn or library_lrn
        self.conv1 = nn.Conv2d(3, 96, 11, stride=4)
        self.conv2 = nn.Conv2d(96, 256, 5, padding=2, groups=2)
        self.conv3 = nn.Conv2d(256, 384, 3, padding=1)
        self.conv4 = nn.Conv2d(384, 384, 3, padding=1, groups=2)
        self.conv5 = nn.Conv2d(384, 256, 3, padding=1, groups=2)
        self.fc6 = nn.Linear(256 * final**2, 4096)
        self.fc7 = nn.Linear(4096, 4096)
        self.fc8 = nn.Linear(4096, classes)

    def forward(self, x, masks=None):
        """`masks`: what the outputs of fc6 and fc7 are multiplied by, each (N, 4096) or a number; by default PyTorch's dropout
        (which multiplies by 2 in training and by 1 at test)."""
        alpha = self.profile.lrn_alpha
        x = self.conv1(F.pad(x, (0, 3, 0, 3)))  # the last window hangs over the right and lower edge by 3 pixels
        if self.profile.block1 == "act lrn pool":
            x = F.max_pool2d(self.lrn(F.relu(x), alpha), 3, 2)
        else:
            x = F.relu(F.max_pool2d(self.lrn(x, alpha), 3, 2))
        x = F.max_pool2d(self.lrn(F.relu(self.conv2(x)), alpha), 3, 2)
        x = F.relu(self.conv3(x))
        x = F.relu(self.conv4(x))
        x = F.max_pool2d(F.relu(self.conv5(x)), 3, 2).flatten(1)
        for number, layer in enumerate([self.fc6, self.fc7]):
            x = F.relu(layer(x))
            x = F.dropout(x, 0.5, self.training) if masks is None else x * masks[number]
        return self.fc8(x)


def library_lrn(x, alpha):
    """PyTorch's own, which divides α by n, on each column as if it were an image of its own."""
    n, channels, height, width = x.shape
    columns = x.reshape(2 * n, channels // 2, height, width)
    return F.local_response_norm(columns, 5, alpha=5 * alpha, beta=0.75, k=2.0).reshape(x.shape)


def fast_lrn(x, alpha):
    """The same by five shifted sums and two square roots: what `torch.compile` makes the best of."""
    n, channels, height, width = x.shape
    columns = x.reshape(n, 2, channels // 2, height, width)
    squares = F.pad(columns * columns, (0, 0, 0, 0, 2, 2))
    total = sum(squares[:, :, shift:shift + channels // 2] for shift in range(5))
    root = torch.rsqrt(2.0 + alpha * total)
    return (columns * root * torch.sqrt(root)).reshape(x.shape)


def load(model, network):
    """Give the model the network's weights and biases."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(network.get("values", name)))


def optimizer(model, rate, decay=0.0005, **options):
    """Section 5's rule: no decay of biases, which in profile as-run learn twice as fast."""
    weights, biases = ([parameter for name, parameter in model.named_parameters() if name.endswith(ending)]
                       for ending in ("weight", "bias"))
    return torch.optim.SGD([{"params": weights, "weight_decay": decay},
                            {"params": biases, "weight_decay": 0.0, "lr": rate * model.profile.bias_rate}],
                           lr=rate, momentum=0.9, **options)


def masks(network, images, run):
    """The factors of the dropout layers in this pass, as the model takes them: the network's masks, or 1 − rate at test."""
    layers = [(index, layer) for index, layer in enumerate(network.table.layers) if layer.name.endswith("dropout")]
    if not run.training:
        return [1 - layer.rate for _, layer in layers]
    return [torch.from_numpy(dropout.dropout_mask((4096, images), seed=run.seed, step=run.step, layer=index, rate=layer.rate).T)
            for index, layer in layers]

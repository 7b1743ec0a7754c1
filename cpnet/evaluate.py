"""Errors of a net on a split (sections 2, 4.1 and 6): top-1, top-5 and loss, from the central crop or from ten views."""
import numpy as np
from tqdm import tqdm

from cpnet.errors import CpnetError
from cpnet.feed import Feed
from cpnet.launch import to_host
from cpnet.layers import Pass
from cpnet.nets import crop_size
from cpnet.ops import softmax

TOP = 5


class Stopped(Exception):
    """Somebody asked the program to stop."""


def check_data(table, dataset):
    """Raises CpnetError unless the net can see and name this data set's images."""
    size, crop = (dataset.channels, dataset.height, dataset.width), table.image
    if crop[0] != size[0] or crop[1] != crop_size(min(size[1:])):
        raise CpnetError(f"{dataset.path}: its images are {'×'.join(map(str, size))}, "
                         f"the net was made for crops of {'×'.join(map(str, crop))} pixels")
    if len(dataset.classes) != table.settings["classes"]:
        raise CpnetError(f"{dataset.path}: has {len(dataset.classes)} classes, the net {table.settings['classes']}")


def probabilities(network, images):
    """images (C, H, W, N) → probabilities (classes, N), both NumPy's; the net is used as at test time."""
    return to_host(softmax.softmax(network.forward(images, Pass())))


def evaluate(network, dataset, split="val", *, crops=1, batch=128, threads=1, progress=False, stop=lambda: False):
    """{"loss", "top1", "top5", "images"}: errors as fractions, loss the mean cross-entropy.

    With ten `crops` the softmax is averaged over the four corners, the centre and their mirrors, and the loss is that of
    the average. Raises Stopped once `stop()` is true.
    """
    loss = wrong = wrong5 = seen = 0
    batch = max(1, batch // crops)
    with Feed(network, dataset, split, batch=batch, mode="centre" if crops == 1 else "ten", threads=threads) as feed:
        for images, labels, _ in tqdm(feed, desc=split, unit="batch", leave=False, disable=not progress):
            if stop():
                raise Stopped
            n = len(labels)
            if crops == 1:
                labels = network.devices[0].put(labels)
                logits = network.forward(images, Pass())
                losses = softmax.cross_entropy_forward(logits, labels, check=False)
                loss += float(to_host(losses).sum(dtype=np.float64))
                rank = to_host(softmax.label_rank(logits, labels))
            else:
                mean = probabilities(network, images).reshape(-1, crops, n).mean(axis=1)
                labels = to_host(labels)
                right = mean[labels, np.arange(n)]
                loss -= float(np.log(np.maximum(right, np.finfo(mean.dtype).tiny)).sum(dtype=np.float64))
                rank = softmax.label_rank(mean, labels)
            wrong += int((rank >= 1).sum())
            wrong5 += int((rank >= min(TOP, len(dataset.classes))).sum())
            seen += n
    return {"loss": loss / seen, "top1": wrong / seen, "top5": wrong5 / seen, "images": seen}

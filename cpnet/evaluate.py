"""What a net says of a whole split, from the central crop or from ten views (sections 2, 4.1 and 6)."""
import numpy as np
from tqdm import tqdm

from cpnet.errors import CpnetError, Stopped
from cpnet.gpu.feed import Feed
from cpnet.gpu.memory import to_host
from cpnet.layers import Pass
from cpnet.ops import softmax
from cpnet.scores import scores
from data.store.identity import class_difference, reorder


def check_data(table, dataset):
    """Raises CpnetError unless the net can see and name this data set's images."""
    size, crop = (dataset.channels, dataset.height, dataset.width), table.image
    if not table.takes(size):
        raise CpnetError(f"{dataset.path}: its images are {'×'.join(map(str, size))}, "
                         f"the net was made for crops of {'×'.join(map(str, crop))} pixels")
    if len(dataset.classes) != table.settings["classes"]:
        raise CpnetError(f"{dataset.path}: has {len(dataset.classes)} classes, the net "
                         f"{table.settings['classes']}")


def see_as_trained(checkpoint, dataset, *, by_name=False):
    """Have the data set's images seen as those that the checkpoint's net was trained on were:
    less that set's mean image. With `by_name`, its classes are numbered as the net's are.

    Raises CpnetError unless the net can see and name these images: the classes are the same, in one order.
    """
    check_data(checkpoint.table(), dataset)
    if by_name:
        try:
            reorder(dataset, checkpoint.classes)
        except ValueError:
            pass  # the names differ, and the line below says where
    differs = class_difference(dataset.classes, checkpoint.classes)
    if differs:
        same = sorted(dataset.classes) == sorted(checkpoint.classes)
        raise CpnetError(f"{dataset.path}: does not have the classes of {checkpoint.path}: {differs}"
                         + "; --by-name matches them by their names" * same)
    if checkpoint.mean.shape != dataset.mean.shape:
        raise CpnetError(f"{dataset.path}: its images are {'×'.join(map(str, dataset.mean.shape))}, those "
                         f"that {checkpoint.path} was trained on {'×'.join(map(str, checkpoint.mean.shape))}")
    dataset.mean = checkpoint.mean


def probabilities(network, images):
    """images (C, H, W, N) → probabilities (classes, N), both NumPy's; the net is used as at test time.

    Raises CpnetError where they are no numbers, which damaged weights lead to.
    """
    found = to_host(softmax.softmax(network.forward(images, Pass())))
    if not np.isfinite(found).all():
        raise CpnetError("the net's outputs are not finite numbers: its weights are too large, or damaged")
    return found


def predict_split(network, dataset, split, *, crops=1, batch=128, threads=1, progress=False,
                  stop=lambda: False):
    """Probabilities float (N, classes) for the images of a split, in its order.

    With ten `crops`, the average over the four corners, the centre and their mirrors.
    Raises Stopped once `stop()` is true.
    """
    result = np.empty((len(dataset.split(split)), len(dataset.classes)), network.dtype)
    batch = max(1, min(batch // crops, len(result)))
    with Feed(network, dataset, split, batch=batch, mode="centre" if crops == 1 else "ten",
              threads=threads) as feed:
        for images, _, indices in tqdm(feed, desc=split, unit="batch", leave=False, disable=not progress):
            if stop():
                raise Stopped
            chances = probabilities(network, images)
            result[indices] = chances.reshape(len(chances), crops, -1).mean(axis=1).T
    return result


def evaluate(network, dataset, split="val", **options):
    """scores.scores of the net on a split: {"loss", "top1", "top5", "images"}. options: of predict_split."""
    return scores(predict_split(network, dataset, split, **options), dataset.split(split).labels)

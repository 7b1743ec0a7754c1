"""Weights of Caffe's AlexNet (bvlc_alexnet) and CaffeNet (bvlc_reference_caffenet),
as an .npz of plain arrays.

The arrays are Caffe's: conv1 … conv5 filters (F, C/groups, R, S), fc6 … fc8 (outputs, inputs), biases
(outputs), in any of the spellings of `SPELLING`. What Caffe does otherwise, and where it is made right:

    blue, green, red                    conv1's channels and the mean are turned round here
    dropout multiplies by 2 in training     ours by 0.5 at test: the weights of fc7 and fc8 are doubled here
    normalization over all maps, k = 1, α divided by n = 5; in CaffeNet after pooling       the same profiles
    crops of 227 pixels, no padding         the same profiles; conv1's 3 pixels of padding are then never read
"""
import re

import numpy as np

from cpnet import nets
from cpnet.errors import CpnetError
from cpnet.formats.export import Trained, fold_dropout, load_npz

PROFILES = {"alexnet": "caffe-alexnet", "caffenet": "caffenet"}
CROP = 227
SPELLING = re.compile(r"(conv[1-5]|fc[678])(?:[._/ -]?(weights?|w|biases|bias|b)|[._/ -]([01]))(?::0)?",
                      re.IGNORECASE)


def read(path, variant, classes, mean):
    """The Trained net of Caffe's `variant`, "alexnet" or "caffenet". classes: the file that names them,
    a line each; mean: an .npy file, or three numbers, as `read_mean` has them.
    Raises CpnetError naming whatever does not fit."""
    names, mean = read_classes(classes), read_mean(mean)
    values = _by_our_names(path, load_npz(path, "an .npz of Caffe's weights"))
    table = nets.build("alexnet", (3, CROP, CROP), len(names), PROFILES[variant])
    parameters = table.parameters()
    for name in [*values, *parameters]:
        if name not in values:
            raise CpnetError(f"{path}: lacks {name}")
        values[name] = _checked(path, name, values[name], parameters[name].shape,
                                f"{classes} names {len(names)} classes")
    values["conv1.weight"] = np.ascontiguousarray(values["conv1.weight"][:, ::-1])
    # Caffe's weights are folded: at test its dropout does nothing
    values = fold_dropout(table, values, undo=True)
    settings = {"table": table.settings, "data": None, "seed": 0, "made_from": f"Caffe's {variant}, {path}"}
    return Trained(settings, values, mean, names)


def _by_our_names(path, arrays):
    """{"conv1.weight": array, …} of arrays in one of Caffe's spellings.
    Raises CpnetError for a name that is none, or twice."""
    values = {}
    for spelled, array in arrays.items():
        match = SPELLING.fullmatch(spelled)
        if not match:
            raise CpnetError(f"{path}: {spelled} {array.shape} is no array of Caffe's net; those are conv1 … "
                             "conv5 and fc6 … fc8 with .weight and .bias, _w and _b, .0 and .1, or the like")
        layer, word, number = match.groups()
        name = f"{layer.lower()}.{'weight' if (word or number).lower()[0] in 'w0' else 'bias'}"
        if name in values:
            raise CpnetError(f"{path}: has {name} twice, the second time as {spelled}")
        values[name] = array
    return values


def _checked(path, name, array, shape, classes):
    """The array as float32 of this shape, without the axes of length 1 that Caffe's old blobs begin with."""
    found = array.shape
    while array.ndim > len(shape) and array.shape[0] == 1:
        array = array[0]
    if array.shape != shape:
        reason = classes if name.startswith("fc8") and array.shape[1:] == shape[1:] else \
            "filters are (F, C/groups, R, S), fully-connected weights (outputs, inputs)"
        raise CpnetError(f"{path}: {name} is {found}, Caffe's net has {shape}: {reason}")
    if array.dtype.kind != "f":
        raise CpnetError(f"{path}: {name} holds {array.dtype}, not floats")
    return array.astype(np.float32, copy=False)


def read_classes(path):
    """The lines of a text file, such as Caffe's synset_words.txt. Raises CpnetError if it cannot be read."""
    try:
        with open(path, encoding="utf-8") as file:
            names = [line.strip() for line in file.read().strip().splitlines()]
    except (OSError, ValueError) as error:
        raise CpnetError(f"{path}: cannot be read as class names, a line each ({error})") from error
    if not all(names):
        raise CpnetError(f"{path}: line {names.index('') + 1} names no class")
    return names


def read_mean(text):
    """Caffe's mean → ours, RGB float32 (3, H, W). `text` is "B,G,R" or the path of an .npy of shape (3),
    (3, H, W) or (1, 3, H, W), blue first, in units of pixels 0…255. One colour becomes an image of 256×256.
    Raises CpnetError for others."""
    try:
        mean = np.array([float(number) for number in text.split(",")])
    except ValueError:
        try:
            with open(text, "rb") as file:
                mean = np.lib.format.read_array(file, allow_pickle=False)
        except (OSError, ValueError, EOFError, MemoryError) as error:
            raise CpnetError(f"--mean {text}: is neither three numbers, blue,green,red, nor a readable .npy "
                             f"file ({error})") from error
    found = mean.shape
    if mean.ndim == 4 and len(mean) == 1:
        mean = mean[0]
    if mean.shape == (3,):
        mean = np.broadcast_to(mean[:, None, None], (3, 256, 256))
    if mean.ndim != 3 or len(mean) != 3 or mean.dtype.kind not in "fu":
        raise CpnetError(f"--mean {text}: is {found} of {mean.dtype}, not (3) or (3, H, W): a colour or an "
                         "image, blue first")
    return np.ascontiguousarray(mean[::-1], np.float32)

"""A checkpoint's weights for other programs, and back:
as .npz or .safetensors (docs/formats.md; ONNX: export_onnx.py).

    conv1.weight (F, C/groups, R, S), conv1.bias (F), …,
    fc6.weight (outputs, C·H·W of the input, in that order), fc6.bias, …
    mean (C, H, W) uint8's scale, classes (names), description (JSON text: settings and, layer by layer, all
    that the same predictions take: groups, strides, padding, response normalization's scope and constants,
    the ×0.5 at test)
"""
import importlib
import io
import json
import os
import zipfile
from dataclasses import dataclass

import numpy as np

from cpnet import checkpoint, nets
from cpnet.errors import CpnetError
from cpnet.gpu.devices import named
from cpnet.layers import LRN, AveragePool, Conv, Dropout, Linear, MaxPool, ReLU, Tanh
from cpnet.network import Network
from cpnet.state import State

# folded: dropout's ×0.5 at test is in the weights that follow
FORMAT, FOLDED = "cpnet-export-1", "cpnet-export-1-folded"
INPUT = ("RGB (or grey) pixels 0…255, shorter side scaled to the mean image's size, central square, minus "
         "mean, central crop of image[1]×image[2]; arrays are (C, H, W)")


@dataclass
class Trained:
    """A trained net apart from any file: a run's settings, its parameters by name, mean image (C, H, W),
    class names."""
    settings: dict
    values: dict
    mean: np.ndarray
    classes: list

    @property
    def table(self):
        return nets.build(**self.settings["table"])


def from_checkpoint(path):
    """The Trained net of a checkpoint. Raises CpnetError if it cannot be read."""
    saved = checkpoint.Checkpoint(path)
    table = saved.table()  # refuses settings that make no net
    checkpoint.check_arrays(path, saved.arrays["values"], table.parameters())
    if saved.arrays["state"]:
        raise CpnetError(f"{path}: has layers with state ({', '.join(saved.arrays['state'])}), which the "
                         "formats of export have no place for; cpnet/formats/export.py is where to make one")
    return Trained(saved.settings, saved.arrays["values"], saved.mean, saved.classes)


def to_checkpoint(path, trained, source):
    """Write a checkpoint; its velocities are zero. `source`: the file that errors name.
    Raises CpnetError where anything does not fit the net of the settings."""
    table = trained.table
    _check_surroundings(source, trained, table)
    checkpoint.check_arrays(source, trained.values, table.parameters())
    network = Network(table, named("cpu", table.columns))
    for name, array in trained.values.items():
        network.set("values", name, array)
    checkpoint.save(path, network, settings=trained.settings, state=vars(State()), mean=trained.mean,
                    classes=trained.classes)


def _check_surroundings(source, trained, table):
    """Raises CpnetError unless mean image and class names are such as the net needs."""
    mean, (channels, crop, _) = trained.mean, table.image
    if not table.takes(mean.shape):
        raise CpnetError(f"{source}: the mean image is {'×'.join(map(str, mean.shape))}, the net needs "
                         f"{channels} channels, of a size whose crops have {crop} pixels a side")
    if mean.dtype.kind not in "fu" or not np.isfinite(mean).all():
        raise CpnetError(f"{source}: the mean image holds values that are not finite numbers")
    if len(trained.classes) != table.settings["classes"]:
        raise CpnetError(f"{source}: names {len(trained.classes)} classes, the net has "
                         f"{table.settings['classes']}")


# What the arrays mean


def describe(table, folded=False):
    """What a reader needs beside the arrays to get the same predictions: a dict that JSON can hold."""
    return {"format": FOLDED if folded else FORMAT, "settings": table.settings, "image": list(table.image),
            "columns": table.columns, "input": INPUT,
            "layers": [{"name": layer.name, **_meaning(layer, table.columns, folded)}
                       for layer in table.layers]}


def groups(layer, columns):
    """Into how many equal blocks of its input, each read by itself, a layer divides it."""
    return columns if layer.reads == "column" else 1


def _meaning(layer, columns, folded):
    match layer:
        case Conv():
            return {"kind": "convolution", "stride": layer.stride, "groups": groups(layer, columns),
                    "zeros above and left": layer.pads[0], "zeros below and right": layer.pads[1]}
        case Linear():
            return {"kind": "fully connected", "input": "features in C·H·W order",
                    "groups": groups(layer, columns)}
        case ReLU():
            return {"kind": "max(0, x)"}
        case Tanh():
            return {"kind": "tanh(x)"}
        case LRN():
            scope = "all maps"
            if layer.reads == "column":
                scope = f"each of the {columns} columns (equal blocks of maps) by itself"
            return {"kind": "response normalization",
                    "formula": "x / (k + alpha · Σ x²)^beta, the sum over n maps, "
                    "alpha not divided by n", "k": layer.k, "n": layer.n, "alpha": layer.alpha,
                    "beta": layer.beta,
                    "scope": scope}
        case MaxPool() | AveragePool():
            kind = "max" if isinstance(layer, MaxPool) else "average over the pixels inside the image"
            return {"kind": f"pooling: {kind}", "window": layer.z, "stride": layer.s,
                    "last window may hang over the edge": layer.ceil}
        case Dropout():
            factor = f"{1 - layer.rate:g}"
            return {"kind": "dropout", "at test": f"nothing: {factor} is in the weights of the layer that "
                                                  "follows" if folded
                    else f"multiply by {factor}"}
    raise CpnetError(f"a layer of type {type(layer).__name__} cannot be exported: _meaning in "
                     "cpnet/formats/export.py does not say what it computes")


def fold_dropout(table, values, undo=False):
    """`values` with each dropout's factor at test, 1 − rate, multiplied into the weights that follow it;
    or taken out again.

    With the paper's rate the factor is a half, so both are exact. The arrays of `values` stay as they are.
    """
    folded = dict(values)
    for layer, following in zip(table.layers, table.layers[1:], strict=False):
        if isinstance(layer, Dropout):
            if not isinstance(following, Conv | Linear):
                raise TypeError(f"{following.name}, after dropout, has no weights to take its factor")
            factor = np.float32(1 - layer.rate)
            name = f"{following.name}.weight"
            folded[name] = values[name] / factor if undo else values[name] * factor
    return folded


# Writing


def to_npz(trained, folded=False):
    """The bytes of an .npz file."""
    content = io.BytesIO()
    np.savez(content, **_values(trained, folded), mean=trained.mean, classes=np.array(trained.classes),
             description=np.array(_description(trained, folded)))
    return content.getbuffer()


def to_safetensors(trained, folded=False):
    """The bytes of a .safetensors file; classes (JSON text) and description are its metadata."""
    library = optional("safetensors.numpy", "the format safetensors")
    metadata = {"classes": json.dumps(trained.classes, ensure_ascii=False),
                "description": _description(trained, folded)}
    return library.save({**_values(trained, folded), "mean": trained.mean}, metadata)


def _values(trained, folded):
    return fold_dropout(trained.table, trained.values) if folded else trained.values


def _description(trained, folded):
    return json.dumps({**describe(trained.table, folded), "run": trained.settings}, indent=1,
                      ensure_ascii=False)


def optional(module, what):
    """A module of a package that only `what` needs. Raises CpnetError, saying how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise CpnetError(f"{what} needs a package that is not installed ({error}): "
                         f"pip install {module.partition('.')[0]}") from error


# Reading


def read(path):
    """The Trained net of an exported file. Raises CpnetError for other files."""
    arrays, classes, text = (_read_safetensors if str(path).endswith(".safetensors") else _read_npz)(path)
    try:
        description = json.loads(text)
        trained = Trained(description["run"], arrays, arrays.pop("mean"), [str(name) for name in classes])
        if description["format"] not in (FORMAT, FOLDED):
            raise CpnetError(f"its form is {description['format']!r}, this program reads {FORMAT!r} and "
                             f"{FOLDED!r}")
        trained.table.parameters()  # fails here if the settings make no net
        if description["format"] == FOLDED:
            trained.values = fold_dropout(trained.table, arrays, undo=True)
    except (CpnetError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise CpnetError(f"{path}: is not an exported net that this program can read ({error})") from error
    return trained


def _read_npz(path):
    """(arrays, class names, description) of a file, the last two empty where it has none."""
    arrays = load_npz(path, "an exported net")
    return arrays, arrays.pop("classes", ()), str(arrays.pop("description", ""))


def _read_safetensors(path):
    library = optional("safetensors", "the format safetensors")
    try:
        with library.safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}
        return arrays, json.loads(metadata.get("classes", "[]")), metadata.get("description", "")
    except FileNotFoundError:
        raise CpnetError(f"{path}: there is no such file") from None
    except (OSError, ValueError, TypeError, library.SafetensorError) as error:
        raise CpnetError(f"{path}: is not an exported net ({error})") from error


def load_npz(path, what):
    """{name: array} of an .npz file. Raises CpnetError, saying that it is not `what`, for anything else,
    and for arrays of Python objects, which would have to be unpickled."""
    if not os.path.isfile(path):
        raise CpnetError(f"{path}: there is no such file")
    if not zipfile.is_zipfile(path):
        raise CpnetError(f"{path}: is not {what} (not an .npz file)")
    arrays, name = {}, None
    try:
        with np.load(path, allow_pickle=False) as file:
            for name in file.files:
                arrays[name] = file[name]
    except Exception as error:  # NumPy, zipfile and zlib raise nearly anything for a damaged file
        reason = error
        if "pickle" in str(error):
            reason = "it is pickled, which this program never reads; save each array by itself"
        raise CpnetError(f"{path}: is not {what} ({f'{name}: ' * (name is not None)}{reason})") from error
    strange = [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]
    if strange:
        raise CpnetError(f"{path}: is not {what} ({strange[0]} is no array)")
    return arrays

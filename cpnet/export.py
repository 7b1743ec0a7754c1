"""A checkpoint's weights for other programs, as an .npz of plain arrays, and back.

    conv1.weight (F, C/groups, R, S), conv1.bias (F), …, fc6.weight (outputs, C·H·W of the input, in that order), fc6.bias, …
    mean (C, H, W) uint8's scale, classes (names), description (JSON text: settings and, layer by layer, all that the same
    predictions take: groups, strides, padding, response normalization's scope and constants, the ×0.5 at test)
"""
import io
import json
import zipfile

import numpy as np

from cpnet import checkpoint, nets
from cpnet.columns import devices
from cpnet.errors import CpnetError
from cpnet.layers import LRN, AveragePool, Conv, Dropout, Linear, MaxPool, ReLU, Tanh
from cpnet.network import Network
from cpnet.train import State

FORMAT = "cpnet-export-1"
INPUT = ("RGB (or grey) pixels 0…255, shorter side scaled to the mean image's size, central square, minus mean, "
         "central crop of image[1]×image[2]; arrays are (C, H, W)")


def describe(table):
    """What a reader needs beside the arrays to get the same predictions: a dict that JSON can hold."""
    return {"format": FORMAT, "settings": table.settings, "image": list(table.image), "columns": table.columns, "input": INPUT,
            "layers": [{"name": layer.name, **_meaning(layer, table.columns)} for layer in table.layers]}


def _meaning(layer, columns):
    match layer:
        case Conv():
            return {"kind": "convolution", "stride": layer.stride, "groups": columns if layer.reads == "column" else 1,
                    "zeros above and left": layer.pads[0], "zeros below and right": layer.pads[1]}
        case Linear():
            return {"kind": "fully connected", "input": "features in C·H·W order",
                    "groups": columns if layer.reads == "column" else 1}
        case ReLU():
            return {"kind": "max(0, x)"}
        case Tanh():
            return {"kind": "tanh(x)"}
        case LRN():
            return {"kind": "response normalization", "formula": "x / (k + alpha · Σ x²)^beta, the sum over n maps, "
                    "alpha not divided by n", "k": layer.k, "n": layer.n, "alpha": layer.alpha, "beta": layer.beta,
                    "scope": f"each of the {columns} columns (equal blocks of maps) by itself"}
        case MaxPool() | AveragePool():
            kind = "max" if isinstance(layer, MaxPool) else "average over the pixels inside the image"
            return {"kind": f"pooling: {kind}", "window": layer.z, "stride": layer.s,
                    "last window may hang over the edge": layer.ceil}
        case Dropout():
            return {"kind": "dropout", "at test": f"multiply by {1 - layer.rate:g}"}
    raise TypeError(f"no description of a layer of type {type(layer).__name__}")


def export_npz(source, out):
    """Write the checkpoint `source` to `out`. Raises CpnetError if the one cannot be read or the other written."""
    saved = checkpoint.Checkpoint(source)
    table = nets.build(**saved.settings["table"])
    content = io.BytesIO()
    np.savez(content, **saved.arrays["values"], mean=saved.mean, classes=np.array(saved.classes),
             description=np.array(json.dumps({**describe(table), "run": saved.settings}, indent=1, ensure_ascii=False)))
    checkpoint.write_atomically(out, content.getbuffer())


def import_npz(source, out):
    """Write the checkpoint `out` from an exported `source`; its velocities are zero. Raises CpnetError for other files."""
    try:
        with np.load(source, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        description = json.loads(str(arrays.pop("description")))
        mean, classes = arrays.pop("mean"), [str(name) for name in arrays.pop("classes")]
        settings, form = description["run"], description["format"]
    except FileNotFoundError:
        raise CpnetError(f"{source}: there is no such file") from None
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise CpnetError(f"{source}: is not an exported net ({error})") from error
    if form != FORMAT:
        raise CpnetError(f"{source}: has the form {form!r}, this program reads {FORMAT!r}")
    table = nets.build(**settings["table"])
    network = Network(table, devices("cpu", table.columns))
    checkpoint.check_arrays(source, arrays, network)
    for name, array in arrays.items():
        network.set("values", name, array)
    checkpoint.save(out, network, settings=settings, state=vars(State()), mean=mean, classes=classes)

"""A trained net as an ONNX file: pixels in, probabilities out,
the same as `predict` gives for the central crop.

    image float32 (N, C, crop, crop), RGB or grey, 0…255  →  probabilities float32 (N, classes)

The mean is subtracted inside, dropout's factor is in the weights that follow it.
What ONNX sees otherwise than we do:

- response normalization divides α by n, so it is given α·n; and it knows no columns, so they are split,
  normalised, joined;
- a pooling window that hangs over the edge is one that reads padding, which counts neither for the largest
  nor for the mean;
- a fully-connected layer of which each column reads only its own features is a convolution of 1×1 maps with
  groups.
"""
import json

import numpy as np

from cpnet.errors import CpnetError
from cpnet.formats.export import INPUT, describe, fold_dropout, groups, optional
from cpnet.layers import LRN, AveragePool, Conv, Dropout, Linear, MaxPool, ReLU, Tanh

# of ONNX 1.6 (2019): the operators have all that is needed, and nearly every reader knows them
OPSET, IR = 11, 6


def to_onnx(trained):
    """The bytes of an ONNX file of a Trained net; classes (JSON text) and description are its metadata."""
    onnx = optional("onnx", "the format onnx")
    table, values = trained.table, fold_dropout(trained.table, trained.values)
    model = onnx.ModelProto(ir_version=IR, producer_name="cpnet", doc_string=INPUT)
    model.opset_import.add(version=OPSET)
    onnx.helper.set_model_props(model, {
        "classes": json.dumps(trained.classes, ensure_ascii=False),
        "description": json.dumps({**describe(table, folded=True), "run": trained.settings},
                                  ensure_ascii=False)})
    graph = model.graph
    graph.name = table.settings["name"]
    ends = (graph.input, "image", table.image), (graph.output, "probabilities", [len(trained.classes)])
    for end, name, shape in ends:
        end.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", *shape]))
    nodes = [("Sub", ["image", "mean"], ["centred"], {})]
    constants = {"mean": _central(trained.mean, table.image)}
    x = "centred"
    for layer, shape, out in table.shapes():
        if isinstance(layer, Dropout):
            continue
        y = layer.name.replace(" ", "_")
        nodes += _nodes(layer, x, y, shape, out, groups(layer, table.columns))
        for key in layer.parameters(shape, table.columns):
            name = f"{layer.name}.{key}"
            constants[name] = values[name]
            if key == "weight" and isinstance(layer, Linear) and groups(layer, table.columns) > 1:
                constants[name] = constants[name][..., None, None]
        x = y
    nodes.append(("Softmax", [x], ["probabilities"], {"axis": 1}))
    for operator, inputs, outputs, attributes in nodes:
        graph.node.append(onnx.helper.make_node(operator, inputs, outputs, name=outputs[0], **attributes))
    for name, array in constants.items():
        graph.initializer.add(name=name, dims=array.shape, data_type=onnx.TensorProto.FLOAT,
                              raw_data=array.astype("<f4", copy=False).tobytes())
    try:
        content = model.SerializeToString()
        onnx.checker.check_model(content, full_check=True)
    except (ValueError, onnx.checker.ValidationError) as error:
        raise CpnetError(f"the net does not make an ONNX file ({error})") from error
    return content


def _central(mean, image):
    """The mean image's central crop, which is that of the image (section 2)."""
    _, height, width = image
    top, left = (mean.shape[1] - height) // 2, (mean.shape[2] - width) // 2
    return np.ascontiguousarray(mean[:, top:top + height, left:left + width], np.float32)


def _nodes(layer, x, y, shape, out, count):
    """Yields (operator, inputs, outputs, attributes) that make the layer's output, tensor `y`, of its input,
    tensor `x`.

    shape, out: an image's input and output, as in Table.shapes.
    count: the blocks of maps that are read apart.
    """
    parameters = [f"{layer.name}.weight", f"{layer.name}.bias"]
    match layer:
        case Conv():
            before, after = layer.pads
            yield "Conv", [x, *parameters], [y], {
                "kernel_shape": [layer.size] * 2, "strides": [layer.stride] * 2,
                "pads": [before, before, after, after], "group": count}
        case Linear() if count == 1:
            yield "Flatten", [x], [f"{y}_features"], {"axis": 1}
            yield "Gemm", [f"{y}_features", *parameters], [y], {"transB": 1}
        case Linear():
            yield "Flatten", [x], [f"{y}_features"], {"axis": 1}
            yield "Unsqueeze", [f"{y}_features"], [f"{y}_maps"], {"axes": [2, 3]}
            attributes = {"kernel_shape": [1, 1], "group": count}
            yield "Conv", [f"{y}_maps", *parameters], [f"{y}_columns"], attributes
            yield "Flatten", [f"{y}_columns"], [y], {"axis": 1}
        case ReLU() | Tanh():
            yield "Relu" if isinstance(layer, ReLU) else "Tanh", [x], [y], {}
        case LRN():
            constants = {"size": layer.n, "alpha": layer.alpha * layer.n, "beta": layer.beta, "bias": layer.k}
            if count == 1:
                yield "LRN", [x], [y], constants
                return
            before, after = ([f"{y}_column{k}{side}" for k in range(1, count + 1)] for side in ("_in", ""))
            yield "Split", [x], before, {"axis": 1}
            for one, other in zip(before, after, strict=True):
                yield "LRN", [one], [other], constants
            yield "Concat", after, [y], {"axis": 1}
        case MaxPool() | AveragePool():
            over = [max(0, (windows - 1) * layer.s + layer.z - size)
                    for windows, size in zip(out[1:], shape[1:], strict=True)]
            yield "MaxPool" if isinstance(layer, MaxPool) else "AveragePool", [x], [y], {
                "kernel_shape": [layer.z] * 2, "strides": [layer.s] * 2, "pads": [0, 0, *over]}
        case _:
            raise CpnetError(f"a layer of type {type(layer).__name__} cannot be exported: _nodes in "
                             "cpnet/formats/export_onnx.py has no ONNX operators for it")

"""Are the gradients that are written by hand the derivatives of what forward computes? A check
that needs no other library.

Take any function y = f(x), a random upstream gradient u (what backward receives as d_y) and a
random direction d. Then

    ⟨u, f(x + h·d) − f(x − h·d)⟩ / 2h   ≈   ⟨backward(u), d⟩

The left side needs forward only: two calls for an input of any size. The right side is one number that every
element of the gradient has a part in, so a wrong sign, a dropped term or a shifted index anywhere shows.
The sizes of d's elements are random, their signs those of the gradient: so its terms add up, and the sum is
never small by chance, which would leave only rounding errors to compare. In float64 with h = 6e-6,
the cube root of the rounding error, the two agree to about ten digits.

Inputs keep away from kinks, where there is no derivative: all values distinct for max pooling, none near zero
for ReLU. In a whole net nobody can place all of them, so there the step is shortened until no ReLU and no
pool changes its mind within it.
"""
from functools import partial

import numpy as np

from cpnet import layers, nets
from cpnet.gpu.devices import Device, named
from cpnet.gpu.memory import to_host
from cpnet.network import Network
from cpnet.ops import conv, dropout, linear, lrn, pointwise, pool, softmax
from cpnet.studies.ops import squared_error

TOLERANCE = 1e-6
STEP = 6e-6
CPU = Device()
SIDE = 20  # pixels: enough for every pool of the small nets to have windows that overlap


def check_gradient(forward, backward, inputs, rng, device=CPU):
    """Yields (input's name, relative error) for each input.

    forward(**inputs) → y; backward(d_y, **inputs) → the gradients in the order of `inputs`, a dict of float64
    arrays. They are given copies on `device`, which they may write over.
    """
    forward, backward = _on(device, forward), _on(device, backward)
    d_y = rng.standard_normal(forward(**inputs).shape)
    gradients = backward(d_y, **inputs)
    for (name, x), gradient in zip(inputs.items(), gradients, strict=True):
        if gradient.shape != x.shape:
            raise ValueError(f"the gradient of {name} has shape {gradient.shape}, not {x.shape}")
        # as large as x, so that one step suits all
        sizes = np.abs(rng.standard_normal(x.shape)) * np.sqrt(np.mean(x * x))
        direction = np.copysign(sizes, gradient)
        above, below = (forward(**{**inputs, name: x + step * direction}) for step in (STEP, -STEP))
        yield name, relative_error(np.sum(gradient * direction), np.sum(d_y * (above - below)) / (2 * STEP))


def _on(device, function):
    """`function` for NumPy arrays: with copies of them on `device`, and NumPy copies of its results."""
    def put(array):
        return device.put(np.array(array))

    def call(*arrays, **named):
        results = function(*map(put, arrays), **{name: put(array) for name, array in named.items()})
        return [np.array(to_host(result)) for result in results] if isinstance(results, list | tuple) else \
            np.array(to_host(results))
    return call


def relative_error(a, b):
    """|a − b| over the larger of the two.
    NaN where either is not finite: ask `error <= tolerance`, which NaN fails."""
    with np.errstate(invalid="ignore"):
        return abs(a - b) / np.maximum(np.maximum(abs(a), abs(b)), np.finfo(np.float64).tiny)


def operations(device=CPU, seed=0):
    """Rows (name, relative error): every operation, every input of it."""
    rng = np.random.default_rng(seed)
    for name, forward, backward, inputs in _cases(rng, device):
        for of, error in check_gradient(forward, backward, inputs, rng, device):
            yield f"{name}: d_{of}", error


def every_layer(device=CPU, seed=0):
    """Rows (name, relative error): every kind of layer, as the net runs it,
    its input and each of its parameters."""
    rng = np.random.default_rng(seed)
    for layer, maps, x in _layer_cases(rng):
        forward, backward, inputs = _placed(layer, maps, x, rng, device)
        for of, error in check_gradient(forward, backward, inputs, rng, device):
            yield f"layer {layer.name}: d_{of}", error


def network(name="mini", devices="cpu", *, image=None, classes=7, images=3, seed=0, **options):
    """Rows (name, relative error): the loss of the net `name` placed on `devices`,
    along each of its arrays of parameters.

    It is in training, with dropout: the same (seed, step) draw the same neurons each time.
    `image` is (C, H, W), by default small; `options` go to `nets.build`.
    """
    rng = np.random.default_rng(seed)
    side = max(SIDE, nets.look_up(name, nets.NETS, "net").smallest)
    image = image or (3, side, side)
    table = nets.build(name, image, classes, **options)
    net = Network(table, named(devices, table.columns), dtype=np.float64)
    _draw_parameters(net, rng)
    x = 5 * rng.standard_normal((*image, images))  # large enough for normalization to count its neighbours
    labels = rng.integers(classes, size=images)

    def loss():
        logits = net.forward(x, layers.Pass(training=True, seed=seed, step=1))
        return to_host(softmax.cross_entropy_forward(logits, net.devices[0].put(labels))).sum() / images

    loss()
    net.backward(labels)
    for parameter in net.parameters:
        w, gradient = net.get("values", parameter), net.get("gradients", parameter)
        direction = np.copysign(np.abs(rng.standard_normal(w.shape)) * np.sqrt(np.mean(w * w)), gradient)
        numeric = _slope(net, loss, parameter, w, direction)
        yield f"{name} on {devices}: {parameter}", relative_error(np.sum(gradient * direction), numeric)


def everything(name="mini", devices="cpu", **options):
    """Rows (name, relative error): operations, layers, and the net `name`, on the first device and on all of
    `devices`; where that is one, also with each column as if on one of its own."""
    count = nets.look_up(name, nets.NETS, "net").columns
    first, *others = devices.split(",")
    device, *_ = named(first, 1)
    yield from operations(device)
    yield from every_layer(device)
    for placed in dict.fromkeys([first, devices if others else ",".join([first] * count)]):
        yield from network(name, placed, **options)


def report(rows, tolerance=TOLERANCE):
    """The rows (name, relative error) as a table, a line each; what is not within the tolerance is marked."""
    rows = list(rows)
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join(f"{name:<{width}}  {error:8.1e}{'' if error <= tolerance else '  WRONG'}"
                     for name, error in rows)


# Whole nets


def _draw_parameters(net, rng):
    """Weights that pass on as much as they receive:
    with the paper's, small gradients would drown in rounding.

    The last layer's are smaller: where the softmax is nearly one or zero,
    the loss bends too sharply for the step.
    """
    last = net.table.layers[-1].name
    for name, parameter in net.parameters.items():
        std = (2 / np.prod(parameter.shape[1:])) ** 0.5 if name.endswith("weight") else 1.0
        std *= 0.2 if name == f"{last}.weight" else 1.0
        net.set("values", name, std * rng.standard_normal(parameter.shape))


def _slope(net, loss, parameter, w, direction):
    """The central difference of `loss()` at w along `direction`; NaN where no step is free of kinks."""

    def at(step):
        net.set("values", parameter, w + step * direction)
        return loss(), _choices(net)

    loss()
    here = _choices(net)
    slope = np.nan
    for step in STEP, STEP / 8, STEP / 64:
        (above, choices_above), (below, choices_below) = at(step), at(-step)
        if here == choices_above == choices_below:
            slope = (above - below) / (2 * step)
            break
    net.set("values", parameter, w)
    return slope


def _choices(net):
    """What the last forward pass decided at its kinks: which ReLUs let through, which pixel won each pool."""
    copies = [placed for row in net.rows for placed in row.copies]
    choices = []
    for placed in copies:
        if placed.bends_at_zero:
            choices.append((to_host(placed.y) > 0).tobytes())
        if isinstance(placed, layers.MaxPool):
            x, y = to_host(placed.x), to_host(placed.y)
            winners = pool.max_pool_backward(np.ones_like(y), x, y, z=placed.z, s=placed.s)
            choices.append(winners.tobytes())
    return choices


# Layers


def _layer_cases(rng):
    """Yields (layer, columns on its device, x)."""
    normal = rng.standard_normal
    yield layers.Conv("conv", 4, 3, pad=1, bias=1), 2, normal((6, 5, 4, 3))
    across = layers.Conv("conv that reads all columns", 4, 5, stride=4, pad=(0, 3), reads="all")
    yield across, 2, normal((6, 10, 10, 2))
    yield layers.Linear("linear", 5), 2, normal((6, 4))
    yield layers.Linear("linear over maps", 5), 2, normal((4, 3, 2, 3))
    x = normal((4, 3, 3, 5))
    yield layers.ReLU("relu"), 2, x + 0.1 * np.sign(x)
    yield layers.Tanh("tanh"), 2, x
    yield layers.LRN("lrn", alpha=0.5), 2, normal((14, 3, 2, 3))
    yield layers.MaxPool("max pool"), 2, _distinct(rng, (2, 8, 9, 3))
    yield layers.AveragePool("average pool"), 2, normal((2, 8, 9, 3))
    yield layers.Dropout("dropout"), 2, normal((20, 7))


def _placed(layer, maps, x, rng, device):
    """(forward, backward, inputs) of `layer`, with random parameters, as `check_gradient` takes them."""
    layer.device, layer.columns, layer.index, layer.first_unit = device, maps, 3, 0
    shapes = {name: parameter.shape for name, parameter in layer.parameters(x.shape[:-1], maps).items()}
    layer.gradients = {name: device.empty(shape, np.float64) for name, shape in shapes.items()}
    layer.state = {name: device.put(np.full(each.shape, each.value))
                   for name, each in layer.initial_state(x.shape[:-1], maps).items()}

    def forward(x, **parameters):
        layer.values = parameters
        return layer.forward(x, layers.Pass(training=True, seed=1, step=2))

    def backward(d_y, x, **parameters):
        forward(x, **parameters)
        return [layer.backward(d_y), *layer.gradients.values()]

    return forward, backward, {"x": x, **{name: rng.standard_normal(shape) for name, shape in shapes.items()}}


# Operations


def _cases(rng, device):
    """Yields (name, forward, backward, inputs) as `check_gradient` takes them."""
    normal = rng.standard_normal
    yield _conv(device, "conv", normal((3, 6, 7, 4)), normal((5, 3, 3, 3)), normal(5), pad=(1, 1))
    yield _conv(device, "conv, 2 groups", normal((4, 6, 5, 3)), normal((6, 2, 3, 2)), normal(6),
                pad=(1, 1), groups=2)
    yield _conv(device, "conv, stride 4, pad (0, 3)", normal((3, 12, 12, 2)), normal((4, 3, 7, 7)),
                normal(4), stride=4, pad=(0, 3))
    yield _conv(device, "conv, one image", normal((2, 5, 5, 1)), normal((3, 2, 3, 3)), normal(3))

    # With α = 1e-4 and inputs near 1 the neighbours hardly count, and a gradient without them might pass;
    # near 100 they do.
    yield _lrn("lrn, α = 0.5", normal((7, 3, 2, 3)), alpha=0.5)
    yield _lrn("lrn, α = 0.5, 2 groups", normal((12, 2, 3, 2)), alpha=0.5, groups=2)
    yield _lrn("lrn, α = 1e-4, inputs × 100", 100 * normal((7, 3, 2, 3)), alpha=1e-4)
    yield _lrn("lrn, β = 0.5, n = 3, k = 1", normal((5, 2, 2, 2)), k=1.0, n=3, alpha=0.5, beta=0.5)

    for z, s in (3, 2), (2, 2), (2, 3):
        for ceil in True, False:
            yield _max_pool(_distinct(rng, (2, 8, 9, 3)), z=z, s=s, ceil=ceil)
            yield _average_pool(normal((2, 8, 9, 3)), z=z, s=s, ceil=ceil)

    for name in "relu", "tanh":
        forward, backward = getattr(pointwise, f"{name}_forward"), getattr(pointwise, f"{name}_backward")
        x = normal((4, 3, 3, 5))
        yield (name, forward, lambda d_y, x, f=forward, b=backward: [b(d_y, f(x))],
               {"x": x + 0.1 * np.sign(x)})

    mask = device.put(dropout.dropout_mask((9, 7), seed=1, step=2, layer=3))
    yield ("dropout", lambda x: dropout.dropout_forward(x, mask),
           lambda d_y, x: [dropout.dropout_backward(d_y, mask)], {"x": normal((9, 7))})
    yield ("linear", linear.linear_forward, partial(_linear_backward, device),
           {"x": normal((6, 5)), "w": normal((4, 6)), "b": normal(4)})

    labels = device.put(rng.integers(8, size=5))
    # The losses' sum over a batch of 11 images, 5 of them here, is one number:
    # its own upstream gradient scales the rest.
    yield ("softmax and cross-entropy",
           lambda logits: to_host(softmax.cross_entropy_forward(logits, labels)).sum(keepdims=True) / 11,
           lambda d_loss, logits: [
               to_host(d_loss) * to_host(softmax.cross_entropy_backward(logits, labels, 11))],
           {"logits": normal((8, 5))})
    x = device.put(normal((6, 5)))
    yield ("squared error",
           lambda y: to_host(squared_error.squared_error_forward(y, x)).sum(keepdims=True) / 11,
           lambda d_loss, y: [to_host(d_loss) * to_host(squared_error.squared_error_backward(y, x, 11))],
           {"y": normal((6, 5))})


def _conv(device, name, x, w, b, **options):
    def backward(d_y, x, w, b):
        d_w, d_b = device.empty(w.shape, w.dtype), device.empty(b.shape, b.dtype)
        return conv.conv_backward(d_y, x, w, d_w, d_b, **options), d_w, d_b

    return name, lambda x, w, b: conv.conv_forward(x, w, b, **options), backward, {"x": x, "w": w, "b": b}


def _lrn(name, x, **options):
    return (name, lambda x: lrn.lrn_forward(x, **options),
            lambda d_y, x: [lrn.lrn_backward(d_y, x, **options)], {"x": x})


def _max_pool(x, z, s, ceil):
    def backward(d_y, x):
        return [pool.max_pool_backward(d_y, x, pool.max_pool_forward(x, z=z, s=s, ceil=ceil), z=z, s=s)]

    return (_pool_name("max", z, s, ceil), lambda x: pool.max_pool_forward(x, z=z, s=s, ceil=ceil), backward,
            {"x": x})


def _average_pool(x, z, s, ceil):
    return (_pool_name("average", z, s, ceil), lambda x: pool.average_pool_forward(x, z=z, s=s, ceil=ceil),
            lambda d_y, x: [pool.average_pool_backward(d_y, x.shape, z=z, s=s)], {"x": x})


def _pool_name(kind, z, s, ceil):
    return f"{kind} pool, z = {z}, s = {s}, {'ceil' if ceil else 'floor'}"


def _linear_backward(device, d_y, x, w, b):
    d_w, d_b = device.empty(w.shape, w.dtype), device.empty(b.shape, b.dtype)
    return linear.linear_backward(d_y, x, w, d_w, d_b), d_w, d_b


def _distinct(rng, shape):
    """Values in random order, no two closer than the step could bring together."""
    return rng.permutation(np.linspace(-1, 1, int(np.prod(shape)))).reshape(shape)

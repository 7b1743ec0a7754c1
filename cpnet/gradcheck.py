"""Are the gradients that are written by hand the derivatives of what forward computes? A check that needs no other library.

Take any function y = f(x), a random upstream gradient u (what backward receives as d_y) and a random direction d. Then

    ⟨u, f(x + h·d) − f(x − h·d)⟩ / 2h   ≈   ⟨backward(u), d⟩

The left side needs forward only: two calls for an input of any size. The right side is one number that every element of the
gradient has a part in, so a wrong sign, a dropped term or a shifted index anywhere shows. The sizes of d's elements are random,
their signs those of the gradient: so its terms add up, and the sum is never small by chance, which would leave only rounding
errors to compare. In float64 with h = 6e-6, the cube root of the rounding error, the two agree to about ten digits.

Inputs keep away from kinks, where there is no derivative: all values distinct for max pooling, none near zero for ReLU.
"""
import numpy as np

from cpnet.ops import conv, dropout, linear, lrn, pointwise, pool, softmax

TOLERANCE = 1e-6
STEP = 6e-6


def check_gradient(forward, backward, inputs, rng):
    """Yields (input's name, relative error) for each input.

    forward(**inputs) → y; backward(d_y, **inputs) → the gradients in the order of `inputs`, a dict of float64 arrays.
    """
    d_y = rng.standard_normal(forward(**inputs).shape)
    gradients = backward(d_y, **inputs)
    for (name, x), gradient in zip(inputs.items(), gradients, strict=True):
        if gradient.shape != x.shape:
            raise ValueError(f"the gradient of {name} has shape {gradient.shape}, not {x.shape}")
        sizes = np.abs(rng.standard_normal(x.shape)) * np.sqrt(np.mean(x * x))  # as large as x, so that one step suits all
        direction = np.copysign(sizes, gradient)
        above, below = (forward(**{**inputs, name: x + step * direction}) for step in (STEP, -STEP))
        yield name, relative_error(np.sum(gradient * direction), np.sum(d_y * (above - below)) / (2 * STEP))


def relative_error(a, b):
    """|a − b| over the larger of the two. NaN where either is not finite: ask `error <= tolerance`, which NaN fails."""
    with np.errstate(invalid="ignore"):
        return abs(a - b) / np.maximum(np.maximum(abs(a), abs(b)), np.finfo(np.float64).tiny)


def operations(seed=0):
    """Rows (name, relative error): every operation, every input of it."""
    rng = np.random.default_rng(seed)
    for name, forward, backward, inputs in _cases(rng):
        for of, error in check_gradient(forward, backward, inputs, rng):
            yield f"{name}: d_{of}", error


def report(rows, tolerance=TOLERANCE):
    """The rows (name, relative error) as a table, a line each; what is not within the tolerance is marked."""
    rows = list(rows)
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join(f"{name:<{width}}  {error:8.1e}{'' if error <= tolerance else '  WRONG'}" for name, error in rows)


# The cases. Layers and whole nets are checked the same way: another generator of rows beside `operations`.


def _cases(rng):
    """Yields (name, forward, backward, inputs) as `check_gradient` takes them."""
    normal = rng.standard_normal
    yield _conv("conv", normal((3, 6, 7, 4)), normal((5, 3, 3, 3)), normal(5), pad=(1, 1))
    yield _conv("conv, 2 groups", normal((4, 6, 5, 3)), normal((6, 2, 3, 2)), normal(6), pad=(1, 1), groups=2)
    yield _conv("conv, stride 4, pad (0, 3)", normal((3, 12, 12, 2)), normal((4, 3, 7, 7)), normal(4), stride=4, pad=(0, 3))
    yield _conv("conv, one image", normal((2, 5, 5, 1)), normal((3, 2, 3, 3)), normal(3))

    # With α = 1e-4 and inputs near 1 the neighbours hardly count, and a gradient without them might pass; near 100 they do.
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
        yield (name, forward, lambda d_y, x, f=forward, b=backward: [b(d_y, f(x))], {"x": x + 0.1 * np.sign(x)})

    mask = dropout.dropout_mask((9, 7), seed=1, step=2, layer=3)
    yield ("dropout", lambda x: dropout.dropout_forward(x, mask), lambda d_y, x: [dropout.dropout_backward(d_y, mask)],
           {"x": normal((9, 7))})
    yield ("linear", linear.linear_forward, _linear_backward, {"x": normal((6, 5)), "w": normal((4, 6)), "b": normal(4)})

    labels = rng.integers(8, size=5)
    # The losses' sum over a batch of 11 images, 5 of them here, is one number: its own upstream gradient scales the rest.
    yield ("softmax and cross-entropy",
           lambda logits: softmax.cross_entropy_forward(logits, labels).sum(keepdims=True) / 11,
           lambda d_loss, logits: [d_loss * softmax.cross_entropy_backward(logits, labels, 11)], {"logits": normal((8, 5))})


def _conv(name, x, w, b, **options):
    def backward(d_y, x, w, b):
        d_w, d_b = np.empty_like(w), np.empty_like(b)
        return conv.conv_backward(d_y, x, w, d_w, d_b, **options), d_w, d_b

    return name, lambda x, w, b: conv.conv_forward(x, w, b, **options), backward, {"x": x, "w": w, "b": b}


def _lrn(name, x, **options):
    return name, lambda x: lrn.lrn_forward(x, **options), lambda d_y, x: [lrn.lrn_backward(d_y, x, **options)], {"x": x}


def _max_pool(x, z, s, ceil):
    def backward(d_y, x):
        _, winner = pool.max_pool_forward(x, z=z, s=s, ceil=ceil)
        return [pool.max_pool_backward(d_y, winner, x.shape, z=z, s=s)]

    return _pool_name("max", z, s, ceil), lambda x: pool.max_pool_forward(x, z=z, s=s, ceil=ceil)[0], backward, {"x": x}


def _average_pool(x, z, s, ceil):
    return (_pool_name("average", z, s, ceil), lambda x: pool.average_pool_forward(x, z=z, s=s, ceil=ceil),
            lambda d_y, x: [pool.average_pool_backward(d_y, x.shape, z=z, s=s)], {"x": x})


def _pool_name(kind, z, s, ceil):
    return f"{kind} pool, z = {z}, s = {s}, {'ceil' if ceil else 'floor'}"


def _linear_backward(d_y, x, w, b):
    d_w, d_b = np.empty_like(w), np.empty_like(b)
    return linear.linear_backward(d_y, x, w, d_w, d_b), d_w, d_b


def _distinct(rng, shape):
    """Values in random order, no two closer than the step could bring together."""
    return rng.permutation(np.linspace(-1, 1, int(np.prod(shape)))).reshape(shape)

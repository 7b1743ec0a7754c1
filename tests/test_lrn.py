import numpy as np
import pytest

from cpnet.ops.lrn import lrn_backward, lrn_forward
from tests import reference

# (C, H, W, N), options. At α = 1e-4 the inputs are 100 times as large: near 1 they would not notice a missing neighbour.
CASES = [
    ((7, 3, 2, 3), {"alpha": 0.5}),
    ((7, 3, 2, 1), {"alpha": 1e-4}),
    ((12, 2, 3, 5), {"alpha": 0.5, "groups": 2}),
    ((9, 1, 1, 130), {"alpha": 1e-4, "groups": 3}),
    ((6, 2, 2, 3), {"alpha": 0.5, "n": 3, "beta": 0.5, "k": 1.0}),
    ((6, 2, 2, 3), {"alpha": 0.3, "n": 1, "beta": 1.0}),
    ((4, 2, 2, 3), {"alpha": 0.5, "n": 11}),  # a window wider than all maps
    ((6, 2, 2, 3), {"alpha": 0.5, "n": 5, "groups": 6}),  # and columns of a single map
    ((1, 1, 1, 1), {"alpha": 0.5}),
]
LARGER = [((16, 9, 8, 31), {"alpha": 0.5, "groups": 2}), ((48, 13, 13, 3), {"alpha": 1e-4})]  # several blocks of pixels
IDS = [f"{'x'.join(map(str, shape))} {options}" for shape, options in CASES + LARGER]
PAPER = {"k": 2.0, "n": 5, "alpha": 1e-4, "beta": 0.75, "groups": 1}


def inputs(rng, shape, options, dtype):
    """x, d_y"""
    x = rng.standard_normal(shape) * (100 if options["alpha"] == 1e-4 else 1)
    return x.astype(dtype), rng.standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("shape, options", CASES, ids=IDS[:len(CASES)])
def test_the_formula(backend, dtype, rng, shape, options):
    x, d_y = inputs(rng, shape, options, dtype)
    y = lrn_forward(backend.to_device(x), **options)
    d_x = lrn_backward(backend.to_device(d_y), backend.to_device(x), **options)
    every = {**PAPER, **options}
    backend.assert_close(y, reference.lrn_forward(x, **every), dtype)
    backend.assert_close(d_x, reference.lrn_backward(d_y, x, **every), dtype)


@pytest.mark.parametrize("shape, options", CASES + LARGER, ids=IDS)
def test_pytorch_agrees(backend, dtype, rng, torch, shape, options):
    x, d_y = inputs(rng, shape, options, dtype)
    every = {**PAPER, **options}
    t = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    groups = [torch.nn.functional.local_response_norm(group, every["n"], every["n"] * every["alpha"], every["beta"], every["k"])
              for group in t.permute(3, 0, 1, 2).chunk(every["groups"], dim=1)]  # PyTorch divides α by n
    y = torch.cat(groups, dim=1).permute(1, 2, 3, 0)
    y.backward(torch.tensor(d_y, dtype=torch.float64))
    backend.assert_close(lrn_forward(backend.to_device(x), **options), y.detach().numpy(), dtype)
    d_x = lrn_backward(backend.to_device(d_y), backend.to_device(x), **options)
    backend.assert_close(d_x, t.grad.numpy(), dtype)


def test_the_constants_of_the_paper_are_the_defaults(backend, rng):
    x = 100 * rng.standard_normal((8, 2, 2, 3)).astype(np.float32)
    backend.assert_close(lrn_forward(backend.to_device(x)), reference.lrn_forward(x, **PAPER), "float32")
    d_x = lrn_backward(backend.to_device(x), backend.to_device(x))
    backend.assert_close(d_x, reference.lrn_backward(x, x, **PAPER), "float32")


@pytest.mark.parametrize("shape, options", [CASES[2], LARGER[0]])
def test_buffers_and_the_gradient_in_place(backend, dtype, rng, shape, options):
    x, d_y = (backend.to_device(array) for array in inputs(rng, shape, options, dtype))
    out = backend.empty(shape, dtype)
    assert lrn_forward(x, **options, out=out) is out
    np.testing.assert_array_equal(backend.to_host(out), backend.to_host(lrn_forward(x, **options)))
    expected = backend.to_host(lrn_backward(d_y, x, **options))
    assert lrn_backward(d_y, x, **options, out=d_y) is d_y
    np.testing.assert_array_equal(backend.to_host(d_y), expected)


def test_the_same_bits_on_any_number_of_threads(same_bits, rng):
    x, d_y = rng.standard_normal((2, 10, 9, 9, 130)).astype(np.float32)
    same_bits(lambda: (lrn_forward(x, alpha=0.5, groups=2), lrn_backward(d_y, x, alpha=0.5, groups=2)))


@pytest.mark.parametrize("options, message", [({"n": 4}, "odd n, not 4"), ({"groups": 4}, "6 maps cannot be shared by 4")])
def test_windows_and_groups_that_do_not_fit(backend, options, message):
    x = backend.to_device(np.zeros((6, 2, 2, 1), np.float32))
    with pytest.raises(ValueError, match=message):
        lrn_forward(x, **options)
    with pytest.raises(ValueError, match=message):
        lrn_backward(x, x, **options)


def test_an_array_that_is_not_contiguous_is_refused(rng):
    x = rng.standard_normal((4, 3, 2, 5))
    with pytest.raises(ValueError, match="copy"):  # a result would be written to a copy, and lost
        lrn_forward(x.transpose(0, 2, 1, 3))
    with pytest.raises(ValueError, match="copy"):
        lrn_forward(x, out=np.empty((4, 3, 2, 8))[..., :5])

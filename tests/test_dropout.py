import numba
import numpy as np
import pytest

from cpnet.ops.dropout import dropout_backward, dropout_forward, dropout_mask, dropout_test
from cpnet.ops.dropout_loops import philox4x32
from tests import reference

# Known answers, from the file kat_vectors of the Random123 library (philox4x32, 10 rounds): counter, key, result.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]
KEY = {"seed": 2**40 + 5, "step": 3, "layer": 2}


def mask_of(backend, shape, **options):
    return backend.to_host(dropout_mask(shape, **options, out=backend.to_device(np.zeros(shape, bool))))


@pytest.mark.parametrize("counter, key, result", KNOWN)
def test_known_answers(counter, key, result):
    counter, key, result = ([int(word, 16) for word in words.split()] for words in (counter, key, result))
    draw = numba.njit(lambda *words: philox4x32(*words))
    assert list(draw(*(np.uint32(word) for word in (*counter, *key)))) == result
    assert list(reference.philox(counter, key)) == result


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("shape, first_unit, first_image", [
    ((5, 7), 0, 0), ((3, 1), 2, 0), ((1, 3), 0, 5), ((4, 6), 70, 2), ((130, 2), 1, 131), ((2, 130), 0, 1)])
def test_the_formula(backend, shape, first_unit, first_image, rate):
    result = mask_of(backend, shape, **KEY, rate=rate, first_unit=first_unit, first_image=first_image)
    units, images = (range(first, first + count) for first, count in zip((first_unit, first_image), shape, strict=True))
    np.testing.assert_array_equal(result, reference.dropout_mask(units, images, **KEY, rate=rate))
    np.testing.assert_array_equal(
        result, dropout_mask(shape, **KEY, rate=rate, first_unit=first_unit, first_image=first_image))


def test_a_step_in_memory(backend):
    step, out = backend.to_device(np.array([2.0**31 + 9])), backend.to_device(np.zeros((6, 9), bool))
    key = {**KEY, "step": 2**31 + 9}
    dropout_mask((6, 9), **{**key, "step": step}, out=out)
    np.testing.assert_array_equal(backend.to_host(out), dropout_mask((6, 9), **key))


def test_the_split_of_units_and_images_does_not_matter(backend):
    whole = mask_of(backend, (150, 29), **KEY)
    for units in (75, 75), (1, 64, 85):
        for images in (16, 13), (1, 2, 26), (29,):
            parts = np.block([[mask_of(backend, (u, n), **KEY, first_unit=sum(units[:i]), first_image=sum(images[:j]))
                               for j, n in enumerate(images)] for i, u in enumerate(units)])
            np.testing.assert_array_equal(parts, whole)


def test_the_mean_and_independence():
    shape = 300, 200
    spread = 1 / np.sqrt(np.prod(shape))  # of a mean of independent draws of size 1
    for rate in 0.3, 0.5:
        drawn = dropout_mask(shape, **KEY, rate=rate).mean()
        assert abs(drawn - (1 - rate)) < 4 * spread * np.sqrt(rate * (1 - rate))
    first = 2.0 * dropout_mask(shape, **KEY) - 1
    neighbours = [first[:, shift:] * first[:, :-shift] for shift in (1, 2, 3, 4)]
    neighbours += [first[shift:] * first[:-shift] for shift in (1, 2, 64)]
    for change in {"seed": 6}, {"seed": 5}, {"step": 4}, {"layer": 3}, {"step": 2, "layer": 3}:
        neighbours.append(first * (2.0 * dropout_mask(shape, **{**KEY, **change}) - 1))
    for product in neighbours:
        assert abs(product.mean()) < 4 * spread


@pytest.mark.parametrize("shape", [(6, 3), (5, 1), (3, 130)])
def test_forward_and_backward(backend, dtype, rng, shape):
    x, d_y = rng.standard_normal((2, *shape)).astype(dtype)
    mask = rng.integers(2, size=shape).astype(bool)
    for function, value in (dropout_forward, x), (dropout_backward, d_y):
        expected = np.array([v if keep else 0 for v, keep in zip(value.flat, mask.flat, strict=True)]).reshape(shape)
        backend.assert_close(function(backend.to_device(value), backend.to_device(mask)), expected, dtype)
        out = backend.empty(shape, dtype)
        assert function(backend.to_device(value), backend.to_device(mask), out=out) is out
        backend.assert_close(out, expected, dtype)


def test_at_test_time_outputs_are_halved(backend, dtype, rng):
    x = rng.standard_normal((4, 5)).astype(dtype)
    backend.assert_close(dropout_test(backend.to_device(x)), x * 0.5, dtype)
    out = backend.empty(x.shape, dtype)
    assert dropout_test(backend.to_device(x), 0.2, out=out) is out
    backend.assert_close(out, x.astype(np.float64) * 0.8, dtype)


def test_the_same_bits_on_any_number_of_threads(same_bits):
    same_bits(lambda: (dropout_mask((333, 50), **KEY), dropout_mask((333, 50), **KEY, rate=0.2, first_image=3)))

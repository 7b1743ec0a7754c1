import numpy as np
import pytest

from cpnet.ops.crops import center_crops
from data.loading import augment
from data.store import crops

SHAPE, CROP = (3, 41, 38), 35


def draw(rng, images, dtype, colour=True):
    """raw, mean, View of the images with random crops, mirrors and shifts."""
    raw = rng.integers(256, size=(images, *SHAPE)).astype(np.uint8)
    mean = (100 + 20 * rng.standard_normal(SHAPE)).astype(dtype)
    view = augment.random_views(images, SHAPE, CROP, seed=1, epoch=2)
    return raw, mean, view._replace(shift=rng.standard_normal((images, 3)).astype(dtype) if colour else None)


def run(backend, raw, mean, view, **options):
    shift = np.zeros((len(raw), 3), mean.dtype) if view.shift is None else view.shift
    arguments = cut(raw, view), mean, view.top, view.left, view.mirror, shift
    return center_crops(*(backend.to_device(array) for array in arguments), **options)


def cut(raw, view):
    images = np.empty((len(raw), 3, CROP, CROP), np.uint8)
    crops.cut(raw, np.arange(len(raw)), view.top, view.left, np.zeros(len(raw), bool), images)
    return images


@pytest.mark.parametrize("colour", [True, False])
@pytest.mark.parametrize("images", [1, 3, 32, 70])
def test_the_same_bits_as_the_loader(backend, dtype, rng, images, colour):
    raw, mean, view = draw(rng, images, dtype, colour)
    expected = np.full((3, CROP, CROP, images), np.nan, dtype)
    shift = np.zeros((images, 3), dtype) if view.shift is None else view.shift
    crops.centre(cut(raw, view), mean, view.top, view.left, view.mirror, shift, expected)
    result = backend.to_host(run(backend, raw, mean, view))
    assert result.dtype == dtype
    np.testing.assert_array_equal(result, expected)


def test_one_pixel_at_a_time(backend, rng):
    raw, mean, view = draw(rng, 5, "float64")
    assert view.mirror.any() and not view.mirror.all()
    result = backend.to_host(run(backend, raw, mean, view))
    for c, h, w, n in rng.integers([3, CROP, CROP, 5], size=(200, 4)):
        at = c, view.top[n] + h, view.left[n] + (CROP - 1 - w if view.mirror[n] else w)
        assert result[c, h, w, n] == raw[(n, *at)] - mean[at] + view.shift[n, c]


def test_a_buffer(backend, rng):
    raw, mean, view = draw(rng, 3, "float32")
    out = backend.empty((3, CROP, CROP, 3), "float32")
    assert run(backend, raw, mean, view, out=out) is out
    np.testing.assert_array_equal(backend.to_host(out), backend.to_host(run(backend, raw, mean, view)))


@pytest.mark.parametrize("top, left", [(-1, 0), (0, -1), (7, 0), (0, 4)])
def test_crops_from_outside_the_mean_image(rng, top, left):
    raw, mean, view = draw(rng, 1, "float32")
    with pytest.raises(ValueError, match="a crop of 35 pixels lies outside the mean image of 41×38"):
        center_crops(raw[:, :, :CROP, :CROP], mean, np.array([top]), np.array([left]), view.mirror, view.shift)

"""Every kernel but convolution's against its NumPy definition in float64, on the CPU by cuemu; and that these very
comparisons notice a kernel that lacks a barrier or a bounds guard.

    python -m tests.test_kernels      the table of errors and the list of mutants
"""
import sys
from pathlib import Path

import numpy as np
import pytest

from cpnet import ops
from cpnet.gpu import memory, source
from cpnet.ops import crops, dropout, lrn, lrn_pool, pointwise, pool, sgd, softmax
from cpnet.studies import ops as study_ops
from cpnet.studies.ops import nearest, squared_error
from tests import cuemu, device, mutants
from tests.conftest import CuemuBackend

if __name__ != "__main__":
    cuemu.require()

PLACES = {path.stem: path for folder in (ops, study_ops) for path in Path(folder.__file__).parent.glob("*.cu")}
IMAGES = 1, 3, 32, 130


class Comparisons:
    """One kernel after the other with the same inputs as its definition. `errors`: the largest of each, relative to the
    largest value expected."""

    def __init__(self, dtype):
        self.dtype, self.backend, self.rng, self.errors = dtype, CuemuBackend(), np.random.default_rng(6), {}

    def draw(self, *shape, scale=1.0):
        return (scale * self.rng.standard_normal(shape)).astype(self.dtype)

    def at_odd_place(self, array):
        """On the device, at an address that no vector load may use."""
        longer = self.backend.to_device(np.concatenate([array.reshape(-1)[:1], array.reshape(-1)]))
        return longer[1:].reshape(array.shape)

    def put(self, *arrays):
        return [self.backend.to_device(array) if isinstance(array, np.ndarray) else array for array in arrays]

    def check(self, kernel, result, expected):
        """NaN where NaN is expected, elsewhere close to it."""
        result, expected = memory.to_host(result).astype(np.float64), np.asarray(expected, np.float64)
        assert result.shape == expected.shape
        known = ~np.isnan(expected)
        assert np.array_equal(np.isnan(result), ~known), f"{kernel}: NaN in the wrong places"
        error = np.abs(result - expected)[known].max(initial=0) / max(np.abs(expected[known]).max(initial=0), 1e-30)
        self.errors[kernel] = max(error, self.errors.get(kernel, 0))
        allowed = 2e-6 if self.dtype == "float32" else 1e-14
        assert error <= allowed, f"{kernel}: an error of {error:.1e}"

    def run(self, kernel, function, *arrays, **options):
        """`function` on the device and, in float64, on the host."""
        wide = [array.astype(np.float64) if isinstance(array, np.ndarray) and array.dtype == self.dtype else array
                for array in arrays]
        self.check(kernel, function(*self.put(*arrays), **options), function(*wide, **options))

    # One method for each .cu

    def pointwise(self):
        for shape in [(5, n) for n in IMAGES] + [(4, 256)]:
            x, d_y = self.draw(*shape), self.draw(*shape)
            for name in "relu", "tanh":
                self.run(f"{name}_forward", getattr(pointwise, f"{name}_forward"), x)
                self.run(f"{name}_backward", getattr(pointwise, f"{name}_backward"), d_y, x)
            self.run("sign", pointwise.sign, np.maximum(x, 0) - np.maximum(d_y, 0))  # with zeros
            self.run("add", pointwise.add, d_y, x)
        x = self.draw(5, 7)
        self.check("relu_forward", pointwise.relu_forward(self.at_odd_place(x)), np.maximum(x, 0))
        self.check("relu_forward", pointwise.relu_forward(*self.put(x), out=self.at_odd_place(x)), np.maximum(x, 0))

    def lrn(self):
        for n, options in [(n, {"alpha": 0.5, "groups": 2}) for n in IMAGES] + [(3, {"alpha": 0.5, "n": 3, "beta": 0.6})]:
            x, d_y = self.draw(8, 2, 3, n), self.draw(8, 2, 3, n)
            self.run("lrn_forward", lrn.lrn_forward, x, **options)
            self.run("lrn_backward", lrn.lrn_backward, d_y, x, **options)

    def lrn_pool(self):
        for n, height, width, options in [(33, 6, 7, {"groups": 2})] + [(n, 8, 6, {}) for n in IMAGES[:2]] + [
                (3, 7, 7, {"z": 2, "ceil": False})]:
            windows = {name: options.pop(name) for name in ("z", "ceil") if name in options}
            x = np.maximum(self.draw(6, height, width, n), 0)  # with equal values
            y, winner = lrn_pool.lrn_pool_forward(x.astype(np.float64), **windows, **options, alpha=0.5)
            found = lrn_pool.lrn_pool_forward(*self.put(x), **windows, **options, alpha=0.5)
            self.check("lrn_pool_forward", found[0], y)
            self.check("lrn_pool_forward", found[1], winner)
            windows.pop("ceil", None)
            for relu in False, True:
                self.run("lrn_pool_backward", lrn_pool.lrn_pool_backward, self.draw(*y.shape), x, winner, relu=relu, **windows,
                         **options, alpha=0.5)

    def pool(self):
        for z, s, height, width, n in [(3, 2, 8, 7, n) for n in IMAGES] + [(2, 3, 7, 8, 3), (4, 2, 9, 8, 3)]:
            x = self.rng.permutation(np.linspace(-3, 1, 2 * height * width * n)).reshape(2, height, width, n).astype(self.dtype)
            d_y = self.draw(*pool.pool_shape(x.shape, z, s, True))
            self.run("max_pool_forward", pool.max_pool_forward, x, z=z, s=s)
            self.run("max_pool_backward", pool.max_pool_backward, d_y, x, pool.max_pool_forward(x, z=z, s=s), z=z, s=s)
            self.run("average_pool_forward", pool.average_pool_forward, x, z=z, s=s)
            self.run("average_pool_backward", pool.average_pool_backward, d_y, x.shape, z=z, s=s)

    def dropout(self):
        for n, first in (1, 0), (3, 2), (32, 4), (130, 131):
            key = {"seed": 2**40 + 5, "step": 3, "layer": 2, "first_unit": 7, "first_image": first}
            mask = dropout.dropout_mask((5, n), **key)
            out = self.backend.empty((5, n), bool)
            self.check("dropout_mask", dropout.dropout_mask((5, n), **key, out=out), mask)
            step = self.put(np.array([3.0]))[0]
            out = self.backend.empty((5, n), bool)
            self.check("dropout_mask_counted", dropout.dropout_mask((5, n), **{**key, "step": step}, out=out), mask)
            x = self.draw(5, n)
            self.run("keep", dropout.dropout_forward, x, mask)
            self.run("scale", dropout.dropout_test, x, 0.3)

    def softmax(self):
        for classes, n in [(40, n) for n in IMAGES] + [(3, 9), (1000, 2)]:
            logits, labels = self.draw(classes, n, scale=3), self.rng.integers(classes, size=n).astype(np.int32)
            self.run("softmax", softmax.softmax, logits)
            self.run("cross_entropy_forward", softmax.cross_entropy_forward, logits, labels)
            self.run("cross_entropy_backward", softmax.cross_entropy_backward, logits, labels)
            self.run("label_rank", softmax.label_rank, np.round(logits), labels)  # with equal scores
        for n in (*IMAGES, 300):
            losses, ranks, sums = self.draw(n), self.rng.integers(3, size=n), np.array([2.0, 3, 4])
            on_device = self.put(losses, ranks, sums)
            softmax.tally(*on_device)
            softmax.tally(losses.astype(np.float64), ranks, sums)
            self.check("tally", on_device[2], sums)
        self.run("softmax", softmax.softmax, self.draw(40, 5, scale=1e4))
        logits, labels = self.put(self.draw(3, 4), np.array([0, -1, 3, 2]))
        losses = softmax.cross_entropy_forward(logits, labels, check=False)
        expected = softmax.cross_entropy_forward(memory.to_host(logits).astype(np.float64), np.array([0, 0, 0, 2]))
        self.check("cross_entropy_forward", losses, np.where([False, True, True, False], np.nan, expected))
        rank = memory.to_host(softmax.label_rank(logits, labels))
        assert rank[1:3].tolist() == [3, 3] and (rank < 3)[[0, 3]].all()

    def squared_error(self):
        for features, n in [(40, n) for n in IMAGES] + [(3, 9), (1000, 2)]:
            y, x = self.draw(features, n), self.draw(features, n)
            self.run("squared_error_forward", squared_error.squared_error_forward, y, x)
            self.run("squared_error_backward", squared_error.squared_error_backward, y, x, batch=11)

    def nearest(self):
        """Of whole numbers, whose products and sums are exact in any order."""
        for width, count, k in (1, 9, 3), (33, 300, 40):
            queries, vectors = (self.rng.integers(-3, 4, (rows, width)).astype(np.float32) for rows in (3, count))
            vectors[0] = queries[0]
            own, squares = nearest.square_sums(queries) - np.float32(0.5), nearest.square_sums(vectors)  # so one is below 0
            keys = nearest.euclidean_keys(queries, vectors, own, squares, 1000).copy()
            on_device = self.put(queries, vectors, own, squares)
            self.same("square_sums", nearest.square_sums(on_device[1]), squares)
            self.same("euclidean_keys", nearest.euclidean_keys(*on_device, 1000), keys)
            codes, asked = (self.rng.integers(2**63, size=shape).astype(np.uint64) for shape in ((width, count), (3, width)))
            self.same("hamming_keys", nearest.hamming_keys(*self.put(asked, codes), 5), nearest.hamming_keys(asked, codes, 5))
            best = np.sort(self.rng.permuted(np.arange(3 * k, dtype=np.uint64).reshape(3, k) << 33, axis=1), axis=1)
            chosen = nearest.smallest(*self.put(keys, best), k)
            self.same("smallest", chosen, np.sort(np.concatenate([keys, best], axis=1), axis=1)[:, :k])
        none = self.put(np.full((2, 5), 2**64 - 1, np.uint64), np.arange(12, dtype=np.uint64).reshape(2, 6))
        self.same("smallest", nearest.smallest(*none, 5), [range(5), range(6, 11)])

    def same(self, kernel, result, expected):
        self.errors[kernel] = 0.0
        assert np.array_equal(memory.to_host(result), expected), kernel

    def sgd(self):
        starts, counts = [0, 64, 1600], [33, 1500, 7]  # the second takes more than one block
        for size in 1607, 1700:
            w, v, gradient = (self.draw(size) for _ in range(3))
            results = self.put(w, v)
            wide = [array.astype(np.float64) for array in (w, v, gradient)]
            for arrays, slopes in (results, self.put(gradient)[0]), (wide[:2], wide[2]):
                segments = sgd.Segments(starts, counts)
                segments.set([9, 9, 9], [0, 0, 0], slopes)
                segments.set([0.1, 0.2, 0.05], [0.01, 0, 0.1], slopes)
                sgd.sgd_update_segments(*arrays, slopes, segments)
                sgd.sgd_update(*(array[:size] for array in arrays), slopes, rate=0.01)
            for result, expected in zip(results, wide[:2], strict=True):
                self.check("sgd_update", result, expected)
        only = self.put(self.draw(5), self.draw(5), self.draw(5))
        segments = sgd.Segments([0], [5])
        segments.set([0.1], [0.01], only[2])
        expected = [memory.to_host(array).astype(np.float64) for array in only]
        sgd.sgd_update_segments(*only, segments)
        sgd.sgd_update(*expected, rate=0.1, decay=0.01)
        self.check("sgd_update_segments", only[0], expected[0])
        for loss in np.nan, np.inf:
            sgd.sgd_update_segments(*only, segments, loss=self.put(np.array([loss]))[0])
            self.check("sgd_update_segments", only[0], expected[0])

    def crops(self):
        height, width, crop = 41, 38, 35
        for n in 1, 3, 33:
            images = self.rng.integers(256, size=(n, 2, crop, crop)).astype(np.uint8)
            mean, shift = self.draw(2, height, width, scale=50), self.draw(n, 2)
            top, left = (self.rng.integers(-1, size - crop + 2, size=n).astype(np.int32) for size in (height, width))
            top[:2], left[:2] = [-1, height - crop + 1][:n], [width - crop, 0][:n]
            left[-1] = -1 if n > 1 else 0
            mirror = self.rng.integers(2, size=n).astype(bool)
            mirror[-1] = False  # what is read past the end of its last row is past the end of the array
            result = crops.center_crops(*self.put(images, mean, top, left, mirror, shift))
            # The definition on a mean image with a frame of NaN, so that crops may hang over.
            framed = np.full((2, height + 2, width + 2), np.nan)
            framed[:, 1:-1, 1:-1] = mean
            self.check("center_crops", result, crops.center_crops(images, framed, top + 1, left + 1, mirror, shift))


FILES = [name for name in vars(Comparisons) if name in PLACES]

# Guards that are no comparisons, and so escape mutate.py: what to replace, and by what.
OTHER_GUARDS = {
    "pointwise": [("(size_t)(from + i) % 16 == 0", "true"), ("(size_t)(to + i) % 16 == 0", "true")],
    "lrn_pool": [("min(at.p * STRIDE + i / Z, height - 1)", "at.p * STRIDE + i / Z"),
                 ("min(at.q * STRIDE + i % Z, width - 1)", "at.q * STRIDE + i % Z"), ("b > largest", "b >= largest"),
                 ("relu && !(gradient[j].a[0] > 0.f)", "relu && gradient[j].a[0] < 0.f"),
                 ("x += (column + first - HALF) * size", "x += (column + first) * size"),
                 ("next = first - HALF;", "next = first;")],
    "pool": [("min(at / STRIDE, windows - 1)", "at / STRIDE"), ("min(window * STRIDE + Z, pixels)", "window * STRIDE + Z")],
}


INCLUDED = {"pointwise": ["elementwise.cuh"], "lrn": ["lrn.cuh"]}  # with the first that includes it


def noticed(name):
    """[(mutant, what notices it)] of a file."""
    def compare(patch):
        patch.setattr(lrn_pool, "PART", 2)
        getattr(Comparisons("float32"), name)()

    path = PLACES[name]
    return mutants.survey(path, mutants.mutants(path, INCLUDED.get(name, []), OTHER_GUARDS.get(name, [])), compare)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", FILES)
def test_kernels_against_their_definitions(name, dtype):
    comparisons = Comparisons(dtype)
    getattr(comparisons, name)()
    for kernel, error in comparisons.errors.items():
        print(f"{kernel:24} {dtype} {error:.1e}")


@pytest.mark.parametrize("name", FILES)
def test_every_barrier_and_guard_is_missed(name):
    found = noticed(name)
    for mutant, by in found:
        print(f"{mutant}\n    {by}")
    assert found and [str(mutant) for mutant, by in found if not by] == []


def test_every_kernel_is_compared():
    declared = {kernel for name in FILES for kernel in source.signatures(str(PLACES[name]))}
    assert set(PLACES) == set(FILES)
    compared = set()
    for name in FILES:
        comparisons = Comparisons("float32")
        getattr(comparisons, name)()
        compared |= set(comparisons.errors)
    assert compared == declared


def test_a_channel_with_more_numbers_than_an_int_counts_is_refused():
    x = np.broadcast_to(np.float32(0), (1, 46341, 46341, 1)).view(device.DeviceArray)
    y = np.broadcast_to(np.float32(0), (1, 23170, 23170, 1)).view(device.DeviceArray)
    for forward in pool.max_pool_forward, pool.average_pool_forward:
        with pytest.raises(ValueError, match="more numbers than the kernel counts"):
            forward(x, out=y)


if __name__ == "__main__":
    for name in sys.argv[1:] or FILES:
        for dtype in "float32", "float64":
            test_kernels_against_their_definitions(name, dtype)
    for name in sys.argv[1:] or FILES:
        test_every_barrier_and_guard_is_missed(name)

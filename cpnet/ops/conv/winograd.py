"""Convolution on a CPU by Winograd's minimal filtering (Lavin and Gray, "Fast algorithms for convolutional
neural networks", 2016): F(4×4, 3×3) and F(2×2, 5×5). docs/winograd.md explains it from the beginning.

A tile of 6×6 pixels d, seen by a filter g of R×R, has m×m results, m = 7 − R:

    Y = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A

which is 36 products instead of 144 for 3×3, and instead of 100 for 5×5. Those of all channels, filters, tiles
and images are a matrix product for each of the 36 places, (F, C) by (C, tiles·N). Backward is the same turned
round:

    d_g = Gᵀ [Σ (A d_Y Aᵀ) ⊙ (Bᵀ d B)] G      over all tiles and images

The transforms are loops (winograd_loops.py), the products are BLAS's. The cut into tasks depends on shapes
alone, so the bits do not depend on the number of threads.
"""
import numpy as np

from cpnet.loops import beside
from cpnet.threads import chunks, parallel, scratch

SIZES = 3, 5  # rows and columns of the filters
CHANNELS = 8  # of a group, at least: with fewer the transforms cost more than the products save
IMAGES = 32  # at least: the loops transform 64 together
PLACES = 36  # of a tile
BLOCK_BYTES = 4 << 20  # of a task's transformed tiles, at least
FILTERS = 2  # or so many times what the transformed filters take, which are read for every block
APART = 16  # numbers between the places: 2ⁿ bytes apart all would fall into the same few sets of the cache
TASKS = 8  # that the work is cut into, at least

loops = beside(__name__)


def fits(x_shape, w_shape, stride):
    """Whether this can be done, and is quicker than the direct way."""
    return (stride == 1 and w_shape[2] == w_shape[3] and w_shape[2] in SIZES and w_shape[1] >= CHANNELS
            and x_shape[3] >= IMAGES)


def correlate(x, w, b, stride, before, groups, relu, y):
    """y = conv_forward(x, w, b), with `before` rows and columns of zeros above and left."""
    bias = np.zeros(len(w), w.dtype) if b is None else b
    _multiply(x, _by_group(_filters(w, _kron(w)), groups), w.shape[2], before, bias, relu, y)


def input_gradient(d_y, w, stride, before, groups, d_x):
    """d_x of conv_backward: itself a convolution, with the filters turned around and C and F exchanged."""
    rows = w.shape[2]
    turned = [of_group.swapaxes(1, 2) for of_group in _by_group(_filters(w, _kron(w)[:, ::-1]), groups)]
    _multiply(d_y, turned, rows, rows - 1 - before, np.zeros(len(d_x), w.dtype), False, d_x)


def weight_gradient(d_y, x, d_w, stride, before, groups):
    """d_w of conv_backward. Each task sums over its own tiles; the tasks' sums are added in order."""
    filters, channels, rows, _ = d_w.shape
    results, per_group, images = 7 - rows, filters // groups, x.shape[3]
    across, total = _tiles(d_y.shape, results)
    tasks = [(g, *run) for g in range(groups) for run in chunks(total, -(-total * groups // TASKS))]
    sums = np.empty((len(tasks), PLACES, per_group, channels), x.dtype)
    count = _block(channels, per_group, images, x.itemsize)

    def task(own, g, start, stop):
        own[...] = 0
        for first, last in ((start + a, start + b) for a, b in chunks(stop - start, count)):
            columns = (last - first) * images
            flat, pixels = _matrices("winograd.pixels", channels, columns, x.dtype)
            loops.transform_pixels(*_maps(x, g, channels), results, before, first, last, across, *flat)
            flat, gradients = _matrices("winograd.products", per_group, columns, x.dtype)
            loops.transform_gradients(*_maps(d_y, g, per_group), results, first, last, across, *flat)
            product = scratch("winograd.sum", own.shape, own.dtype)
            own += np.matmul(gradients, pixels.swapaxes(1, 2), out=product)

    parallel(task, [(own, *each) for own, each in zip(sums, tasks, strict=True)])
    sums, kron = sums.reshape(groups, -1, *sums.shape[1:]), _kron(d_w)

    def back(g, start, stop):
        own = d_w[g * per_group + start:g * per_group + stop]
        d_u = sums[g, :, :, start:stop].sum(axis=0).reshape(PLACES, -1)
        np.matmul(d_u.T, kron, out=own.reshape(-1, rows * rows, copy=False))

    rows_of_group = chunks(per_group, -(-per_group * groups // TASKS))
    parallel(back, [(g, *run) for g in range(groups) for run in rows_of_group])


def points():
    """The finite points at which the polynomials are multiplied."""
    return [0, loops.P, -loops.P, loops.Q, -loops.Q]


def filter_matrix(rows):
    """G (6, R): a filter's values at each point, divided by Π (point − other), which Bᵀ's row has brought in;
    and its last number, the value at ∞."""
    matrix = []
    for point in points():
        scale = np.prod([point - other for other in points() if other != point])
        matrix.append([point**k / scale for k in range(rows)])
    return np.array([*matrix, [0] * (rows - 1) + [1]])


def _kron(w):
    """G for rows and columns at once, (36, R·R)."""
    matrix = filter_matrix(w.shape[2])
    return np.kron(matrix, matrix).astype(w.dtype)


def _filters(w, kron):
    """G g Gᵀ of all filters (F, C, R, R), as (36, F, C)."""
    u = np.empty((PLACES, *w.shape[:2]), w.dtype)

    def block(start, stop):
        np.matmul(kron, w[start:stop].reshape(-1, kron.shape[1]).T,
                  out=u[:, start:stop].reshape(PLACES, -1, copy=False))

    parallel(block, chunks(len(w), -(-len(w) // TASKS)))
    return u


def _by_group(u, groups):
    return np.split(u, groups, axis=1)


def _multiply(x, u, rows, before, bias, relu, y):
    """y of x and the transformed filters u, each group's (36, maps of y, maps of x)."""
    results, images, (_, outputs, inputs) = 7 - rows, x.shape[3], u[0].shape
    across, total = _tiles(y.shape, results)

    def block(g, start, stop):
        columns = (stop - start) * images
        flat, pixels = _matrices("winograd.pixels", inputs, columns, x.dtype)
        loops.transform_pixels(*_maps(x, g, inputs), results, before, start, stop, across, *flat)
        flat, products = _matrices("winograd.products", outputs, columns, x.dtype)
        np.matmul(u[g], pixels, out=products)
        own = bias[g * outputs:(g + 1) * outputs]
        loops.transform_products(*flat, results, start, stop, across, own, relu, *_maps(y, g, outputs))

    count = min(_block(inputs, outputs, images, x.itemsize), -(-total * len(u) // TASKS))
    parallel(block, [(g, *run) for g in range(len(u)) for run in chunks(total, count)])


def _tiles(y_shape, results):
    """(tiles of a row, tiles in all) that cover y (F, P, Q, N)."""
    across = -(-y_shape[2] // results)
    return across, -(-y_shape[1] // results) * across


def _block(inputs, outputs, images, itemsize):
    """How many tiles make a block."""
    tile, filters = (PLACES * count * itemsize for count in ((inputs + outputs) * images, inputs * outputs))
    return max(1, max(BLOCK_BYTES, FILTERS * filters) // tile)


def _maps(x, g, count):
    """The maps of group g, flat, and their shape."""
    own = x[g * count:(g + 1) * count]
    return own.reshape(-1, copy=False), own.shape


def _matrices(name, maps, columns, dtype):
    """Scratch for 36 matrices (maps, columns): ((it all, flat, and from one to the next), they)."""
    whole = scratch(name, (PLACES, maps * columns + APART), dtype)
    matrices = whole[:, :maps * columns].reshape(PLACES, maps, columns, copy=False)
    return (whole.reshape(-1), whole.shape[1]), matrices

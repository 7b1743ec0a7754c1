"""Every operation once more, slowly: loops over the very indices of the paper's formulas, in float64.

Nothing here knows how `cpnet` computes it. The tests compare the two on small arrays.
"""
import math

import numpy as np

# Convolution


def conv_terms(x_shape, w_shape, stride, pad, groups):
    """Each product of the convolution that is not with padding, as the indices (into y, into w, into x) of its three parts."""
    (_, height, width, _), (filters, channels, rows, cols) = x_shape, w_shape
    for f in range(filters):
        g = f // (filters // groups)
        for p, top in enumerate(range(-pad[0], height + pad[1] - rows + 1, stride)):
            for q, left in enumerate(range(-pad[0], width + pad[1] - cols + 1, stride)):
                for c, r, s in np.ndindex(channels, rows, cols):
                    if 0 <= top + r < height and 0 <= left + s < width:
                        yield (f, p, q), (f, c, r, s), (g * channels + c, top + r, left + s)


def conv_forward(x, w, b, stride, pad, groups):
    height, width = (len(range(-pad[0], size + pad[1] - window + 1, stride))
                     for size, window in zip(x.shape[1:3], w.shape[2:], strict=True))
    y = np.zeros((len(w), height, width, x.shape[3]))
    for of_y, of_w, of_x in conv_terms(x.shape, w.shape, stride, pad, groups):
        y[of_y] += w[of_w] * x[of_x]
    return y + b[:, None, None, None]


def conv_backward(d_y, x, w, stride, pad, groups):
    """(d_x, d_w, d_b): of each product, either factor receives the other times the sum's gradient."""
    d_x, d_w = np.zeros(x.shape), np.zeros(w.shape)
    for of_y, of_w, of_x in conv_terms(x.shape, w.shape, stride, pad, groups):
        d_x[of_x] += w[of_w] * d_y[of_y]
        d_w[of_w] += np.dot(x[of_x].astype(np.float64), d_y[of_y])
    return d_x, d_w, d_y.sum(axis=(1, 2, 3), dtype=np.float64)


# Local response normalization


def lrn_neighbours(maps, n, groups):
    """Each pair (i, j) of maps of one group where j is in i's window."""
    for i, j in np.ndindex(maps, maps):
        if i // (maps // groups) == j // (maps // groups) and i - n // 2 <= j <= i + n // 2:
            yield i, j


def lrn_sums(x, k, n, alpha, groups):
    s = np.full(x.shape, float(k))
    for i, j in lrn_neighbours(len(x), n, groups):
        s[i] += alpha * x[j].astype(np.float64) ** 2
    return s


def lrn_forward(x, k, n, alpha, beta, groups):
    return x / lrn_sums(x, k, n, alpha, groups) ** beta


def lrn_backward(d_y, x, k, n, alpha, beta, groups):
    """The chain rule through each s[i]: d_x[j] += d_y[i] · ∂y[i]/∂s[i] · ∂s[i]/∂x[j]."""
    s = lrn_sums(x, k, n, alpha, groups)
    d_x = d_y / s ** beta
    for i, j in lrn_neighbours(len(x), n, groups):
        d_x[j] += d_y[i] * (-beta * x[i] * s[i] ** (-beta - 1)) * (2 * alpha * x[j])
    return d_x


# Pooling


def pool_windows(size, z, s, ceil):
    """The pixels of each window along one axis."""
    starts = [0]
    if ceil:  # go on until the last pixel is covered, or none is left to start at
        while starts[-1] + z < size and starts[-1] + s < size:
            starts.append(starts[-1] + s)
    else:
        while starts[-1] + s + z <= size:
            starts.append(starts[-1] + s)
    return [range(start, min(start + z, size)) for start in starts]


def _pool(x, z, s, ceil):
    """Yields (index into y, rows, columns) of each window, and the shape of y first."""
    rows, cols = (pool_windows(size, z, s, ceil) for size in x.shape[1:3])
    yield len(x), len(rows), len(cols), x.shape[3]
    for c, p, q, n in np.ndindex(len(x), len(rows), len(cols), x.shape[3]):
        yield (c, p, q, n), rows[p], cols[q]


def max_pool(x, d_y, z, s, ceil):
    """(y, d_x)"""
    windows = _pool(x, z, s, ceil)
    y, d_x = np.zeros(next(windows)), np.zeros(x.shape)
    for (c, p, q, n), rows, cols in windows:
        best = -math.inf
        for h in rows:
            for v in cols:
                if x[c, h, v, n] > best:
                    best, place = x[c, h, v, n], (h, v)
        y[c, p, q, n] = best
        d_x[c, *place, n] += d_y[c, p, q, n]
    return y, d_x


def average_pool(x, d_y, z, s, ceil):
    """(y, d_x)"""
    windows = _pool(x, z, s, ceil)
    y, d_x = np.zeros(next(windows)), np.zeros(x.shape)
    for (c, p, q, n), rows, cols in windows:
        for h in rows:
            for v in cols:
                y[c, p, q, n] += x[c, h, v, n] / (len(rows) * len(cols))
                d_x[c, h, v, n] += d_y[c, p, q, n] / (len(rows) * len(cols))
    return y, d_x


# Dropout


def philox(counter, key):
    """Philox4x32-10 on Python integers, from the paper's figure: four words and a key of two → four words."""
    (l1, r1, l2, r2), (k1, k2) = counter, key
    for _ in range(10):
        first, second = 0xD2511F53 * l1, 0xCD9E8D57 * l2
        l1, r1, l2, r2 = ((second >> 32) ^ r1 ^ k1, second % 2**32, (first >> 32) ^ r2 ^ k2, first % 2**32)
        k1, k2 = (k1 + 0x9E3779B9) % 2**32, (k2 + 0xBB67AE85) % 2**32
    return l1, r1, l2, r2


def dropout_mask(units, images, seed, step, layer, rate):
    """`units` and `images` are the positions asked for, each drawn by itself."""
    return np.array([[philox((n // 4, u, layer, step), (seed % 2**32, seed >> 32))[n % 4] / 2**32 >= rate for n in images]
                     for u in units])


# Softmax, cross-entropy and rank


def softmax(logits):
    p = np.zeros(logits.shape)
    for n in range(logits.shape[1]):
        powers = [math.exp(logit) for logit in logits[:, n]]  # as printed: only for logits that are not large
        total = math.fsum(powers)
        p[:, n] = [power / total for power in powers]
    return p


def cross_entropy(logits, labels, batch):
    """(losses, d_logits)"""
    p = softmax(logits)
    losses = np.array([-math.log(p[label, n]) for n, label in enumerate(labels)])
    right = np.arange(len(logits))[:, None] == labels
    return losses, (p - right) / batch


def label_rank(scores, labels):
    """The place of the right class in the list of all, best score first, lower number first among equals."""
    places = []
    for n, label in enumerate(labels):
        order = sorted(range(len(scores)), key=lambda c, n=n: (-scores[c, n], c))
        places.append(order.index(label))
    return np.array(places)


# The update


def sgd(w, v, gradients, rates, momentum, decay):
    """(w, v) after a step for each of `gradients` and `rates`, one number at a time."""
    w, v = w.astype(np.float64), v.astype(np.float64)
    for gradient, rate in zip(gradients, rates, strict=True):
        for i in np.ndindex(w.shape):
            v[i] = momentum * v[i] - decay * rate * w[i] - rate * gradient[i]
            w[i] = w[i] + v[i]
    return w, v

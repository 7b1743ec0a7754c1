"""The CPU's loops of local response normalization, alone and with the max pooling above it; lrn.py and
lrn_pool.py have the formulas, and lrn.cu and lrn_pool.cu are the same for a GPU.

A run of RUN numbers of each map is worked on at a time: with some hundred maps they stay in a core's own
caches. Maps outside the column are rows of zeros above and below the others, so every window has n rows.
"""
import numpy as np

from data.compiled import compiled, inlined

RUN = 128  # numbers of a map


@inlined
def window_sum(padded, c, n, count, total):
    """total = Σ padded[c … c + n − 1]: over the window of map c."""
    if n == 5:
        r0, r1, r2, r3, r4 = padded[c], padded[c + 1], padded[c + 2], padded[c + 3], padded[c + 4]
        for p in range(count):
            total[p] = r0[p] + r1[p] + r2[p] + r3[p] + r4[p]
    else:
        total[:count] = 0
        for j in range(c, c + n):
            row = padded[j]
            for p in range(count):
                total[p] += row[p]


@inlined
def squares(a, start, count, half, padded):
    for c in range(len(a)):
        row, square = a[c, start:start + count], padded[half + c]
        for p in range(count):
            square[p] = row[p] * row[p]


@inlined
def damping(padded, c, k, n, alpha, beta, count, power, inverse):
    """power = s^−β and inverse = 1/s of map c, whose window's squares are in `padded`. For β = 3/4 by two
    square roots, which are several times faster than a power."""
    window_sum(padded, c, n, count, power)
    one = power.dtype.type(1)  # a plain 1 would make float64 of float32
    if beta == 0.75:
        for p in range(count):
            inverse[p] = one / (k + alpha * power[p])
            root = np.sqrt(inverse[p])
            power[p] = root * np.sqrt(root)
    else:
        for p in range(count):
            s = k + alpha * power[p]
            inverse[p] = one / s
            power[p] = s ** -beta


@inlined
def forward_run(a, start, count, k, n, alpha, beta, scratch, b, b_start):
    """b[:, b_start …] of a[:, start …], `count` numbers of each map."""
    padded, power, inverse = scratch[2:], scratch[0], scratch[1]
    squares(a, start, count, n // 2, padded)
    for c in range(len(a)):
        damping(padded, c, k, n, alpha, beta, count, power, inverse)
        row, out = a[c, start:start + count], b[c, b_start:b_start + count]
        for p in range(count):
            out[p] = row[p] * power[p]


@inlined
def backward_run(d_b, d_start, a, start, count, k, n, alpha, beta, relu, scratch, cross, d_a):
    """d_a[:, start …] of d_b[:, d_start …] and a[:, start …]; d_a may be d_b. With `relu`, d_a is 0 where a
    is not above 0."""
    padded, power, inverse, half = scratch[2:], scratch[0], scratch[1], n // 2
    squares(a, start, count, half, padded)
    for c in range(len(a)):
        damping(padded, c, k, n, alpha, beta, count, power, inverse)
        row, d, out = a[c, start:start + count], d_b[c, d_start:d_start + count], d_a[c, start:start + count]
        of_window = cross[half + c]  # d_b · a · s^(−β−1)
        for p in range(count):
            direct = d[p] * power[p]
            of_window[p] = direct * row[p] * inverse[p]
            out[p] = direct
    by, zero = alpha * beta + alpha * beta, a.dtype.type(0)
    for c in range(len(a)):
        window_sum(cross, c, n, count, power)
        row, out = a[c, start:start + count], d_a[c, start:start + count]
        for p in range(count):
            out[p] -= by * row[p] * power[p]
        if relu:
            for p in range(count):
                out[p] = out[p] if row[p] > zero else zero


@inlined
def scratch_for(a, n, count):
    """Two rows of a map's numbers, and the padded maps'."""
    return np.zeros((2 + len(a) + n - 1, count), a.dtype)


@compiled
def lrn_forward(x, k, n, alpha, beta, start, stop, y):
    """x, y (maps, H·W·N): numbers start … stop − 1 of every map."""
    scratch = scratch_for(x, n, RUN)
    for p in range(start, stop, RUN):
        forward_run(x, p, min(stop - p, RUN), k, n, alpha, beta, scratch, y, p)


@compiled
def lrn_backward(d_y, x, k, n, alpha, beta, start, stop, d_x):
    scratch, cross = scratch_for(x, n, RUN), scratch_for(x, n, RUN)
    for p in range(start, stop, RUN):
        backward_run(d_y, p, x, p, min(stop - p, RUN), k, n, alpha, beta, False, scratch, cross, d_x)


# With the pooling. What is normalized never lies in memory as a whole: a run is some pixels of a row of all
# images, or some images of one pixel.

@inlined
def runs_of(images):
    """(pixels, images) of a run of at most RUN numbers."""
    return max(1, RUN // images), min(images, RUN)


@compiled
def lrn_pool_forward(x, k, n, alpha, beta, z, s, width, start, stop, y, winner):
    """x (maps, H·W·N) → y and winner (maps, P, Q, N): rows start … stop − 1 of windows. Each normalized pixel
    goes to the windows that have it, in reading order, so that the first of equal values wins."""
    maps, _, cols, images = y.shape
    height, (pixels, count) = x.shape[1] // (width * images), runs_of(images)
    scratch, b = scratch_for(x, n, pixels * count), np.empty((maps, pixels * count), x.dtype)
    for h in range(start * s, min((stop - 1) * s + z, height)):
        for w0 in range(0, width, pixels):
            w1 = min(w0 + pixels, width)
            for first in range(0, images, count):
                last = min(first + count, images)
                forward_run(x, (h * width + w0) * images + first, (w1 - w0 - 1) * images + last - first,
                            k, n, alpha, beta, scratch, b, 0)
                for i in range(h % s, z, s):  # the pixel's row in a window
                    p = (h - i) // s
                    if start <= p < stop:
                        for c in range(maps):
                            for w in range(w0, w1):
                                value = b[c, (w - w0) * images:(w - w0) * images + last - first]
                                for j in range(w % s, min(z, w + 1), s):
                                    q = (w - j) // s
                                    if q < cols:
                                        take_larger(value, np.uint8(i * z + j), y[c, p, q, first:last],
                                                    winner[c, p, q, first:last])


@inlined
def take_larger(value, place, best, won):
    if place == 0:
        for m in range(len(value)):
            best[m] = value[m]
            won[m] = 0
    else:
        for m in range(len(value)):
            larger = value[m] > best[m] or value[m] != value[m]  # NaN is passed on
            best[m] = value[m] if larger else best[m]
            won[m] = place if larger else won[m]


@compiled
def lrn_pool_backward(d_y, winner, x, k, n, alpha, beta, z, s, width, relu, start, stop, d_x):
    """d_y, winner (maps, P, Q, N), x (maps, H·W·N) → d_x: rows start … stop − 1 of pixels. A pixel gathers
    from the windows that it has won."""
    maps, rows, cols, images = d_y.shape
    pixels, count = runs_of(images)
    scratch, cross = scratch_for(x, n, pixels * count), scratch_for(x, n, pixels * count)
    d_b, zero = np.empty((maps, pixels * count), x.dtype), x.dtype.type(0)
    for h in range(start, stop):
        for w0 in range(0, width, pixels):
            w1 = min(w0 + pixels, width)
            for first in range(0, images, count):
                last = min(first + count, images)
                d_b[:] = 0
                for i in range(h % s, min(z, h + 1), s):
                    p = (h - i) // s
                    if p < rows:
                        for c in range(maps):
                            for w in range(w0, w1):
                                total = d_b[c, (w - w0) * images:(w - w0) * images + last - first]
                                for j in range(w % s, min(z, w + 1), s):
                                    q = (w - j) // s
                                    if q < cols:
                                        place = np.uint8(i * z + j)
                                        d, won = d_y[c, p, q, first:last], winner[c, p, q, first:last]
                                        for m in range(len(total)):
                                            total[m] += d[m] if won[m] == place else zero
                backward_run(d_b, 0, x, (h * width + w0) * images + first,
                             (w1 - w0 - 1) * images + last - first, k, n, alpha, beta, relu,
                             scratch, cross, d_x)

"""The CPU's loops of Winograd's convolution: they transform tiles of pixels, gradients and products along
both axes; winograd.py says what for.

A tile's 6×6 numbers of LANES images wait in `v`, a flat array that stays in the L1 cache: number (i, j) of
image k is v[i · ROW + j · LANE + k]. Its columns and rows are transformed in place. The six numbers of a line
are read before one is written, and they are at least LANES apart, so LLVM can make vectors of images.
"""
import numpy as np
from numba import uint64

from data.compiled import compiled, inlined

TILE = 6  # pixels along an axis
LANES = 64  # images that are transformed together
# unsigned, so that LLVM sees no index below zero
LANE, ROW = uint64(LANES), uint64(TILE * LANES)
# The points are 0, ±P, ±Q and ∞, with P² = 1/2 and Q² = 2: with ±1 and ±2 rounding errors are twice as large.
P, Q = 0.5**0.5, 2**0.5


@inlined
def pixels_line(v, at, step):
    """Bᵀ: six pixels → what is multiplied at each point."""
    number = v.dtype.type
    p, q, half, two, both = number(P), number(Q), number(0.5), number(2), number(2.5)
    s2, s3, s4, s5 = uint64(2) * step, uint64(3) * step, uint64(4) * step, uint64(5) * step
    for k in range(at, at + LANE):
        d0, d1, d2, d3, d4, d5 = v[k], v[k + step], v[k + s2], v[k + s3], v[k + s4], v[k + s5]
        even_p, odd_p = d4 - two * d2, p * (d3 - two * d1)
        even_q, odd_q = d4 - half * d2, q * (d3 - half * d1)
        v[k], v[k + s5] = d4 - both * d2 + d0, d5 - both * d3 + d1
        v[k + step], v[k + s2] = even_p + odd_p, even_p - odd_p
        v[k + s3], v[k + s4] = even_q + odd_q, even_q - odd_q


@inlined
def gradients_line(v, at, step, results):
    """A: the gradients of 4 or 2 results → those of the products at each point."""
    number = v.dtype.type
    p, q, half, two, zero = number(P), number(Q), number(0.5), number(2), number(0)
    s2, s3, s4, s5 = uint64(2) * step, uint64(3) * step, uint64(4) * step, uint64(5) * step
    for k in range(at, at + LANE):
        d0, d1, d2, d3 = v[k], v[k + step], v[k + s2], v[k + s3]
        if results == 2:
            d2, d3, last = zero, zero, d1
        else:
            last = d3
        even_p, odd_p = d0 + half * d2, p * (d1 + half * d3)
        even_q, odd_q = d0 + two * d2, q * (d1 + two * d3)
        v[k], v[k + s5] = d0, last
        v[k + step], v[k + s2] = even_p + odd_p, even_p - odd_p
        v[k + s3], v[k + s4] = even_q + odd_q, even_q - odd_q


@inlined
def results_line(v, at, step, results):
    """Aᵀ: the products at each point → 4 or 2 results."""
    number = v.dtype.type
    p, q, half, two, p3, q3 = number(P), number(Q), number(0.5), number(2), number(P**3), number(Q**3)
    s2, s3, s4, s5 = uint64(2) * step, uint64(3) * step, uint64(4) * step, uint64(5) * step
    for k in range(at, at + LANE):
        d0, d1, d2, d3, d4, d5 = v[k], v[k + step], v[k + s2], v[k + s3], v[k + s4], v[k + s5]
        even_p, odd_p, even_q, odd_q = d1 + d2, d1 - d2, d3 + d4, d3 - d4
        v[k] = d0 + even_p + even_q
        if results == 2:
            v[k + step] = p * odd_p + q * odd_q + d5
        else:
            v[k + step], v[k + s2] = p * odd_p + q * odd_q, half * even_p + two * even_q
            v[k + s3] = p3 * odd_p + q3 * odd_q + d5


@inlined
def copy(of, start, to, at, count):
    """to[at …] = of[start …]. Arrays are flat: a view of a part would cost an atomic count of its owners."""
    u, v = uint64(start), uint64(at)
    for k in range(uint64(count)):
        to[v + k] = of[u + k]


@inlined
def load(x, at, height, width, images, h0, w0, count, size, v):
    """v[:size, :size] = x[h0 …, w0 …, :count] of the map (H, W, N) that begins at `at`; zeros elsewhere."""
    zero = x.dtype.type(0)
    for i in range(size):
        for j in range(size):
            h, w, to = h0 + i, w0 + j, uint64(i) * ROW + uint64(j) * LANE
            if h < 0 or h >= height or w < 0 or w >= width:
                for k in range(LANE):
                    v[to + k] = zero
            else:
                copy(x, at + (h * width + w) * images, v, to, count)
                for k in range(count, LANES):
                    v[to + uint64(k)] = zero


@inlined
def store(v, at, stride, count, out):
    """out[place, at …] = v[place] of the 36 places."""
    for place in range(TILE * TILE):
        copy(v, uint64(place) * LANE, out, place * stride + at, count)


@compiled
def transform_pixels(x, shape, step, before, first, stop, across, out, stride):
    """out[:, c, t, n] = Bᵀ d B of tiles first … stop − 1 of x (C, H, W, N), which are `step` pixels apart."""
    channels, height, width, images = shape
    v = np.empty(TILE * TILE * LANES, x.dtype)
    for c in range(channels):
        for t in range(first, stop):
            h0, w0 = t // across * step - before, t % across * step - before
            for n in range(0, images, LANES):
                count = min(LANES, images - n)
                load(x, c * height * width * images + n, height, width, images, h0, w0, count, TILE, v)
                for i in range(uint64(TILE)):
                    pixels_line(v, i * LANE, ROW)
                for i in range(uint64(TILE)):
                    pixels_line(v, i * ROW, LANE)
                store(v, (c * (stop - first) + t - first) * images + n, stride, count, out)


@compiled
def transform_gradients(d_y, shape, results, first, stop, across, out, stride):
    """out[:, f, t, n] = A dY Aᵀ of the tiles first … stop − 1 of d_y (F, P, Q, N)."""
    filters, height, width, images = shape
    v = np.empty(TILE * TILE * LANES, d_y.dtype)
    for f in range(filters):
        for t in range(first, stop):
            h0, w0 = t // across * results, t % across * results
            for n in range(0, images, LANES):
                count = min(LANES, images - n)
                load(d_y, f * height * width * images + n, height, width, images, h0, w0, count, results, v)
                for i in range(uint64(results)):
                    gradients_line(v, i * LANE, ROW, results)
                for i in range(uint64(TILE)):
                    gradients_line(v, i * ROW, LANE, results)
                store(v, (f * (stop - first) + t - first) * images + n, stride, count, out)


@compiled
def transform_products(products, stride, results, first, stop, across, bias, relu, y, shape):
    """y (F, P, Q, N) of the tiles first … stop − 1 = Aᵀ M A + bias, M = products[:, f, t, n]; with relu at
    least 0."""
    filters, height, width, images = shape
    zero = y.dtype.type(0)
    v = np.empty(TILE * TILE * LANES, y.dtype)
    v[:] = zero
    for f in range(filters):
        b = bias[f]
        for t in range(first, stop):
            h0, w0 = t // across * results, t % across * results
            for n in range(0, images, LANES):
                count = min(LANES, images - n)
                for place in range(TILE * TILE):
                    copy(products, place * stride + (f * (stop - first) + t - first) * images + n, v,
                         uint64(place) * LANE, count)
                for i in range(uint64(TILE)):
                    results_line(v, i * LANE, ROW, results)
                for i in range(uint64(results)):
                    results_line(v, i * ROW, LANE, results)
                for i in range(min(results, height - h0)):
                    for j in range(min(results, width - w0)):
                        at = uint64(i) * ROW + uint64(j) * LANE
                        for k in range(at, at + LANE):
                            value = v[k] + b
                            v[k] = zero if relu and value <= zero else value
                        copy(v, at, y, ((f * height + h0 + i) * width + w0 + j) * images + n, count)

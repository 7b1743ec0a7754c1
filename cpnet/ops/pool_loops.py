"""The CPU's loops of pooling; pool.py has the definitions, and pool.cu is the same for a GPU."""
from data.compiled import compiled


@compiled
def max_pool_forward(x, z, s, y):
    """x (C, H, W, N) → y (C, P, Q, N)"""
    channels, height, width, images = x.shape
    for c in range(channels):
        for p in range(y.shape[1]):
            for q in range(y.shape[2]):
                best, first = y[c, p, q], x[c, p * s, q * s]
                for n in range(images):
                    best[n] = first[n]
                for h in range(p * s, min(p * s + z, height)):
                    for w in range(q * s, min(q * s + z, width)):
                        pixel = x[c, h, w]
                        for n in range(images):
                            best[n] = pixel[n] if pixel[n] > best[n] or pixel[n] != pixel[n] else best[n]


@compiled
def max_pool_backward(d_y, x, y, z, s, d_x):
    """The first pixel as large as its window's largest takes the window's gradient, and leaves nothing."""
    channels, height, width, images = x.shape
    rest, zero = d_y[0, 0, 0].copy(), d_y.dtype.type(0)
    d_x[:] = 0
    for c in range(channels):
        for p in range(y.shape[1]):
            for q in range(y.shape[2]):
                best, gradient = y[c, p, q], d_y[c, p, q]
                for n in range(images):
                    rest[n] = gradient[n]
                for h in range(p * s, min(p * s + z, height)):
                    for w in range(q * s, min(q * s + z, width)):
                        pixel, d = x[c, h, w], d_x[c, h, w]
                        for n in range(images):
                            own = rest[n] if pixel[n] == best[n] else zero
                            d[n] += own
                            rest[n] = zero if pixel[n] == best[n] else rest[n]


@compiled
def average_pool_forward(x, z, s, y):
    """x (C, H, W, N) → y (C, P, Q, N)"""
    channels, height, width, images = x.shape
    for c in range(channels):
        for p in range(y.shape[1]):
            for q in range(y.shape[2]):
                bottom, right, total = min(p * s + z, height), min(q * s + z, width), y[c, p, q]
                inside = x.dtype.type((bottom - p * s) * (right - q * s))
                total[:] = 0
                for h in range(p * s, bottom):
                    for w in range(q * s, right):
                        pixel = x[c, h, w]
                        for n in range(images):
                            total[n] += pixel[n]
                for n in range(images):
                    total[n] /= inside


@compiled
def average_pool_backward(d_y, z, s, d_x):
    channels, height, width, images = d_x.shape
    d_x[:] = 0
    for c in range(channels):
        for p in range(d_y.shape[1]):
            for q in range(d_y.shape[2]):
                bottom, right, gradient = min(p * s + z, height), min(q * s + z, width), d_y[c, p, q]
                inside = d_y.dtype.type((bottom - p * s) * (right - q * s))
                for h in range(p * s, bottom):
                    for w in range(q * s, right):
                        d = d_x[c, h, w]
                        for n in range(images):
                            d[n] += gradient[n] / inside

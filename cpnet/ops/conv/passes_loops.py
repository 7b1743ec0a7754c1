"""The CPU's loops around a convolution's products; definition.py has the formulas, and passes.cu is the same
for a GPU."""
import numpy as np

from data.compiled import compiled

LANES = 64  # sums side by side


@compiled
def bias_relu(y, bias, relu, start, stop):
    """y (F, P, Q·N), rows start … stop − 1: + bias (F), and with relu at least 0."""
    zero = y.dtype.type(0)
    for f in range(len(y)):
        b = bias[f]
        for p in range(start, stop):
            row = y[f, p]
            if relu:
                for i in range(len(row)):
                    value = row[i] + b
                    row[i] = zero if value <= zero else value  # so that NaN stays NaN
            else:
                for i in range(len(row)):
                    row[i] += b


@compiled
def bias_gradient(d_y, y, relu, d_b):
    """d_b[f] = Σ d_y[f], which with relu first becomes 0 where y is not above 0. d_y, y (F, P·Q·N)."""
    zero = d_y.dtype.type(0)
    lanes = np.empty(LANES, d_y.dtype)
    for f in range(len(d_y)):
        lanes[:] = 0
        for p in range(0, d_y.shape[1], LANES):
            count = min(LANES, d_y.shape[1] - p)
            d, value = d_y[f, p:p + count], y[f, p:p + count]
            if relu:
                for i in range(count):
                    d[i] = d[i] if value[i] > zero else zero
            for i in range(count):
                lanes[i] += d[i]
        d_b[f] = lanes.sum()

"""The CPU's loops over single numbers; pointwise.py has the formulas, and pointwise.cu is the same for a GPU.

All work in place: of two names for one array LLVM must fear that they overlap, and makes no vectors.
"""
from data.compiled import compiled


@compiled
def relu_forward(x):
    zero = x.dtype.type(0)
    for i in range(len(x)):
        x[i] = zero if x[i] <= zero else x[i]  # so that NaN stays NaN


@compiled
def relu_backward(d, y):
    zero = y.dtype.type(0)
    for i in range(len(d)):
        d[i] = d[i] if y[i] > zero else zero


@compiled
def tanh_backward(d, y):
    one = y.dtype.type(1)
    for i in range(len(d)):
        d[i] *= one - y[i] * y[i]


@compiled
def sign(x):
    zero, one = x.dtype.type(0), x.dtype.type(1)
    for i in range(len(x)):
        x[i] = one if x[i] > zero else -one


@compiled
def keep(x, mask):
    """x where the mask is True, else 0: dropout.cu has this one."""
    zero = x.dtype.type(0)
    for i in range(len(x)):
        x[i] = x[i] if mask[i] else zero

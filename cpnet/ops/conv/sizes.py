"""A convolution's sizes, as its kernels take them."""
from math import prod
from typing import NamedTuple


class Sizes(NamedTuple):
    """In the order of the kernels' parameters; channels and filters are those of one group."""
    C: int
    H: int
    W: int
    N: int
    F: int
    R: int
    S: int
    P: int
    Q: int
    stride: int
    before: int  # rows and columns of zeros above and left


def sizes_of(x_shape, w_shape, y_shape, stride, pad, groups):
    """The Sizes of a convolution of x (C, H, W, N) with w (F, C/groups, R, S) as y (F, P, Q, N).

    Raises ValueError for an array that is too large for the kernels: they count pixels in 31 bits, numbers
    in 64. No GPU could hold many images of such a size.
    """
    for name, shape in ("x", x_shape[:3]), ("w", w_shape), ("y", y_shape[:3]):
        if prod(shape) >= 2**31:
            raise ValueError(f"convolution: {name} {shape} is too large, {prod(shape):,} of at most 2³¹ − 1")
    return Sizes(w_shape[1], *x_shape[1:], w_shape[0] // groups, *w_shape[2:], *y_shape[1:3], stride, pad[0])

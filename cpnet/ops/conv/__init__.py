"""Convolution, forward and backward.

    definition.py                      the formulas, and who computes them
    lines.py                           on a CPU: directly, as matrix products
    winograd.py, winograd_loops.py     on a CPU: with fewer multiplications
    passes_loops.py                    on a CPU: biases and ReLU
    launches.py                        on a GPU: which kernels, and their launches
    sizes.py                           a convolution's sizes, as all of the kernels take them
    plain.cu, plain_weights.cu         the products by multiply-adds, float32 or float64; tile.cuh: a tile
    tensor.py, tensor.cu, tensor_weights.cu
                                       the products on tensor cores; mma.cuh: the pipeline and the products
    passes.py, passes.cu               what surrounds the products: packed weights, sums of parts, d_b
    pixels.cuh, share.cuh              which pixels, and which share of a sum, a block has

docs/kernels.md leads through them.
"""
from cpnet.ops.conv.definition import conv_backward, conv_forward, conv_shape

__all__ = ["conv_backward", "conv_forward", "conv_shape"]

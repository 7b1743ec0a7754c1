"""GPUs for the tests: the machine's own, or else softcuda's, on which the CuPy that is installed runs as it is.

Of softcuda's GPUs, 0 and 1 have no tensor cores for TF32 and reach each other's memory; 2 and 3 have them, and do not. On a
machine with one card, tests of the others are skipped. Where CuPy is missing all are, or they fail if CI is set.
"""
import os
from contextlib import nullcontext

import numpy as np
import pytest

from cpnet.errors import CpnetError
from cpnet.gpu.devices import named
from cpnet.layers import LRN, Conv, Dropout, Linear, MaxPool, ReLU
from cpnet.nets import Table
from tests import softcuda

SOFT, WHY_NOT = softcuda.possible()  # whether the GPUs are softcuda's
CARD = softcuda.real_card()  # whether they are real ones
if SOFT:
    softcuda.install()

# In which order softcuda does what CUDA may do in any: as late as it may, or at moments drawn from a seed.
ORDERS = [("late", 0), ("random", 1), ("random", 2), ("random", 3)] if SOFT else [("as the card does", 0)]


def in_order(mode, seed=0):
    """A context in which softcuda works in this order. On a card nothing changes."""
    return softcuda.order(mode, seed) if SOFT else nullcontext()


def gpus(text, columns=2):
    """The devices named by `text`, such as "0" or "0,1". Skips the test, or fails it in CI, where they cannot be had."""
    try:
        return named(text, columns)
    except CpnetError as error:
        (pytest.skip if SOFT or CARD or not os.environ.get("CI") else pytest.fail)(f"{error}; {WHY_NOT}")


def put(device, array):
    """A copy of a NumPy array on a device."""
    return device.put(np.ascontiguousarray(array))


def tiny(size=8, channels=1):
    """The Table of a net that has all kinds of layers, each as small as it can be: two columns that meet twice."""
    shape = channels, size, size
    layers = [Conv("conv1", 4, 3, pad=1, reads="all", std=0.3), ReLU("relu1"), LRN("lrn1"), MaxPool("pool1"),
              Conv("conv2", 4, 3, pad=1, std=0.3), ReLU("relu2"), Linear("fc3", 8, std=0.3), ReLU("relu3"),
              Dropout("dropout3"), Linear("fc4", 4, std=0.3, undivided=True)]
    return Table({"name": "tiny", "image": shape, "classes": 4}, shape, 2, layers, 0.01, 0.0005)

"""How float32 products are computed: as exactly as float32, faster on GPUs with tensor cores, or directly."""
from cpnet.gpu.platform import platform_of

TENSOR = "fp32", "tf32"  # what tensor cores can do
MATH = *TENSOR, "exact"
_math = MATH[0]


def set_math(name):
    """Compute float32 products so from now on.

    "fp32": with errors as small as float32's own. That is Winograd's convolution on a CPU
    (ops/conv/winograd.py), and three products of TF32 for one on GPUs that have tensor cores for it
    (compute capability 8.0 and newer). "tf32": there by one, with errors of about 3e-4.
    "exact": each product of the formula by a multiply-add in float32, everywhere.
    """
    global _math
    if name not in MATH:
        raise ValueError(f"math is {', '.join(MATH[:-1])} or {MATH[-1]}, not {name!r}")
    _math = name


def math():
    """One of MATH: see `set_math`."""
    return _math


def tensor_cores(array):
    """Bytes of shared memory that a block may have on the array's GPU if it has tensor cores for TF32;
    0 if it has none, or if they are not to be used."""
    if _math == "exact":
        return 0
    platform = platform_of(array)
    return platform.tensor_cores(platform.device(array))

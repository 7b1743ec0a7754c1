"""How float32 products are computed on GPUs with tensor cores: as exactly as float32, or faster."""
from cpnet.gpu.platform import platform_of

MATH = "fp32", "tf32"
_math = MATH[0]


def set_math(name):
    """Compute float32 products so from now on, on GPUs that have tensor cores for TF32 (compute
    capability 8.0 and newer).

    "fp32": as exact as float32, by three products of TF32. "tf32": by one, errors of about 3e-4.
    """
    global _math
    if name not in MATH:
        raise ValueError(f"math is {' or '.join(MATH)}, not {name!r}")
    _math = name


def math():
    """"fp32" or "tf32": see `set_math`."""
    return _math


def tensor_cores(array):
    """Bytes of shared memory that a block may have on the array's GPU if it has tensor cores for TF32;
    0 if it has none."""
    platform = platform_of(array)
    return platform.tensor_cores(platform.device(array))

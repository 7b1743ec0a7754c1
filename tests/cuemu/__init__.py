"""cuemu runs CUDA kernels on the CPU, over NumPy arrays, and finds what is wrong with them.  See README.md."""

import os

from .arrays import empty, initialised
from .build import available
from .errors import CuemuError
from .module import RawKernel, RawModule, settings, using
from .source import flatten

__all__ = [
    "CuemuError",
    "RawKernel",
    "RawModule",
    "available",
    "empty",
    "flatten",
    "initialised",
    "require",
    "settings",
    "using",
]


def require():
    """At the top of a test module: skip it where kernels cannot be run, but fail if that happens in CI."""
    import pytest

    ok, reason = available()
    if not ok and os.environ.get("CI"):
        raise RuntimeError(reason)
    if not ok:
        pytest.skip(reason, allow_module_level=True)

"""Loops over arrays, compiled by Numba for this machine when they are first called.

They hold no interpreter lock: a thread that launches kernels or decodes images is left in peace, and
cpnet/threads.py shares them over the cores. Compiled code is kept on disk, so that a machine compiles once.
What a loop calls lies in its own file: kept code notices changes of that file alone.
"""
import os
import sys

from numba import njit
from numba.core import config, event

# It compiles a quarter faster than at level 3; the loops are as fast.
os.environ.setdefault("NUMBA_OPT", "2")
config.reload_config()

# Products and sums may be fused, which rounds once instead of twice; NaN and infinities stay what they are.
OPTIONS = {"nogil": True, "fastmath": {"contract"}, "error_model": "numpy", "no_cfunc_wrapper": True}


def compiled(function):
    """A loop. It is kept beside its file or where the user's caches are, if one of the two can be written."""
    try:
        return njit(cache=True, **OPTIONS)(function)
    except RuntimeError:
        return njit(**OPTIONS)(function)


def inlined(function):
    """A part of loops, compiled into each that calls it: to pass arrays costs some fifty cycles.
    Python itself cannot call it."""
    return njit(forceinline=True, no_cpython_wrapper=True, **OPTIONS)(function)


class _Notice(event.Listener):
    """Says once that something is compiled. It is not told of code that was kept."""

    said = False

    def on_start(self, event):
        if not self.said and sys.stderr:
            self.said = True
            print("compiling for this CPU, which takes some seconds and happens once …", file=sys.stderr)

    def on_end(self, event):
        pass


event.register("numba:compile", _Notice())

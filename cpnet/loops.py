"""The one gate to the CPU's compiled loops, as gpu/kernels.py is to a GPU's kernels.

An operation says `loops = beside(__name__)`, and calls the loops of the module beside it, whose name ends in
`_loops`: cpnet/ops/lrn.py those of cpnet/ops/lrn_loops.py. Each reads like the kernel in the .cu file there.
Numba is imported when the first loop is called, and not without.
"""
import importlib


class Loops:
    """The loops of a module, imported when one of them is asked for."""

    def __init__(self, module):
        self.module = module

    def __getattr__(self, name):
        found = getattr(importlib.import_module(self.module), name)
        setattr(self, name, found)  # and not again
        return found


def beside(operation):
    """The Loops of an operation's module, given its `__name__`."""
    return Loops(f"{operation}_loops")

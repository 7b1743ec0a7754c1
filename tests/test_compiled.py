"""The CPU's compiled loops: what is kept notices every change, and compiling is announced once."""
import importlib
import os
import pkgutil
import subprocess
import sys

import numba
import pytest

import cpnet
import data
from data import compiled
from tests.helpers import ROOT

MODULES = [name for package in (cpnet, data) for _, name, _ in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
           if name.endswith("_loops") or name == "data.store.crops"]
SOME = """
from data.compiled import compiled
@compiled
def double(x):
    return 2 * x
assert double(3) == 6 and double(1.5) == 3
"""


def loops(module):
    return {name: value for name, value in vars(module).items() if isinstance(value, numba.core.registry.CPUDispatcher)}


@pytest.mark.parametrize("name", MODULES)
def test_a_loop_calls_loops_of_its_own_file_only(name):
    """Numba keeps compiled code until the file of the outermost function changes."""
    module = importlib.import_module(name)
    assert loops(module)
    for loop in loops(module).values():
        assert loop.py_func.__module__ == name


def test_every_operation_with_loops_is_found():
    assert {"cpnet.ops.lrn_loops", "cpnet.ops.conv.winograd_loops", "data.store.crops"} <= set(MODULES)


def test_compiling_is_announced_once(tmp_path):
    (tmp_path / "some.py").write_text(SOME)
    for notices in 1, 0:  # the second time it has been kept
        done = subprocess.run([sys.executable, "some.py"], cwd=tmp_path, capture_output=True, text=True, check=True,
                              env={**os.environ, "PYTHONPATH": str(ROOT), "NUMBA_CACHE_DIR": str(tmp_path / "kept")})
        assert done.stderr.count("compiling for this CPU") == notices and not done.stdout


def test_compiled_code_need_not_be_kept(monkeypatch):
    """Where neither the program's folder nor the user's can be written to, Numba refuses to."""
    def njit(*, cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return numba.njit(**options)

    monkeypatch.setattr(compiled, "njit", njit)
    assert compiled.compiled(lambda x: x + 1)(2) == 3

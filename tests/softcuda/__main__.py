"""python -m tests.softcuda SCRIPT [ARGUMENTS]: runs a script, such as run.py, with softcuda's GPUs."""
import runpy
import sys

from tests import softcuda

softcuda.install()
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")

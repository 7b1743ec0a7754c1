"""What figures depend on: the machine and the versions, as every run and every bench records them."""
import importlib.metadata
import os
import platform
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_info

from cpnet import VERSION
from cpnet.errors import CpnetError
from cpnet.gpu.platform import gpus


def machine(devices="cpu"):
    """A dictionary: CPU, cores, versions, date; with GPUs the card, its driver, and CUDA's and CuPy's versions too."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())
    blas = sorted({f"{pool['internal_api']} {pool['version']} {pool.get('architecture', '')}".strip()
                   for pool in threadpool_info() if pool["user_api"] == "blas"})
    return {"cpu": model, "cores": len(os.sched_getaffinity(0)), "python": platform.python_version(), "numpy": np.__version__,
            "blas": ", ".join(blas), "torch": version("torch"), "date": time.strftime("%Y-%m-%d"),
            **({} if devices.startswith("cpu") else card(int(devices.split(",")[0])))}


def version(package):
    """Its version, or "" where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def card(number):
    """What GPU `number` is."""
    cards = gpus()
    driver = ""
    if shutil.which("nvidia-smi"):
        asked = subprocess.run(["nvidia-smi", f"--id={number}", "--query-gpu=driver_version", "--format=csv,noheader"],
                               capture_output=True, text=True)
        driver = asked.stdout.strip() if asked.returncode == 0 else ""
    return {"card": cards.name(number), "driver": driver, **cards.versions(number)}


def versions():
    """What a report of a bug needs, as lines: versions of the program and of what it stands on, the machine and its GPUs."""
    here = machine()
    lines = [f"cpnet {VERSION}", f"Python {here['python']}, {platform.platform()}"]
    lines.append(f"NumPy {here['numpy']} with {here['blas']}")
    for name in "h5py", "numba", "pillow", "cupy-cuda13x", "cupy-cuda12x":
        if version(name):
            lines.append(f"{name} {version(name)}")
    lines.append(f"{here['cores']} cores of {here['cpu']}")
    try:
        for number in range(gpus().count()):
            facts = card(number)
            lines.append(f"GPU {number}: {facts['card']}, driver {facts['driver'] or '?'}, {facts['memory_mib']:,} MiB")
    except CpnetError as error:
        lines.append(f"GPUs: {error}")
    return "\n".join(lines)

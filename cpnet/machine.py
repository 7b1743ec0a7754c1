"""The machine and the versions behind a run. Runs and benches record them; --version prints them."""
import importlib.metadata
import os
import platform
import re
import resource
import shutil
import subprocess
import time
from pathlib import Path

from cpnet import __version__

CUPY = "cupy-cuda13x", "cupy-cuda12x", "cupy"  # the names under which CuPy is installed


def machine(devices="cpu"):
    """A dict: CPU, cores, versions, date. If `devices` are GPUs, also the card, its driver, CUDA and CuPy."""
    found = {"version": __version__, "cpu": cpu(), "cores": cores(), "python": platform.python_version(),
             "numpy": version("numpy"), "blas": blas(), "torch": version("torch"),
             "date": time.strftime("%Y-%m-%d")}
    return found if devices.startswith("cpu") else {**found, **card(int(devices.split(",")[0]))}


def about():
    """What a report of a bug needs, as text. It starts nothing on a GPU. Works if packages are missing."""
    cupy = next((f"{name} {version(name)}" for name in CUPY if version(name)), "not installed")
    cards = ask_cards("index,name,memory.total")
    libraries = [f"{name} {version(package) or 'not installed'}"
                 for name, package in (("h5py", "h5py"), ("Numba", "numba"), ("Pillow", "pillow"))]
    return "\n".join([
        f"cpnet {__version__}",
        f"Python {platform.python_version()} on {platform.platform()}",
        f"NumPy {version('numpy') or 'not installed'}, BLAS: {blas() or 'unknown'}",
        ", ".join(libraries),
        f"CuPy: {cupy}",
        f"NVIDIA driver: {driver() or 'not found'}",
        *([f"GPU {line}" for line in cards] or ["GPUs: none found"]),
        f"CPU: {cpu()}, {cores()} cores"])


def cpu():
    """The name of the CPU."""
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cores():
    """How many cores this process may use: a container may have fewer than its machine."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *_quotas()]))


def _quotas(root=Path("/sys/fs/cgroup"), own=Path("/proc/self/cgroup")):
    """Cores that the control groups of this process allow, as far as they limit them (Linux)."""
    found = []
    for line in own.read_text().splitlines() if own.exists() else []:
        _, controllers, group = line.split(":", 2)
        version_1 = "cpu" in controllers.split(",")
        if controllers and not version_1:
            continue
        place = (root / "cpu" if version_1 else root) / group.lstrip("/")
        for folder in place, *place.parents:
            if not folder.is_relative_to(root):
                break
            found += _quota(folder)
    return found


def _quota(folder):
    """[cores] that one control group allows, or []."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return [-(-int(quota) // int(period))] if int(quota) > 0 else []
    except (OSError, ValueError):
        return []  # no such file, or "max"


def free_memory():
    """Bytes of memory that this process may still take, as far as that can be known (Linux); else 0."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    found = []
    for place, key, taken in ("/proc/meminfo", "MemAvailable", 0), ("/proc/self/status", "VmSize", limit):
        for line in Path(place).read_text().splitlines() if os.path.exists(place) else []:
            if line.startswith(f"{key}:") and taken != resource.RLIM_INFINITY:
                found.append(abs(taken - 1024 * int(line.split()[1])))
    return min(found, default=0)


def blas():
    """The libraries that compute NumPy's matrix products, as text; "" if that cannot be known."""
    try:
        import numpy  # noqa: F401 (loads its BLAS)
        from threadpoolctl import threadpool_info
    except ImportError:
        return ""
    found = set()
    for pool in threadpool_info():
        if pool["user_api"] == "blas":
            found.add(f"{pool['internal_api']} {pool['version']} {pool.get('architecture', '')}".strip())
    return ", ".join(sorted(found))


def version(package):
    """The version of an installed package; "" if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def card(number):
    """What GPU `number` is."""
    from cpnet.gpu.platform import gpus  # loads CuPy
    found = gpus()
    return {"card": found.name(number), "driver": driver(number), **found.versions(number)}


def driver(number=0):
    """The version of NVIDIA's driver; "" if there is none."""
    answers = ask_cards("driver_version", f"--id={number}")
    if answers:
        return answers[0]
    loaded = Path("/proc/driver/nvidia/version")  # there also without nvidia-smi
    found = re.search(r"Kernel Module.*?(\d+\.[\d.]+)", loaded.read_text()) if loaded.exists() else None
    return found[1] if found else ""


def ask_cards(query, *options):
    """nvidia-smi's answers, a line for each GPU; [] if there is none. It makes no context on a GPU."""
    if not shutil.which("nvidia-smi"):
        return []
    try:
        asked = subprocess.run(["nvidia-smi", *options, f"--query-gpu={query}", "--format=csv,noheader"],
                               capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return asked.stdout.strip().splitlines() if asked.returncode == 0 else []

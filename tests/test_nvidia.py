"""The platform of GPUs, cpnet/gpu/nvidia.py: what it asks of CUDA, and what a person reads where it cannot be had."""
import gc
import json
import os
import subprocess
import sys

import h5py
import numpy as np
import pytest
from PIL import Image

import run as command_line
from cpnet.errors import CpnetError
from cpnet.gpu import devices, nvidia, platform
from cpnet.gpu.graph import GraphStep
from cpnet.network import Network
from cpnet.step import Step
from data.store.dataset import Dataset
from tests import softcuda
from tests.gpus import SOFT, WHY_NOT, gpus, in_order, tiny
from tests.helpers import ROOT, small_set, trainer_of

soft = pytest.mark.skipif(not SOFT, reason=f"needs softcuda: {WHY_NOT}")


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    return small_set(tmp_path_factory.mktemp("data") / "squares.h5", size=14, train=16, val=4)


def run_softly(*words, cwd, report=None, **settings):
    """The command line in a process of its own on softcuda: (what ran, its report)."""
    environment = {f"SOFTCUDA_{name}": str(value) for name, value in settings.items()}
    if report:
        environment["SOFTCUDA_REPORT"] = str(report)
    done = subprocess.run([sys.executable, "-m", "tests.softcuda", str(ROOT / "run.py"), *map(str, words)], cwd=cwd, text=True,
                          capture_output=True, timeout=300, env={**os.environ, "PYTHONPATH": str(ROOT), **environment})
    return done, json.loads(report.read_text().splitlines()[-1]) if report else None


# What a person reads


@soft
@pytest.mark.parametrize("settings, said", [
    ({"WITHOUT": "nvrtc"}, "CUDA's compiler, NVRTC, cannot be loaded: pip install -r requirements.txt"),
    ({"DRIVER": "12080"}, "NVIDIA's driver is too old: it knows CUDA 12.8, and this CuPy needs CUDA 13. Install driver "
                          "580.65 or newer, or: pip uninstall cupy-cuda13x && pip install -r requirements-cuda12.txt"),
    ({"DEVICES": "0"}, "")])
def test_without_a_gpu_that_can_be_used_the_cpu_is(squares, tmp_path, settings, said):
    """One line says why; and asked for by name, the GPU is refused with the same one."""
    done, _ = run_softly("--data", squares, "--epochs", 0, "--batch", 8, cwd=tmp_path, **settings)
    assert done.returncode == 0, done.stderr
    assert done.stderr == (f"on the CPU: {said}\n" if said else "")
    done, _ = run_softly("--data", squares, "--epochs", 0, "--batch", 8, "--devices", 0, cwd=tmp_path, **settings)
    assert done.returncode == 1
    assert done.stderr == f"error: --devices 0: {said or 'there is no GPU 0; there is none'}\n"


def test_without_a_driver_cupy_is_not_imported(monkeypatch):
    monkeypatch.setattr(nvidia.ctypes, "CDLL", lambda name: (_ for _ in ()).throw(OSError(name)))
    assert devices.best(2) == ("cpu", "")
    monkeypatch.setattr(devices, "gpus", platform.gpus.__wrapped__)  # which looks again
    with pytest.raises(CpnetError, match="^--devices 0: there is no GPU here, or NVIDIA's driver is not installed$"):
        devices.named("0", 2)


def test_without_cupy_one_line_says_what_to_install(monkeypatch):
    for module in devices, platform:
        monkeypatch.setattr(module, "driver_installed", lambda: True)
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setattr(devices, "gpus", platform.gpus.__wrapped__)  # which looks again
    with pytest.raises(CpnetError, match=r"^--devices 0: CuPy cannot be used \(.*\): pip install -r requirements.txt$"):
        devices.named("0", 2)
    text, line = devices.best(2)
    assert text == "cpu" and line.startswith("on the CPU: CuPy cannot be used (") and "\n" not in line


def test_without_headers_one_line_says_what_to_install(monkeypatch):
    gpus("0")
    monkeypatch.setattr("cuda.pathfinder.find_nvidia_header_directory", lambda name: None)
    with pytest.raises(CpnetError, match="^CUDA's headers are not installed: pip install -r requirements.txt$"):
        nvidia.Cupy()


def test_a_card_that_is_too_old_for_the_compiler(monkeypatch):
    gpus("0")
    there = platform.gpus()
    assert there.unfit(0) == ""
    monkeypatch.setattr(there, "nvrtc", type("Newer", (), {"getSupportedArchs": staticmethod(lambda: (990, 1000))}))
    assert "is of compute capability" in there.unfit(0) and "begins at 99.0: use the CPU" in there.unfit(0)


def test_memory_that_runs_out_is_one_line():
    """Asked of CUDA itself."""
    device = gpus("0")[0]
    free = platform.gpus().free()
    with pytest.raises(CpnetError, match=r"^out of GPU memory: asked for [\d,]+ MiB, [\d,]+ MiB are free; a batch of \d+ "):
        device.empty((free // 1024, 1024), np.float32)


# Contexts: some hundred MB each of somebody's card


@soft
@pytest.mark.parametrize("where, graph", [("1", True), ("1", False), ("3,2", False)])
def test_only_the_devices_of_a_run_get_a_context(squares, tmp_path, where, graph):
    """And a device that another process has to itself does not matter, unless it is asked for."""
    others = ",".join(str(k) for k in range(4) if str(k) not in where)
    words = ["--data", squares, "--epochs", 1, "--batch", 8, "--loader-threads", 2]
    done, report = run_softly(*words, "--devices", where, *["--graph"] * graph, cwd=tmp_path, report=tmp_path / "report",
                              BUSY=others)
    assert done.returncode == 0, done.stderr
    assert set(report["contexts"]) == set(where.split(",")) and not report["faults"]
    done, _ = run_softly(*words, "--devices", "0", cwd=tmp_path, BUSY="0")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: GPU 0 cannot be used (")


# Memory


def pinned_and_device(number):
    """Bytes of pinned memory and of the GPU's that are allocated."""
    if SOFT:
        return softcuda.pinned_bytes(), softcuda.device_bytes(number)
    cupy = platform.gpus().cupy
    return cupy.get_default_pinned_memory_pool().n_free_blocks(), cupy.get_default_memory_pool().total_bytes()


@pytest.mark.parametrize("graph", [False, True])
def test_memory_does_not_grow_from_epoch_to_epoch(squares, tmp_path, graph):
    """Pinned memory and the device's are the same after the second epoch and after the fifth, with validations and probes."""
    settings = dict(epochs=5, batch=4, lr=0.01, momentum=0.9, decay=0.0005, schedule="9", seed=0, mirror=True, colour=True,
                    checkpoint_minutes=1e9, loader_threads=2, probe=3, graph=graph)
    seen = []
    with Dataset(squares) as dataset:
        network = Network(tiny(12), gpus("0"), seed=3)
        training = trainer_of(network, dataset, tmp_path / "run", settings)
        finish = training._finish_epoch

        def finish_and_look(result):
            finish(result)
            gc.collect()
            seen.append(pinned_and_device(0))

        training._finish_epoch = finish_and_look
        training.train()
    assert len(seen) == 5 and seen[1:] == seen[1:2] * 4


# A steady step


def calls_of_a_step(where, kind):
    """What CUDA is asked to do by the third step, by name. A fourth one asks for the same."""
    work = kind(Network(tiny(), gpus(where), seed=3), seed=7)
    rng = np.random.default_rng(0)
    images, labels = rng.standard_normal((1, 8, 8, 4)).astype(np.float32), np.array([0, 1, 2, 3], np.int32)
    images, labels = [device.put(images) for device in work.network.devices], work.first.put(labels)
    counted = []
    for number in range(4):
        before = softcuda.calls()
        work(images, labels, step=number, rate=0.01)
        counted.append(softcuda.calls() - before)
    assert counted[2] == counted[3]
    return dict(counted[2])


STEADY = {  # of the tiny net; by placement and kind of step
    "eager": (Step, {"cuLaunchKernel": 31}),
    "graph": (GraphStep, {"cudaMemcpyAsync": 2, "cudaGraphLaunch": 2}),  # images and labels to where the graph reads them
    # The columns meet at fc3 and fc4: 3 copies across forward, 3 backward, and the loss for the second device's update. Each
    # waits for both devices, and both for it; a step changes the current device 52 times.
    "two devices": (Step, {"cuLaunchKernel": 56, "cudaMemcpyAsync": 3, "cudaMemcpyPeerAsync": 7, "cudaEventCreateWithFlags": 17,
                           "cudaEventDestroy": 17, "cudaEventRecord": 17, "cudaStreamWaitEvent": 28, "cudaSetDevice": 52})}


@soft
@pytest.mark.parametrize("where, kind", [("0", "eager"), ("1", "eager"), ("0", "graph"), ("1", "graph"),
                                         ("0,1", "two devices")])
def test_what_a_steady_step_asks_of_cuda(where, kind):
    """Launches, and what orders them: nothing is allocated, compiled or waited for. (CuPy asks which device is the current one
    three times a launch, which costs nothing.)"""
    step, expected = STEADY[kind]
    with in_order("late"):
        calls = calls_of_a_step(where, step)
    del calls["cudaGetDevice"]
    assert calls == expected


# Commands


def test_commands_on_gpus_do_what_they_do_on_the_cpu(tmp_path, monkeypatch, capsys):
    """A net trained on a GPU as a graph, stopped and gone on with on two, and then all that takes --devices, on each."""
    gpus("0,1")
    monkeypatch.chdir(tmp_path)
    small_set("squares.h5", train=24, val=8)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)).save("photo.png")

    def call(text):
        assert command_line.main(text.split()) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    call("--data squares.h5 --epochs 1 --batch 8 --devices 1 --graph --name one")
    call("--resume one --epochs 2 --devices 0,1 --no-graph")
    net, results = "runs/one/checkpoint-last.h5", {}
    for where in "cpu", "1", "0,1":
        one = where[-1] if where != "cpu" else where  # what is not shared by columns
        call(f"evaluate {net} --crops 10 --save-probabilities p.h5 --devices {where}")
        call(f"features {net} squares.h5 f.h5 --devices {where}")
        call(f"codes f.h5 c.h5 --bits 8 --hidden 16 --epochs 1 --devices {one}")
        found = call(f"neighbours f.h5 squares.h5 --queries val --codes c.h5 --devices {one}")
        (seen,) = json.loads(call(f"predict {net} photo.png --json --devices {where}"))
        with h5py.File("p.h5") as p, h5py.File("f.h5") as f, h5py.File("c.h5") as c:
            results[where] = (p["probabilities"][()], np.array([each["probability"] for each in seen["predictions"]]),
                              f["val/features"][()], np.unpackbits(c["val/codes"][()]))
        assert found.count("% of the nearest 6") == 3  # by features, by codes, by pixels
        for result, expected in zip(results[where], results["cpu"], strict=True):
            assert (abs(result - expected) > 1e-4 * abs(expected).max()).sum() <= 1  # a bit whose number is next to 0

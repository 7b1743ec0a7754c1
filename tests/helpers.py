"""What tests of training share: a small data set of shapes that a net can learn, and runs of the command line."""
import importlib
import io
import os
import subprocess
import sys
import threading
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from cpnet.checkpoint import Checkpoint
from cpnet.gpu.devices import named
from cpnet.network import Network
from cpnet.run_folder import RunFolder, find
from cpnet.state import State
from cpnet.train import Trainer
from data.store.moments import Statistics
from data.store.writer import Writer

ROOT = Path(__file__).parent.parent
BUNDLED = ROOT / "data" / "fashion-mnist-12k.h5"
PARTS = "train", "val"


def small_set(path, *, size=16, channels=1, train=96, val=40, classes=4, seed=0):
    """A data set of noisy images with a bright square in one of `classes` places. Returns its path."""
    rng = np.random.default_rng(seed)
    with Writer(path, [f"place {k}" for k in range(classes)], (channels, size, size), source="squares") as writer:
        for part, count in zip(PARTS, (train, val), strict=True):
            labels = np.arange(count, dtype=np.int32) % classes
            images = rng.integers(0, 100, (count, channels, size, size), dtype=np.uint8)
            half = size // 2
            for image, label in zip(images, labels, strict=True):
                row, col = label // 2 % 2 * half, label % 2 * half
                image[:, row + 1:row + half - 1, col + 1:col + half - 1] += 120
            writer.add_split(part, labels)
            writer.write(part, 0, images)
            if part == "train":
                writer.set_statistics(Statistics(images))
    return path


def as_jpegs(source, path, damage=lambda part, k, jpeg: jpeg):
    """The data set `source` at `path`, its images as JPEGs. damage(part, k, jpeg): what is stored of an image. Returns path."""
    with h5py.File(source) as raw, h5py.File(path, "w") as file:
        file.attrs.update(raw.attrs)
        for name in raw:
            if name not in PARTS:
                raw.copy(name, file)
        for part in PARTS:
            stored = [damage(part, k, encode(Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))))
                      for k, image in enumerate(raw[part]["images"])]
            file[f"{part}/labels"] = raw[part]["labels"][()]
            file[f"{part}/jpeg"] = np.frombuffer(b"".join(stored), np.uint8)
            file[f"{part}/offsets"] = np.cumsum([0, *map(len, stored)], dtype=np.int64)
    return path


def encode(image, kind="JPEG"):
    """An image's bytes as a file."""
    file = io.BytesIO()
    image.save(file, kind, quality=95)
    return file.getvalue()


def within(seconds, function):
    """function() in a thread that must end within so many seconds."""
    outcome = []

    def run():
        try:
            outcome.append((function(), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert outcome, f"still waiting after {seconds} s"
    if outcome[0][1] is not None:
        raise outcome[0][1]
    return outcome[0][0]


def loader_threads():
    """The loaders' threads that live."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("loader-")]


def trainer_of(network, dataset, path, settings, *, resume=False, stop=lambda: False, say=lambda line: None):
    """A Trainer with `settings` in a new run folder, or one that goes on with the run there."""
    settings = {"table": network.table.settings, "data": str(dataset.path), **settings}
    folder, state = RunFolder(path), None
    if resume:
        folder = find(path.parent, path.name)
        checkpoint = Checkpoint(folder.last)
        checkpoint.restore(network)
        state = State(**checkpoint.state)
    else:
        folder.create(settings)
    return Trainer(network, dataset, folder, settings, state=state, stop=stop, progress=False, say=say)


def run(*words, cwd=ROOT, check=None, **options):
    """The command line in a process of its own. `check`: the exit code it must have."""
    done = subprocess.run([sys.executable, str(ROOT / "run.py"), *map(str, words)], cwd=cwd, capture_output=True, text=True,
                          timeout=600, **options)
    assert check is None or done.returncode == check, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def checkpoint_arrays(path):
    """Every array of a checkpoint by name, to compare bit by bit."""
    arrays = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: arrays.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return arrays


def assert_same_arrays(one, other):
    """Bit by bit."""
    one, other = checkpoint_arrays(one), checkpoint_arrays(other)
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def optional(name):
    """A package that only one command or test needs: optional on a laptop, required where CI is set."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{error}: pip install {name.partition('.')[0]}")


def lively(table, images, *, dtype=np.float32, seed=2):
    """A Network of `table` whose signal neither fades nor explodes on the way up, and whose logits for `images` (C, H, W, N)
    differ by about 2 from image to image, so that an error anywhere shows in the probabilities."""
    network = Network(table, named("cpu", table.columns), seed=seed, dtype=dtype)
    rng = np.random.default_rng(seed)
    for name, parameter in network.parameters.items():
        if parameter.std:
            gain = np.sqrt(2 / np.prod(parameter.shape[1:])) / parameter.std
            network.set("values", name, gain * network.get("values", name))
        else:
            network.set("values", name, 0.3 * rng.standard_normal(parameter.shape))
    first, last = table.layers[0].name, table.layers[-1].name
    if table.settings["activation"] == "tanh":  # not saturated by pixels: that would make much of a rounding error
        network.set("values", f"{first}.weight", network.get("values", f"{first}.weight") / 50)
    logits = network.forward(images)
    scale = 2 / np.ptp(logits, axis=1).mean()
    network.set("values", f"{last}.bias", -scale * logits.mean(axis=1))
    network.set("values", f"{last}.weight", scale * network.get("values", f"{last}.weight"))
    return network

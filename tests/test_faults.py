"""What can go wrong with the data while a net is trained: each time one clear line within seconds, no thread left behind, and
the checkpoint as it was."""
import errno
import os
import re
import signal
import sys
import threading
import time

import h5py
import pytest
from PIL import Image

from cpnet import nets
from cpnet.checkpoint import Checkpoint
from cpnet.errors import Stopped
from cpnet.gpu.devices import named
from cpnet.network import Network
from cpnet.run_folder import find
from data.errors import DataError
from data.loading import loader
from data.loading.order import epoch_order
from data.loading.ring import Ring
from data.store import crops
from data.store.dataset import Dataset
from tests.helpers import as_jpegs, assert_same_arrays, encode, loader_threads, small_set, trainer_of, within

pytestmark = pytest.mark.usefixtures("no_test_hangs")
SETTINGS = dict(epochs=2, batch=4, lr=0.01, momentum=0.9, decay=0.0005, schedule="2", seed=0, mirror=True, colour=True,
                checkpoint_minutes=1e9, loader_threads=2)
STEP = 2  # after which the fault happens: six batches are in work or ready, and as many are not begun
SECONDS = 300  # longer than anything here takes on a busy machine: what lasts longer hangs


def trainer(dataset, path, *, stop=lambda: False, resume=False, **changes):
    crop = dataset.height * 7 // 8
    table = nets.build("mini", (dataset.channels, crop, crop), len(dataset.classes))
    network = Network(table, named("cpu", 2), seed=0)
    return trainer_of(network, dataset, path, {**SETTINGS, **changes}, stop=stop, resume=resume)


# The faults. Each takes the data set and monkeypatch.


def cut(share):
    def fault(dataset, patch):
        os.truncate(dataset.path, int(os.path.getsize(dataset.path) * share))
    return fault


def written_over(dataset, patch):
    with open(dataset.path, "r+b") as file:
        file.seek(dataset.split("train").pixels.places[0])
        file.write(bytes(1000))


def replaced_in_place(dataset, patch):
    """As `cp other.h5 data.h5` does."""
    with open(dataset.path, "rb") as file:
        other = file.read()
    with open(dataset.path, "wb") as file:
        file.write(other[::-1])


def appended(dataset, patch):
    with h5py.File(dataset.path, "a") as file:
        file["notes"] = list(range(1000))


def reading_fails(number, *, good=0):
    """After `good` batches: compiled code only says that it failed, Python says why."""
    def fault(dataset, patch):
        read_and_cut, calls = crops.read_and_cut, []

        def fail_to_read(*arguments):
            calls.append(arguments)
            return len(calls) <= good and read_and_cut(*arguments)

        def fail(*arguments):
            raise OSError(number, os.strerror(number))

        patch.setattr(crops, "read_and_cut", fail_to_read)
        patch.setattr(os, "preadv", fail)
    return fault


def stat_fails(dataset, patch):
    def fail(fd):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
    patch.setattr(os, "fstat", fail)


def unmounted(dataset, patch):
    fd = os.open(os.path.dirname(dataset.path), os.O_RDONLY)
    os.dup2(fd, dataset.split("train").pixels.fd)
    os.close(fd)


def thread_raises(error):
    def fault(dataset, patch):
        def fail(*arguments):
            raise error
        patch.setattr(loader, "centre", fail)
    return fault


def thread_dies(dataset, patch):
    def die(ring):
        raise MemoryError
    patch.setattr(Ring, "_begin_next", die)


def no_more_threads(dataset, patch):
    """At the next epoch's start, or validation's."""
    def fail(thread):
        raise RuntimeError("can't start new thread")
    patch.setattr(threading.Thread, "start", fail)


MADE = "batch .* of 'train' could not be made: "
FAULTS = {
    "cut in the pixels": (cut(0.5), "cut short while open"),
    "cut by one byte in a hundred": (cut(0.99), "cut short while open, from .* to .* bytes; prepare it again"),
    "cut to nothing": (cut(0), "cut short while open"),
    "pixels written over": (written_over, "was written to while open; start again"),
    "replaced in place": (replaced_in_place, "was written to while open|cut short while open"),
    "appended to": (appended, "was written to while open"),
    "the disk fails": (reading_fails(errno.EIO), "image .* of 'train' cannot be read: Input/output error; is the disk still"),
    "the third read fails": (reading_fails(errno.EIO, good=2), "image .* of 'train' cannot be read: Input/output error"),
    "the network drive went away": (reading_fails(errno.ESTALE), "cannot be read: Stale file handle; is the disk still there"),
    "its file's state too": (stat_fails, "cannot be read: Stale file handle; is the disk still there"),
    "unmounted": (unmounted, "image .* of 'train' cannot be read: Is a directory; is the disk still there"),
    "a thread lacks memory": (thread_raises(MemoryError("no room")), MADE + "MemoryError: no room"),
    "a thread meets a bug": (thread_raises(IndexError("7")), MADE + "IndexError: 7"),
    "a thread is told to exit": (thread_raises(SystemExit(3)), MADE + "SystemExit: 3"),
    "a thread is interrupted": (thread_raises(KeyboardInterrupt()), MADE + "KeyboardInterrupt"),
    "a thread dies between batches": (thread_dies, "a loader thread died of MemoryError.*--resume"),
    "no more threads": (no_more_threads, "a loader thread could not be started .*fewer --loader-threads"),
}


def fails_in_training(dataset, path, patch, fault, expected, match):
    """Train; `fault` strikes after STEP steps. Returns the seconds from then to the error."""
    struck = []

    def stop():
        if run.state.step == STEP:
            struck.append(time.monotonic())
            fault(dataset, patch)

    run = trainer(dataset, path, stop=stop)
    run.save()
    before = run.folder.last.read_bytes()
    with pytest.raises(expected, match=match) as caught:
        run.train()
    seconds = time.monotonic() - struck[0]
    patch.undo()
    assert "\n" not in str(caught.value) and loader_threads() == []
    assert run.folder.last.read_bytes() == before and Checkpoint(find(path.parent, path.name).last).state["step"] == 0
    assert not list(run.folder.path.glob("*.partial"))
    return seconds


@pytest.fixture
def squares(tmp_path):
    with Dataset(small_set(tmp_path / "squares.h5", train=48, val=4)) as dataset:
        yield dataset


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_while_training(squares, tmp_path, monkeypatch, fault):
    strike, message = FAULTS[fault]
    assert fails_in_training(squares, tmp_path / "run", monkeypatch, strike, DataError, message) < SECONDS


@pytest.mark.parametrize("kind, damage", [("cut", lambda jpeg: jpeg[:len(jpeg) // 2]), ("no JPEG", lambda jpeg: bytes(9)),
                                          ("another size", lambda jpeg: encode(Image.new("L", (8, 8))))])
def test_a_corrupt_jpeg(tmp_path, monkeypatch, kind, damage):
    raw = small_set(tmp_path / "raw.h5", train=48, val=4)
    path = as_jpegs(raw, tmp_path / "jpeg.h5", lambda part, k, jpeg: damage(jpeg) if (part, k) == ("train", 40) else jpeg)
    with Dataset(path) as dataset:
        fault = "image 40 of 'train' is a damaged JPEG"
        drawn = [k for k in range(9) if 40 not in order_of(dataset, k)[:4 * (STEP + 4)]]
        monkeypatch.setitem(SETTINGS, "seed", drawn[0])  # not before the epoch's middle
        assert fails_in_training(dataset, tmp_path / "run", monkeypatch, lambda *_: None, DataError, fault) < SECONDS


def order_of(dataset, seed):
    return epoch_order(len(dataset.split("train")), seed, 0)


def test_ctrl_c_in_a_full_queue(squares, tmp_path, monkeypatch):
    """The second one, which does not wait for the step to end; the threads sleep with every slot full."""
    def interrupt(dataset, patch):
        deadline = time.monotonic() + SECONDS
        while [thread for thread in loader_threads() if not asleep(thread)] and time.monotonic() < deadline:
            time.sleep(0.01)
        signal.raise_signal(signal.SIGINT)

    assert fails_in_training(squares, tmp_path / "run", monkeypatch, interrupt, KeyboardInterrupt, None) < SECONDS


def asleep(thread):
    frame = sys._current_frames().get(thread.ident)
    return frame is not None and frame.f_code.co_filename == threading.__file__ and frame.f_code.co_name == "wait"


def test_a_file_replaced_by_renaming_changes_nothing(squares, tmp_path):
    """As `prepare` does it: the open file is still the old one."""
    small_set(tmp_path / "other.h5", train=48, val=4, seed=5)
    run = trainer(squares, tmp_path / "run", epochs=1)
    run.stop = lambda: run.state.step == STEP and os.replace(tmp_path / "other.h5", squares.path) and False
    run.train()
    os.replace(small_set(tmp_path / "again.h5", train=48, val=4), squares.path)
    with Dataset(squares.path) as dataset:
        trainer(dataset, tmp_path / "undisturbed", epochs=1).train()
    assert_same_arrays(tmp_path / "run" / "checkpoint-last.h5", tmp_path / "undisturbed" / "checkpoint-last.h5")


def test_after_a_fault_the_run_goes_on(squares, tmp_path, monkeypatch):
    trainer(squares, tmp_path / "whole").train()
    run = trainer(squares, tmp_path / "run")
    run.stop = lambda: run.state.step == STEP
    with pytest.raises(Stopped):
        run.train()
    run = trainer(squares, tmp_path / "run", resume=True)
    run.stop = lambda: run.state.step == STEP + 1 and reading_fails(errno.EIO)(squares, monkeypatch)
    with pytest.raises(DataError, match="Input/output error"):
        within(SECONDS, run.train)
    monkeypatch.undo()
    trainer(squares, tmp_path / "run", resume=True).train()
    assert_same_arrays(tmp_path / "whole" / "checkpoint-last.h5", tmp_path / "run" / "checkpoint-last.h5")


def test_a_loader_that_is_too_slow_is_said(tmp_path, monkeypatch):
    centre, said = loader.centre, []
    monkeypatch.setattr(loader, "centre", lambda *arguments: (time.sleep(0.3), centre(*arguments)))
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    with Dataset(small_set(tmp_path / "squares.h5", train=24, val=4)) as dataset:
        run = trainer(dataset, tmp_path / "run", epochs=1, loader_threads=1)
        run.say = said.append
        run.train()
    assert re.search(r"images/s, .* left; \d\d% of the time the net waited for images: try --loader-threads 2$", said[-1])

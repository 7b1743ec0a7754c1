"""Threads that work ahead, and that nothing waits for ever."""
import os
import signal
import threading
import time

import pytest

from data.errors import DataError
from data.loading.ring import Ring
from tests.helpers import loader_threads, within

pytestmark = pytest.mark.usefixtures("no_test_hangs")


def test_close_wakes_a_waiting_consumer():
    gate = threading.Event()
    ring = Ring(lambda number, slot: gate.wait(20), 0, 3, 2, 1)
    closer = threading.Timer(0.1, ring.close)  # waits for the worker, which waits for the gate
    closer.start()
    with pytest.raises(RuntimeError, match="closed"):
        within(10, ring.next)
    gate.set()
    closer.join(10)
    assert not closer.is_alive()


def test_interrupting_a_waiting_consumer():
    gate = threading.Event()
    ring = Ring(lambda number, slot: gate.wait(600), 0, 3, 2, 2)
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()  # as Ctrl-C does
    with pytest.raises(KeyboardInterrupt):
        ring.next()
    gate.set()
    within(10, ring.close)


def test_ring_never_begins_a_piece_whose_slot_is_in_use():
    """With slots full the threads sleep: they run exactly `slots` ahead, the consumer's own slot included."""
    for slots in (1, 2, 4):
        begun = []
        ring = Ring(lambda number, slot, begun=begun: begun.append((number, slot)) or number, 5, 20, slots, 3)

        def settled(begun=begun, wanted=5 + slots):
            deadline = time.monotonic() + 10
            while len(begun) < wanted and time.monotonic() < deadline:
                time.sleep(0.001)
            time.sleep(0.02)  # for one too many to show
            return len(begun) == wanted

        assert settled(wanted=slots)
        for taken in range(3):  # what is taken frees nothing until the next is asked for
            assert ring.next() == 5 + taken
            assert settled(wanted=slots + taken)
        assert sorted(n for n, _ in begun) == list(range(5, 7 + slots))
        assert all(slot == number % slots for number, slot in begun)
        within(10, ring.close)


def test_a_kept_slot_is_not_written_before_its_wait_returns():
    """The wait is a thread's; the consumer goes on, and is not said to wait for work meanwhile."""
    written, gates = [], [threading.Event() for _ in range(6)]
    ring = Ring(lambda number, slot: written.append(number) or number, 0, 6, 2, 1)
    assert ring.next() == 0
    ring.keep(lambda: gates[0].wait(20))
    assert ring.next() == 1
    time.sleep(0.05)
    assert written == [0, 1] and not ring.ready()  # piece 2 wants the slot of piece 0
    threading.Timer(0.1, gates[0].set).start()
    assert within(10, ring.next) == 2
    assert ring.health().seconds < 0.05 and ring.kept == {}
    within(10, ring.close)


def test_a_wait_that_fails_is_an_error_of_its_piece():
    ring = Ring(lambda number, slot: number, 0, 6, 2, 1)
    ring.next()
    ring.keep(lambda: 1 / 0)
    assert ring.next() == 1
    with pytest.raises(ZeroDivisionError):
        within(10, ring.next)
    within(10, ring.close)


def test_health():
    gate = threading.Event()
    ring = Ring(lambda number, slot: (number < 4 or gate.wait(20)) and number, 0, 6, 3, 1)
    while not ring.ready():
        time.sleep(0.001)
    for expected in range(4):
        while not ring.ready():
            time.sleep(0.001)
        assert ring.next() == expected
    assert ring.health()[2:] == (0, 0.0) and ring.health().pieces == 4 and 1 <= ring.health().ready <= 3
    threading.Timer(0.1, gate.set).start()
    assert within(10, ring.next) == 4
    assert ring.health().waits == 1 and 0.05 < ring.health().seconds < 10
    within(10, ring.close)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_thread_that_dies_between_pieces(monkeypatch, threads):
    """Of what nobody foresaw; the pieces that are done come, then the error, and the other threads end."""
    begin, calls = Ring._begin_next, []

    def die(ring):
        calls.append(1)
        if len(calls) == 5:
            raise MemoryError("no more")
        return begin(ring)

    monkeypatch.setattr(Ring, "_begin_next", die)
    ring = Ring(lambda number, slot: number, 0, 99, 4, threads)
    with pytest.raises(DataError, match=r"^a loader thread died of MemoryError\('no more'\); start again, with --resume$"):
        within(10, lambda: [ring.next() for _ in range(99)])
    within(10, ring.close)
    assert not loader_threads()


def test_threads_that_cannot_be_started(monkeypatch):
    start, started = threading.Thread.start, []

    def fail(thread):
        if thread.name == "loader-2":
            raise RuntimeError("can't start new thread")
        started.append(thread.name)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", fail)
    with pytest.raises(DataError, match="could not be started .can't start new thread.: fewer --loader-threads may do"):
        Ring(lambda number, slot: number, 0, 99, 4, 3)
    assert started == ["loader-0", "loader-1"] and not loader_threads()

import threading
import time

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from cpnet.threads import chunks, parallel, scratch, set_threads, threads

LONG = 10  # seconds after which something waits for ever


@pytest.fixture(params=[1, 2, 3])
def count(request):
    before = threads()
    set_threads(request.param)
    yield request.param
    set_threads(before)


def in_time(body):
    """Run `body` in a thread of its own, so that a deadlock fails a test instead of stopping all of them."""
    raised = []

    def run():
        try:
            body()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(LONG)
    assert not thread.is_alive(), "deadlock"
    if raised:
        raise raised[0]


@pytest.mark.parametrize("tasks", [0, 1, 2, 3, 500])
def test_every_task_runs_once(count, tasks):
    done = np.zeros(tasks, int)

    def body(i, step):
        done[i] += step

    in_time(lambda: [parallel(body, [(i, 1) for i in range(tasks)]) for _ in range(20)])
    assert (done == 20).all()


def test_tasks_run_at_the_same_time(count):
    meeting = threading.Barrier(count)
    in_time(lambda: parallel(lambda i: meeting.wait(LONG), [(i,) for i in range(4 * count)]))
    assert threads() == count


@pytest.mark.parametrize("count, where", [(1, "the caller"), (2, "the caller"), (2, "a helper"), (3, "a helper")],
                         indirect=["count"])
def test_an_exception_arrives_after_all_have_stopped(count, where):
    meeting = threading.Barrier(count)
    started, finished = [], []

    def body(i, caller):
        started.append(i)
        meeting.wait(LONG)
        if (threading.current_thread() is caller) == (where == "the caller"):
            raise KeyError("the culprit")
        time.sleep(0.05)
        finished.append(i)

    def call():
        caller = threading.current_thread()
        parallel(body, [(i, caller) for i in range(100)])

    with pytest.raises(KeyError, match="the culprit"):
        in_time(call)
    assert len(started) < 100
    raised = 1 if where == "the caller" else count - 1
    assert len(finished) == len(started) - raised
    after = []
    in_time(lambda: parallel(after.append, [(i,) for i in range(5)]))  # and the threads are still of use
    assert sorted(after) == list(range(5))


def test_two_callers_at_a_time(count):
    totals = np.zeros((2, 300), int)

    def caller(row):
        def body(i):
            totals[row, i] += 1

        for _ in range(20):
            parallel(body, [(i,) for i in range(300)])

    def both():
        others = [threading.Thread(target=caller, args=(row,)) for row in range(2)]
        for other in others:
            other.start()
        for other in others:
            other.join()

    in_time(both)
    assert (totals == 20).all()


def test_threads_must_be_positive():
    before = threads()
    with pytest.raises(ValueError, match="at least 1, not 0"):
        set_threads(0)
    assert threads() == before


def test_chunks_cover_everything_once():
    assert chunks(10, 4) == [(0, 4), (4, 8), (8, 10)]
    assert chunks(8, 4) == [(0, 4), (4, 8)]
    assert chunks(3, 4) == [(0, 3)]
    assert chunks(0, 4) == []


def test_scratch_is_kept_for_each_name_type_and_thread():
    first = scratch("test", (3, 4), np.float32)
    assert first.shape == (3, 4) and first.dtype == np.float32 and first.flags.c_contiguous
    assert np.shares_memory(first, scratch("test", (2, 5), np.float32))
    assert not np.shares_memory(first, scratch("other", (3, 4), np.float32))
    assert not np.shares_memory(first, scratch("test", (3, 4), np.float64))
    assert scratch("test", (50, 40), np.float32).shape == (50, 40)
    mine, theirs = scratch("test", 5, np.float32), []
    in_time(lambda: theirs.append(scratch("test", 5, np.float32)))
    assert not np.shares_memory(mine, theirs[0])


def test_blas_keeps_to_one_thread():
    assert all(library["num_threads"] == 1 for library in threadpool_info()
               if library["user_api"] == "blas" and "numpy" in library["filepath"])

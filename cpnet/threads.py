"""How work on NumPy arrays is shared over the CPU's cores.

An operation cuts its work into tasks whose results do not overlap; `parallel` lets the threads take them one
by one. The cut depends on shapes alone, never on the number of threads, so the same inputs give the same bits
on any number of cores. Each thread calls BLAS by itself, so BLAS is held to one thread of its own:
two pools would fight for the cores.
"""
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from threadpoolctl import threadpool_limits

from cpnet.machine import cores

# Set once, for good: NumPy's BLAS is loaded by the import above.
threadpool_limits(limits=1, user_api="blas")

_local = threading.local()
_threads = cores()
_pool = None


def set_threads(count: int) -> None:
    """Let operations on NumPy arrays use `count` threads from now on."""
    global _threads, _pool
    if count < 1:
        raise ValueError(f"threads must be at least 1, not {count}")
    if _pool is not None:
        _pool.shutdown()
    _threads, _pool = count, None


def threads() -> int:
    """How many threads operations on NumPy arrays use."""
    return _threads


def parallel(body, tasks) -> None:
    """Call `body(*task)` for each task, shared over the threads;
    the first error is raised here once all have stopped.

    `body` must not call `parallel` itself, and no two tasks may write the same memory.
    """
    global _pool
    todo = deque(tasks)
    helpers = min(_threads, len(todo)) - 1

    def drain():
        while True:
            try:
                task = todo.popleft()
            except IndexError:
                return
            try:
                body(*task)
            except BaseException:
                todo.clear()
                raise

    if helpers > 0 and _pool is None:
        _pool = ThreadPoolExecutor(_threads - 1, thread_name_prefix="cpnet")
    futures = [_pool.submit(drain) for _ in range(helpers)]
    try:
        drain()
    finally:
        errors = [error for error in (future.exception() for future in futures) if error is not None]
    if errors:
        raise errors[0]


def chunks(total: int, size: int):
    """The tasks (start, stop) that cover range(total) in runs of at most `size`."""
    return [(start, min(start + size, total)) for start in range(0, total, size)]


def scratch(name: str, shape, dtype) -> np.ndarray:
    """This thread's working memory called `name`:
    uninitialised, valid until the thread asks for the name again.

    Fresh memory costs a page fault every 4 KiB; memory that is used again and again stays in the cache.
    """
    held = _local.__dict__.setdefault("held", {})
    dtype = np.dtype(dtype)
    size = int(np.prod(shape, dtype=np.int64))
    flat = held.get((name, dtype))
    if flat is None or flat.size < size:
        flat = held[name, dtype] = np.empty(size, dtype)
    return flat[:size].reshape(shape)

"""Threads that do numbered pieces of work ahead of their consumer, in a ring of reused slots,
handed out in order."""

import threading
from collections import namedtuple
from time import perf_counter

from data.errors import DataError

Health = namedtuple("Health", "pieces ready waits seconds")
Health.__doc__ = """How a ring keeps up: pieces handed out; how many were ready when one was asked for,
on average; how often and how long the consumer had to wait for work (not for a slot that a
GPU was still reading)."""


class Ring:
    """Runs `work(number, slot)` for number = first … last−1 on threads;
    `next()` hands the results out in order.

    Piece `number` uses slot `number % slots`. A slot belongs to the consumer from the `next()` that handed it
    out to the following call of `next()`, and on until what `keep` was given has returned; then a thread may
    write into it again. When every slot is full the threads sleep.

    An exception in `work` comes out of the `next()` that would have brought that piece, after the pieces
    before it, as the object that the thread raised, again at every further call; no further pieces are begun.
    """

    def __init__(self, work, first, last, slots, threads):
        self.work, self.last, self.slots = work, last, slots
        self.begin = first  # the next piece for a thread to begin
        self.wanted = first  # the next piece to hand out
        self.held = first  # pieces before this one are finished with: their slots are free
        # number → (result, exception, when its work began) of pieces that wait to be handed out
        self.done = {}
        self.kept = {}  # slot → what to call before it is written to
        self.stopping = self.closed = False
        self.death = None  # what a thread died of, outside its work
        self.pieces = self.ready_sum = self.waits = 0
        self.seconds = 0.0
        self.changed = threading.Condition()
        # Daemons, so that a program which ends without close() is not kept alive by
        # threads asleep in a full ring.
        self.threads = [threading.Thread(target=self._run, name=f"loader-{i}", daemon=True)
                        for i in range(min(threads, last - first))]
        self.alive = 0
        try:
            for thread in self.threads:
                thread.start()
                with self.changed:
                    self.alive += 1
        except RuntimeError as error:
            self.close()
            raise DataError(f"a loader thread could not be started ({error}): "
                            "fewer --loader-threads may do") from error

    def _run(self):
        death = None
        try:
            while (number := self._begin_next()) is not None:
                self._do(number)
        except BaseException as caught:
            death = caught
        with self.changed:
            self.alive -= 1
            self.death = self.death or death
            self.stopping = self.stopping or death is not None
            self.changed.notify_all()

    def _do(self, number):
        result = error = None
        began, slot = perf_counter(), number % self.slots
        try:
            if slot in self.kept:
                self.kept.pop(slot)()
                began = perf_counter()
            result = self.work(number, slot)
        except BaseException as caught:  # whatever it is: the consumer must learn of it, or it waits for ever
            error = caught
        with self.changed:
            self.done[number] = result, error, began
            self.stopping = self.stopping or error is not None
            self.changed.notify_all()

    def _begin_next(self):
        """Wait until there is a piece to begin and a free slot for it.
        Its number, or None when there is no more."""
        with self.changed:
            while not self.stopping and self.begin < self.last:
                if self.begin - self.held < self.slots:
                    self.begin += 1
                    return self.begin - 1
                self.changed.wait()

    def next(self):
        """The result of the next piece, waited for if need be. Raises StopIteration after the last one."""
        with self.changed:
            self.held = self.wanted
            self.changed.notify_all()
            if self.wanted >= self.last and not self.closed:
                raise StopIteration
            asked, ready, waits = perf_counter(), len(self.done), self.wanted not in self.done
            # Pieces are begun in order, so all that come before a failed one will still arrive.
            while self.wanted not in self.done and not self.closed and self.alive > 0:
                self.changed.wait()
            if self.closed:
                raise RuntimeError("this loader is closed; make a new one")
            if self.wanted not in self.done:
                raise DataError(f"a loader thread died of {self.death!r}; "
                                "start again, with --resume") from self.death
            result, error, began = self.done[self.wanted]
            if error is not None:
                raise error
            del self.done[self.wanted]
            self.wanted += 1
            self.pieces += 1
            self.ready_sum += ready
            if waits and self.pieces > 1:  # the first is always waited for
                self.waits += 1
                self.seconds += perf_counter() - max(asked, began)
            return result

    def ready(self):
        """Whether `next()` would return a piece at once."""
        with self.changed:
            return self.wanted in self.done and self.done[self.wanted][1] is None

    def keep(self, wait):
        """Have a thread call `wait()`, which returns when the slot of the piece handed out
        last may be written to."""
        with self.changed:
            self.kept[(self.wanted - 1) % self.slots] = wait

    def health(self):
        """The Health of the ring so far."""
        with self.changed:
            return Health(self.pieces, self.ready_sum / max(self.pieces, 1), self.waits, self.seconds)

    def close(self):
        """Wake everybody, end the threads and wait for them.
        At any time, from any thread, as often as you like."""
        with self.changed:
            self.stopping = self.closed = True
            self.changed.notify_all()
        for thread in self.threads:
            if thread is not threading.current_thread() and thread.ident is not None:
                thread.join()
        self.done.clear()

"""Threads that do numbered pieces of work ahead of their consumer, in a ring of reused slots, handed out in order."""

import threading


class Ring:
    """Runs `work(number, slot)` for number = first … last−1 on threads; `next()` hands the results out in order.

    Piece `number` uses slot `number % slots`. A slot belongs to the consumer from the `next()` that handed it out to
    the following call of `next()`, then a thread may write into it again. When every slot is full the threads sleep.

    An exception in `work` comes out of the `next()` that would have brought that piece, after the pieces before it,
    as the object that the thread raised, again at every further call; no further pieces are begun.
    """

    def __init__(self, work, first, last, slots, threads):
        self.work, self.last, self.slots = work, last, slots
        self.begin = first  # the next piece for a thread to begin
        self.wanted = first  # the next piece to hand out
        self.held = first  # pieces before this one are finished with: their slots are free
        self.done = {}  # number → (result, exception) of pieces that wait to be handed out
        self.stopping = self.closed = False
        self.changed = threading.Condition()
        # Daemons, so that a program which ends without close() is not kept alive by threads asleep in a full ring.
        self.threads = [threading.Thread(target=self._run, name=f"loader-{i}", daemon=True)
                        for i in range(min(threads, last - first))]
        for thread in self.threads:
            thread.start()

    def _run(self):
        while (number := self._begin_next()) is not None:
            result = error = None
            try:
                result = self.work(number, number % self.slots)
            except BaseException as caught:  # whatever it is, the consumer must learn of it or it would wait for ever
                error = caught
            with self.changed:
                self.done[number] = result, error
                self.stopping = self.stopping or error is not None
                self.changed.notify_all()

    def _begin_next(self):
        """Wait until there is a piece to begin and a free slot for it. Its number, or None when there is no more."""
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
            # Pieces are begun in order, so all that come before a failed one will still arrive.
            while self.wanted not in self.done and not self.closed:
                self.changed.wait()
            if self.closed:
                raise RuntimeError("this loader is closed; make a new one")
            result, error = self.done[self.wanted]
            if error is not None:
                raise error
            del self.done[self.wanted]
            self.wanted += 1
            return result

    def close(self):
        """Wake everybody, end the threads and wait for them. At any time, from any thread, as often as you like."""
        with self.changed:
            self.stopping = self.closed = True
            self.changed.notify_all()
        for thread in self.threads:
            if thread is not threading.current_thread():
                thread.join()
        self.done.clear()

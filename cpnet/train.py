"""Training (section 5): the loop over epochs and batches, what it measures, when it saves, how it stops."""
import math
import signal
import sys
import time
from dataclasses import asdict

import numpy as np
from tqdm import tqdm

from cpnet import checkpoint
from cpnet.errors import Diverged, Stopped
from cpnet.evaluate import evaluate
from cpnet.gpu.feed import Feed
from cpnet.gpu.graph import GraphStep
from cpnet.gpu.memory import to_host
from cpnet.gpu.platform import on_gpu
from cpnet.layers import Pass
from cpnet.probe import Probe
from cpnet.schedule import schedule
from cpnet.settings import Settings
from cpnet.state import State
from cpnet.step import Step

READ_SECONDS = 0.5  # how often a GPU is waited for, to say what the loss is
STUCK_STEPS = 1000  # after so many steps, or an epoch, the loss should have left ln(classes)
STUCK = """the loss stays at {loss:.3f}, which is ln({classes}), the loss of guessing. Early in training
this is normal for large nets. If it lasts, the first weights are too small for a signal to pass (most
re-implementations of this net report this): try --profile as-run, which starts conv3 to conv5 with a
standard deviation of 0.03, or another --lr."""
WEEKS = """at this speed {epochs} epochs take about {duration}; the paper's two GPUs needed under a week. To
see the whole system in minutes, train the bundled set: python run.py --epochs 5 --data
data/fashion-mnist-12k.h5. Training goes on; Ctrl-C stops it and keeps what it learned."""


class Trainer:
    """Trains `network` on `dataset`, in `folder` (a RunFolder), from `state` on.

    settings: Settings, or a dict of some of them; the others have their defaults. The network exists
    already, so `table` and `data` are only written down. After every step the trainer asks `stop()`. Once
    that is true, the trainer saves the run and raises Stopped.
    """

    def __init__(self, network, dataset, folder, settings, *, state=None, stop=lambda: False, say=tqdm.write,
                 progress=True):
        self.network, self.dataset, self.folder = network, dataset, folder
        self.settings = settings = Settings(**settings)
        self.state, self.stop, self.say, self.progress = state or State(), stop, say, progress
        self.schedule = schedule(settings.schedule, settings.epochs)
        if self.state.schedule:
            self.schedule.restore(self.state.schedule)
        work = GraphStep if settings.graph else Step
        self.work = work(network, seed=settings.seed, momentum=settings.momentum, decay=settings.decay)
        self.work.restart(self.state.loss, self.state.wrong, self.state.step)
        self.probe = Probe(network, dataset, settings.batch) if settings.probe else None
        self.saved_at = self.read_at = time.monotonic()
        self.warned = False
        self.remark = ""  # on the last epoch's speed

    @property
    def rate(self):
        """The present learning rate."""
        return self.settings.lr / 10**self.schedule.drops

    def train(self):
        """Train to the last epoch, or to the error `until`.

        Raises Stopped when asked to stop, and Diverged for a loss that is not finite.
        """
        self.folder.write_history(self.state.history)
        self.folder.write_probes(self.state.probes)
        if not self.folder.last.exists():
            self._probe()
            self.save()
        while self.state.epoch < self.settings.epochs and not self.reached():
            try:
                self._epoch()
                result = self._validate()
            except Stopped:
                self.save()
                if self.reached() and not self.stop():
                    return
                raise
            self._finish_epoch(result)

    def reached(self):
        """Whether the training error has come down to where the run ends."""
        until = self.settings.until
        return until is not None and bool(self.state.probes) and self.state.probes[-1][1] <= until

    def step(self, images, labels):
        """One step: forward, loss, backward, update. The next `read` adds its loss to the state."""
        self.work(images, labels, step=self.state.step, rate=self.rate)
        self.state.step += 1

    def read(self, images):
        """Update the state's sums, which waits for a GPU. Raises Diverged if the loss is not finite."""
        loss, wrong, steps = self.work.read()
        self.read_at = time.monotonic()
        if not math.isfinite(loss):
            raise Diverged(self._diagnosis(images, loss, steps))
        self.state.loss, self.state.wrong = loss, wrong

    def save(self, best=False):
        """Write checkpoint-last.h5, and if this is the `best` epoch so far, checkpoint-best.h5."""
        self._check_finite()
        self.state.schedule = self.schedule.state()
        for path in [self.folder.best] * best + [self.folder.last]:
            checkpoint.save(path, self.network, settings=self.settings, state=asdict(self.state),
                            mean=self.dataset.mean, classes=self.dataset.classes)
        self.folder.write_probes(self.state.probes)
        self.saved_at = time.monotonic()

    def _epoch(self):
        """The rest of the present epoch's batches."""
        settings, state = self.settings, self.state
        with Feed(self.network, self.dataset, "train", batch=settings.batch, seed=settings.seed,
                  epoch=state.epoch, start=state.batch, drop_last=True, shuffle=settings.shuffle,
                  mirror=settings.mirror, colour=settings.colour, crops=settings.crops,
                  threads=settings.loader_threads) as feed, \
             tqdm(total=state.images + len(feed) * settings.batch, initial=state.images, unit=" images",
                  leave=False, desc=f"epoch {state.epoch + 1}/{settings.epochs}",
                  disable=not self.progress) as bar:
            last, began, before = state.batch + len(feed), time.perf_counter(), state.seconds
            for images, labels, _ in feed:
                self.step(images, labels)
                state.batch += 1
                state.images += len(labels)
                self._probe()
                stop = self.stop() or self.reached()
                due = time.monotonic() - self.saved_at >= 60 * settings.checkpoint_minutes
                if stop or due or state.batch == last or self._may_read():
                    self.read(images)
                    loss, error = state.loss / state.images, state.wrong / state.images
                    bar.set_postfix_str(f"loss {loss:.3f}, error {error:.1%}", False)
                state.seconds = before + time.perf_counter() - began
                bar.update(len(labels))
                self._notice(last)
                if stop:
                    raise Stopped
                if due:
                    self.save()
            self.remark = feed.remark(time.perf_counter() - began)

    def _probe(self):
        """Measure the error on the probed images, if this step is one of those that --probe names."""
        if self.probe and self.state.step % self.settings.probe == 0:
            self.state.probes.append([self.state.step, self.probe()])

    def _may_read(self):
        """Whether to read the sums now: on a CPU always; on a GPU now and then, and when `_notice` looks."""
        return (not on_gpu(self.work.sums) or time.monotonic() - self.read_at >= READ_SECONDS
                or self.state.step == STUCK_STEPS)

    def _validate(self):
        return evaluate(self.network, self.dataset, "val", batch=self.settings.batch,
                        threads=self.settings.loader_threads, progress=self.progress, stop=self.stop)

    def _finish_epoch(self, result):
        state, rate = self.state, self.rate
        best = result["top1"] < state.best()
        state.epoch += 1
        line = {"epoch": state.epoch, "step": state.step, "lr": rate,
                "train_loss": state.loss / state.images, "train_top1": state.wrong / state.images,
                "val_loss": result["loss"], "val_top1": result["top1"], "val_top5": result["top5"],
                "images_per_s": state.images / state.seconds, "seconds": state.seconds}
        state.history.append(line)
        self.schedule.after_epoch(state.epoch, result["top1"])
        state.batch = state.images = state.wrong = 0
        state.loss = state.seconds = 0.0
        self.work.restart(0.0, 0, state.step)
        self.folder.write_filters(state.epoch, self.network.get("values", "conv1.weight"))
        self.save(best)
        self.folder.write_history(state.history)
        self.say(self._epoch_line(line) + (f"; {self.remark}" if self.remark else "") +
                 (f"; the rate drops to {self.rate:g}" if self.rate < rate else ""))

    def _epoch_line(self, line):
        left = line["seconds"] * (self.settings.epochs - line["epoch"])
        return (f"epoch {line['epoch']}/{self.settings.epochs}: rate {line['lr']:g}, "
                f"training loss {line['train_loss']:.4f}, error {line['train_top1']:.2%}; "
                f"validation loss {line['val_loss']:.4f}, top-1 {line['val_top1']:.2%}, "
                f"top-5 {line['val_top5']:.2%}; "
                f"{line['images_per_s']:,.0f} images/s, {duration(left)} left")

    def _notice(self, last):
        """Warn once of a run that will take weeks, and of a loss that does not leave its first value."""
        state, classes = self.state, len(self.dataset.classes)
        if state.batch == 3:
            whole = state.seconds / state.images * len(self.dataset.splits["train"]) * self.settings.epochs
            if whole > 2 * 86400:
                self.say(WEEKS.format(epochs=self.settings.epochs, duration=duration(whole)))
        mean = state.loss / state.images
        due = state.batch == last or state.step == STUCK_STEPS
        if due and not self.warned and abs(mean - math.log(classes)) < 0.01 * math.log(classes):
            self.warned = True
            self.say(STUCK.format(loss=mean, classes=classes))

    def _diagnosis(self, images, loss, step):
        """Say which layer first gave values that are not finite, and what to do. step: the first such one."""
        where = []

        def watch(layer, outputs):
            if not where and not all(np.isfinite(to_host(output)).all() for output in outputs):
                where.append(layer.name)

        self.network.forward(images, Pass(training=True, seed=self.settings.seed, step=step), watch)
        late = self.state.step - step - 1
        noticed = f" (noticed {late} step{'s' * (late > 1)} later)" if late else ""
        if where:
            place = f"first in layer {where[0]}"
        else:
            place = "with that step's images" if late else "in the loss itself"
        return (f"the loss is {loss} at step {step}{noticed}: {place}. Stopped; {self.folder.last} is from "
                f"before. Try a smaller --lr than {self.settings.lr:g}")

    def _check_finite(self):
        for kind in checkpoint.TRAINED:
            for name in self.network.kinds[kind]:
                if not np.isfinite(self.network.get(kind, name)).all():
                    raise Diverged(f"{name} is no longer finite after step {self.state.step}. Stopped; "
                                   f"{self.folder.last} is from before. "
                                   f"Try a smaller --lr than {self.settings.lr:g}")


class Stopping:
    """In its `with` block, Ctrl-C and SIGTERM only set `signal`, which the loop looks at between steps.

    A second one ends the program at once.
    """
    signal = None

    def __enter__(self):
        self.before = {}
        for number in signal.SIGINT, signal.SIGTERM:
            self.before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number, frame):
        self.signal = signal.Signals(number)
        signal.signal(number, self.before[number])
        print("\nstopping after this step; once more to stop at once", file=sys.stderr)

    def __exit__(self, *error):
        for number, handler in self.before.items():
            signal.signal(number, handler)


def duration(seconds):
    """Seconds as text, in the two units that a person would use."""
    for unit, size, smaller, part in (("weeks", 604800, "days", 86400), ("days", 86400, "h", 3600),
                                      ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if seconds >= size:
            return f"{int(seconds // size)} {unit} {int(seconds % size // part)} {smaller}"
    return f"{seconds:.0f} s"

"""Short binary codes of vectors (section 6.1).
Search "could be made efficient by training an auto-encoder to compress these vectors to short binary codes".

    vector → linear, tanh → linear, sign: the code → linear, tanh → linear → the vector again

trained to give back what it was given, by the project's layers and update rule. The sign is taken in training
too, so that what comes after it learns from the very bits that will be stored; backward takes tanh's slope
for it. The vectors are centred and brought to a variance of 1 on average.

A codes file is HDF5: attributes format, version, source (the vectors' file), kind ("features" or "pixels"),
bits; for each split SPLIT/codes uint8 (N, ⌈bits / 8⌉), the bits packed as numpy.packbits does,
and SPLIT/labels int32 (N).
"""
import io
import json
import os

import numpy as np
from tqdm import tqdm

from cpnet.checkpoint import Checkpoint, save
from cpnet.errors import CpnetError
from cpnet.files import check_output, owned, write_atomically
from cpnet.gpu.memory import to_host
from cpnet.kinds import above_zero, whole
from cpnet.layers import Layer, Linear, Pass, Tanh
from cpnet.nets import Table
from cpnet.network import Network
from cpnet.ops import pointwise
from cpnet.studies.features import ahead
from cpnet.studies.ops.squared_error import squared_error_backward, squared_error_forward
from data.loading.order import WINDOW, epoch_order
from data.store import hdf5

FORMAT, VERSION = "cpnet-codes", 1
MOMENTUM = 0.9
DIVERGED = 1e4  # times the variance: a reconstruction error of more than this does not come down again


def auto_encoder(width, hidden, bits):
    """The Table of the auto-encoder for vectors (width, N)."""
    def std(inputs):
        return inputs**-0.5

    layers = [Linear("encode", hidden, std=std(width)), Tanh("encode tanh"),
              Linear("code", bits, std=std(hidden)), Sign("code sign"),
              Linear("decode", hidden, std=std(bits)), Tanh("decode tanh"),
              Linear("vector", width, std=std(hidden), undivided=True)]
    return Table({}, (width,), 1, layers, 0.0, 0.0)


class Sign(Layer):
    """A binary code: 1 where x > 0, else −1, written over x. Backward is tanh's: the layers below learn to
    put x on the right side of 0, while the layers above never see anything but bits."""

    def forward(self, x, run):
        self.tanh = pointwise.tanh_forward(x, out=self.buffer("tanh", x.shape, x.dtype))
        return pointwise.sign(x, out=x)

    def backward(self, d_y):
        return pointwise.tanh_backward(d_y, self.tanh, out=d_y)


class Coder:
    """An auto-encoder for the training vectors of `source` (Features or Pixels), placed on `device`,
    from its checkpoint `path` on, if that is of the same `settings`:
    hidden, bits, batch, rate, epochs, seed."""

    def __init__(self, source, path, settings, device, progress=False):
        self.source, self.path, self.settings = source, path, settings
        self.device, self.progress = device, progress
        self.rows, _ = source.split("train")
        self.width = self.rows.shape[1]
        self.network = Network(auto_encoder(self.width, settings["hidden"], settings["bits"]), [device],
                               seed=settings["seed"])
        self.task = {"source": source.identity, **settings}
        before = self._before()
        if before and before.settings == self.task:
            before.restore(self.network)
            self.mean, self.state = before.mean, before.state
            if self.mean.shape != (self.width,) or not whole.holds(self.state.get("epoch")) \
                    or not above_zero.holds(self.state.get("scale")):
                raise CpnetError(f"{path}: is damaged; delete it, and the same command begins anew")
        else:
            self._measure()

    def _before(self):
        """The Checkpoint of an earlier call, or None."""
        try:
            return Checkpoint(self.path) if os.path.exists(self.path) else None
        except CpnetError:
            return None  # damaged: training begins anew

    def _measure(self):
        """The training vectors' mean (D) and scale."""
        total = squares = 0
        for block in self._blocks(self.rows, "mean"):
            total = total + block.sum(axis=0, dtype=np.float64)
            squares += np.square(block, dtype=np.float64).sum()
        mean = total / len(self.rows)
        power = squares / (len(self.rows) * self.width)
        variance = power - np.square(mean).mean()
        if not variance > 1e-12 * power:
            raise CpnetError(f"{self.source.path}: all training vectors are equal, or not all of their "
                             "numbers finite")
        self.mean = mean.astype(np.float32)
        self.state = {"epoch": 0, "scale": float(variance**0.5)}
        self._save()

    def _save(self):
        save(self.path, self.network, settings=self.task, state=self.state, mean=self.mean, classes=[])

    def train(self, say):
        """The epochs that are left, each saved as it ends. say(line) is told how each went."""
        for epoch in range(self.state["epoch"], self.settings["epochs"]):
            error = self._epoch(epoch)
            self.state["epoch"] = epoch + 1
            self._save()
            say(f"epoch {epoch + 1}/{self.settings['epochs']}: reconstruction error {error:.2%} of the "
                "variance")

    def _epoch(self, epoch):
        settings, loss = self.settings, 0.0
        # What a step changes grows with the number of inputs of the widest layer.
        rate = settings["rate"] / max(self.width, settings["hidden"]) * (1 - epoch / settings["epochs"])
        order = epoch_order(len(self.rows), settings["seed"], epoch, "blocks")
        windows = [order[start:start + WINDOW] for start in range(0, len(order), WINDOW)]
        with tqdm(total=len(order), unit=" vectors", desc=f"epoch {epoch + 1}", leave=False,
                  disable=not self.progress) as bar:
            # A window is read in the order of the file, then taken in its own.
            for window, block in zip(windows, ahead(lambda window: self.rows[np.sort(window)], windows),
                                     strict=True):
                places = np.searchsorted(np.sort(window), window)
                for start in range(0, len(window), settings["batch"]):
                    chosen = block[places[start:start + settings["batch"]]]
                    here = self._step(chosen, rate)
                    self.check(self._share(here, len(chosen)))
                    loss += here
                    bar.update(len(chosen))
        return self._share(loss, len(order))

    def check(self, error):
        """Raises CpnetError for a reconstruction error, a share of the variance, that has grown too large."""
        if not error <= DIVERGED:
            raise CpnetError(f"{self.path}: the reconstruction error is {error:.0%} of the variance: try a "
                             f"smaller --rate than {self.settings['rate']:g}")

    def _step(self, vectors, rate):
        """A step of training on vectors (N, D) → the sum of their losses."""
        x = self._put(vectors)
        y = self.network.forward(x, Pass(training=True))
        loss = float(to_host(squared_error_forward(y, x)).sum(dtype=np.float64))
        self.network.backward_from(squared_error_backward(y, x, out=y))
        self.network.update(rate, momentum=MOMENTUM)
        return loss

    def encode(self, rows, name):
        """(codes uint8 (N, ⌈bits / 8⌉), reconstruction error) of vectors (N, D),
        an array or Rows called `name`."""
        codes, loss = np.empty((len(rows), -(-self.settings["bits"] // 8)), np.uint8), 0.0
        kept, done = {}, 0

        def watch(layer, outputs):
            if layer.name == "code sign":
                kept["bits"] = to_host(outputs[0]) > 0

        for block in self._blocks(rows, name):
            x = self._put(block)
            y = self.network.forward(x, Pass(), watch)
            loss += float(to_host(squared_error_forward(y, x)).sum(dtype=np.float64))
            codes[done:done + len(block)] = np.packbits(kept["bits"].T, axis=1)
            done += len(block)
        return codes, self._share(loss, len(rows))

    def _put(self, vectors):
        """Vectors (N, D) as the net's input: (D, N) on its device, centred and scaled."""
        x = (vectors - self.mean).T / np.float32(self.state["scale"])
        return self.device.put(np.ascontiguousarray(x))

    def _blocks(self, rows, name):
        """The vectors of a split, some at a time, in order."""
        starts = range(0, len(rows), WINDOW // 8)
        read = ahead(lambda start: rows[start:start + WINDOW // 8], starts)
        return tqdm(read, total=len(starts), desc=name, leave=False, disable=not self.progress)

    def _share(self, loss, count):
        """A sum of losses as a share of the training vectors' variance."""
        return 2 * loss / (count * self.width)


def make(source, out, settings, device, *, say=print, progress=False):
    """Train an auto-encoder on the training vectors of `source` and write the codes of all splits to `out`.

    Interrupted, the same call goes on after the last whole epoch.
    Raises CpnetError where `out` cannot be written.
    """
    place = check_output(out)
    if os.path.exists(out) and os.path.samefile(out, source.path):
        raise CpnetError(f"{out}: is the file with the vectors; name another one for the codes")
    with owned(out):
        _make(source, out, f"{place}.checkpoint", settings, device, say, progress)


def _make(source, out, path, settings, device, say, progress):
    coder = Coder(source, path, settings, device, progress)
    if coder.state["epoch"]:
        say(f"going on after epoch {coder.state['epoch']}")
    else:
        say(f"before training: reconstruction error {coder.encode(coder.rows[:WINDOW], 'before')[1]:.2%} of "
            "the variance")
    coder.train(say)
    image = io.BytesIO()
    with hdf5.new(image) as file:
        file.attrs.update(format=hdf5.fixed(FORMAT), version=VERSION, source=hdf5.fixed(str(source.path)),
                          fingerprint=hdf5.fixed(json.dumps(source.fingerprint)),
                          kind=hdf5.fixed(source.kind), bits=settings["bits"])
        for split in source.splits:
            rows, labels = source.split(split)
            group = file.create_group(split)
            group["codes"], error = coder.encode(rows, split)
            coder.check(error)
            group["labels"] = labels
            say(f"{split}: {len(rows):,} codes, reconstruction error {error:.2%} of the variance")
    write_atomically(out, image.getbuffer())
    os.remove(path)


class Codes:
    """A codes file, read whole: `bits`, and `kind`, that of the vectors.
    Raises CpnetError if it is not one."""

    def __init__(self, path):
        self.path = path
        with hdf5.reading(path, "codes file", CpnetError) as file:
            if hdf5.kind(file) != FORMAT or file.attrs.get("version") != VERSION:
                raise CpnetError(f"{path}: is not a codes file of this program; make one with python run.py "
                                 "codes")
            self.bits, self.kind = int(file.attrs["bits"]), hdf5.text(file.attrs["kind"])
            self.fingerprint = hdf5.json_object(file.attrs.get("fingerprint", "{}"))
            self.splits = {name: tuple(np.asarray(file[f"{name}/{kind}"][()]) for kind in ("codes", "labels"))
                           for name in file}
        for name, (codes, labels) in self.splits.items():
            if codes.dtype != np.uint8 or codes.shape != (labels.size, -(-self.bits // 8)) \
                    or labels.ndim != 1 or labels.dtype.kind not in "iu":
                raise CpnetError(f"{path}: {name!r} does not hold codes of {self.bits} bits with their "
                                 "labels; make it again")

    def split(self, name):
        """(codes (N, W) as uint64 words, labels (N)) of a split."""
        if name not in self.splits:
            raise CpnetError(f"{self.path}: has no split {name!r}, only {', '.join(self.splits)}")
        codes, labels = self.splits[name]
        words = np.zeros((len(codes), -(-codes.shape[1] // 8)), np.uint64)
        words.view(np.uint8)[:, :codes.shape[1]] = codes
        return words, labels

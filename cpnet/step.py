"""One training step of a network: forward, loss and errors, backward; then the update (section 5).

What is measured stays where the logits are, so that nobody waits for a GPU: `sums` is read when somebody
wants to know. A step whose loss is not finite changes nothing, nor does any after it:
the weights are those from before.
"""
import numpy as np

from cpnet.gpu import memory
from cpnet.layers import Pass
from cpnet.ops import softmax


class Step:
    """A step of `network`, again and again.
    `sums`, float64 (3): the sums of losses and of top-1 errors, and the steps made."""

    def __init__(self, network, *, seed=0, momentum=0.9, decay=None):
        self.network, self.seed, self.momentum, self.decay = network, seed, momentum, decay
        self.first = network.devices[0]
        self.sums = self.first.put(np.zeros(3))
        self.held = {}  # the arrays of a step, by name and number of images

    def restart(self, loss, wrong, steps):
        """Count on from here."""
        memory.assign(self.sums, np.array([loss, wrong, steps], np.float64))

    def read(self):
        """(sum of losses, errors, steps made with a finite sum of losses). Waits for the GPU."""
        loss, wrong, steps = memory.to_host(self.sums)
        return float(loss), int(wrong), int(steps)

    def __call__(self, images, labels, *, step, rate):
        """images (C, H, W, N) and labels (N), NumPy's or the first device's.
        `step` is that of the dropout's draws."""
        self.passes(images, labels, step)
        self.update(rate)

    def passes(self, images, labels, step):
        """Forward, loss and errors, backward."""
        labels = self.first.put(labels)
        logits = self.network.forward(images, Pass(training=True, seed=self.seed, step=step))
        losses = softmax.cross_entropy_forward(logits, labels, check=False,
                                               out=self.array("losses", labels.shape, logits.dtype))
        ranks = softmax.label_rank(logits, labels, out=self.array("ranks", labels.shape, np.int64))
        softmax.tally(losses, ranks, self.sums)
        self.network.backward(labels)

    def update(self, rate):
        """The update rule, with the gradients of the last pass."""
        self.network.update(rate, momentum=self.momentum, decay=self.decay, loss=self.sums)

    def array(self, name, shape, dtype):
        """The same memory each time."""
        if (name, shape) not in self.held:
            self.held[name, shape] = self.first.empty(shape, dtype)
        return self.held[name, shape]

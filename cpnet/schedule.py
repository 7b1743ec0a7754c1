"""When the learning rate is divided by 10 (section 5):
three times, when the validation error has stopped improving."""
import math
from dataclasses import dataclass

from cpnet.errors import CpnetError

DROPS = 3


@dataclass
class Plateau:
    """Divide when the validation top-1 error has had no new best for `patience` epochs,
    three times in all."""
    patience: int
    drops: int = 0
    best: float = math.inf
    waited: int = 0  # epochs since the last best or drop

    def after_epoch(self, epoch, error):
        """Take note of the validation error of `epoch` (counted from 1)."""
        self.waited += 1
        if error < self.best:
            self.best, self.waited = error, 0
        elif self.waited >= self.patience and self.drops < DROPS:
            self.drops, self.waited = self.drops + 1, 0

    def state(self):
        """What a checkpoint keeps."""
        return {"drops": self.drops, "best": self.best if math.isfinite(self.best) else None,
                "waited": self.waited}

    def restore(self, state):
        """Go on where `state()` was taken."""
        self.drops, self.waited = int(state["drops"]), int(state["waited"])
        self.best = math.inf if state["best"] is None else float(state["best"])


@dataclass
class Fixed:
    """Divide after each of the given epochs."""
    epochs: tuple
    drops: int = 0

    def after_epoch(self, epoch, error):
        """Take note that `epoch` (counted from 1) is over."""
        self.drops = sum(epoch >= last for last in self.epochs)

    def state(self):
        """What a checkpoint keeps."""
        return {"drops": self.drops}

    def restore(self, state):
        """Go on where `state()` was taken."""
        self.drops = int(state["drops"])


def schedule(text, epochs):
    """The schedule named `text`: "plateau", "constant", or epochs such as "25,51,79".
    Raises CpnetError for anything else."""
    if text == "plateau":
        return Plateau(patience=max(3, round(epochs / 18)))
    if text == "constant":
        return Fixed(())
    try:
        drops = tuple(int(part) for part in text.split(","))
    except ValueError:
        drops = ()
    if not drops or drops[0] < 1 or list(drops) != sorted(set(drops)):
        raise CpnetError(f"--schedule {text!r}: give plateau, constant, or rising epochs such as 25,51,79")
    return Fixed(drops)

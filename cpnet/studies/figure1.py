"""Figure 1: how many updates a net of ReLUs needs to come down to a given training error, and the same net of
tanh units, each with the learning rate that makes this fastest (section 3.1)."""
import math
from dataclasses import dataclass

from matplotlib.ticker import PercentFormatter

from cpnet.figures import save, subplots

UNITS = {"relu": ("ReLU", "-"), "tanh": ("tanh", "--")}  # as figure 1 draws them
LAST_PROBES = 3  # whose mean is a trial's error


@dataclass(frozen=True)
class Trial:
    """A rate tried: the updates it took to the level, or None; the error at its end; [[update, error], …].
    An infinite error: it diverged."""
    rate: float
    updates: int | None
    error: float
    probes: list

    def rank(self):
        """The smaller the better: the level reached sooner, else a smaller error; of nets that all know
        nothing yet the larger rate, of those that diverged the smaller."""
        return (math.inf if self.updates is None else self.updates, self.error,
                -self.rate if self.error < math.inf else self.rate)


def trial(rate, probes, level, updates):
    """What the first `updates` of a run show: its Trial. probes: [[update, error], …] of at least these."""
    seen = [[step, error] for step, error in probes if step <= updates]
    reached = next((step for step, error in seen if error <= level), None)
    last = [error for _, error in seen[-LAST_PROBES:]]
    return Trial(rate, reached, sum(last) / len(last), seen)


def search(attempt, start, stride):
    """Go along a grid of rates to where neither neighbour is better.
    Returns ({place on the grid: Trial}, the best's place).

    attempt(place, best): the Trial at this place, the best so far being `best` (a Trial or None).
    start: the places to begin with; stride: from a place to its neighbours.
    """
    trials, best = {}, None
    waiting = list(start)
    while waiting:
        for place in waiting:
            trials[place] = attempt(place, trials.get(best))
            best = min(trials, key=lambda each: trials[each].rank())
        waiting = [place for place in (best - stride, best + stride) if place not in trials]
    return trials, best


def ratio(best):
    """How many times as many updates tanh needs: {unit: Trial} → the quotient,
    or None where one did not reach the level."""
    relu, tanh = best["relu"].updates, best["tanh"].updates
    return tanh / relu if relu and tanh else None


def table(tried, best, level, short, epoch):
    """What was tried, as text. tried: {unit: (short trials, trials to the level)}; short:
    updates of a short trial; epoch: of an epoch."""
    lines = [f"{'unit':<6} {'rate':>9}  {f'error after {short:,} updates':>26}  "
             f"{f'updates to {level:.1%}':>18}  {'epochs':>7}"]
    for unit, (trials, long) in tried.items():
        for rate in sorted({each.rate for each in trials + long}):
            error = "".join(_percent(each) for each in trials if each.rate == rate)
            updates = "".join(f"{each.updates:,}" if each.updates
                              else f"{_percent(each)} in {each.probes[-1][0]:,}"
                              for each in long if each.rate == rate)
            epochs = "".join(f"{each.updates / epoch:.1f}" for each in long if each.rate == rate
                             and each.updates)
            mark = "  ← the best" if rate == best[unit].rate else ""
            line = f"{UNITS[unit][0]:<6} {rate:>9.3g}  {error:>26}  {updates:>18}  {epochs:>7}{mark}"
            lines.append(line.rstrip())
    return "\n".join(lines)


def _percent(trial):
    return f"{trial.error:.1%}" if trial.error < math.inf else "diverged"


def verdict(best, level):
    """The comparison in one line."""
    times = ratio(best)
    if times:
        return (f"to a training error of {level:.1%}: ReLU {best['relu'].updates:,} updates, tanh "
                f"{best['tanh'].updates:,}, {times:.1f} times as many (the paper, 25% on CIFAR-10: 6)")
    late = [UNITS[unit][0] for unit in UNITS if best[unit].updates is None]
    return (f"{' and '.join(late)} did not come to a training error of {level:.1%}: give more --epochs, "
            "or a higher --level")


def draw(best, level, epoch, title, path):
    """Both curves over the epochs (`epoch`: updates of one) as a PNG at `path`;
    tanh dashed, as in the paper."""
    figure, axes = subplots(figsize=(6, 4.5), layout="constrained")
    for unit, (name, style) in UNITS.items():
        steps, errors = zip(*best[unit].probes, strict=True)
        axes.plot([step / epoch for step in steps], errors, style, color="k", linewidth=1.5,
                  label=f"{name}, rate {best[unit].rate:.3g}"
                  + (f": {best[unit].updates:,} updates" if best[unit].updates else ": not reached"))
        if best[unit].updates:
            axes.plot(best[unit].updates / epoch, errors[-1], "o", color="C3", markersize=4)
    axes.axhline(level, color="C3", linewidth=0.8, linestyle=":", label=f"{level:.1%}")
    axes.set(xlabel="epochs", ylabel="training error", title=title)
    axes.set_ylim(0, 1)
    axes.set_xlim(left=0)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.grid(alpha=0.3)
    axes.legend()
    save(figure, path)

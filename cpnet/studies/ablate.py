"""What the paper's ideas are worth: the same net trained again and again, each time without one of them.

Every variant is an ordinary run, made by the train command's own options, so that it can be resumed,
looked at and repeated.
"""
import statistics
from dataclasses import dataclass

from cpnet.errors import CpnetError
from cpnet.nets import NETS
from cpnet.run_folder import RunFolder

CLOSE = 0.005  # a run has converged when its validation error is within half a point of its best


@dataclass(frozen=True)
class Variant:
    """The net without one idea: options of the train command;
    what the paper says it costs (top-1, top-5), and where."""
    name: str
    options: tuple
    section: str
    cost: tuple | None
    says: str


VARIANTS = [
    Variant("base", (), "", None, ""),
    Variant("tanh", ("--activation", "tanh"), "3.1", None,
            "tanh reaches a given training error several times later"),
    Variant("one-column", (), "3.2", (0.017, 0.012), "half of the kernels, on one GPU"),
    Variant("no-exchange", ("--no-exchange",), "3.2", None,
            "its columns are not independent, unlike Cireşan's"),
    Variant("no-lrn", ("--no-lrn",), "3.3", (0.014, 0.012), "normalization aids generalization"),
    Variant("pool-2x2", ("--pool", "2x2s2"), "3.4", (0.004, 0.003),
            "overlapping makes it slightly harder to overfit"),
    Variant("no-mirror", ("--no-mirror",), "4.1", None, "without mirrors and crops: substantial overfitting"),
    Variant("no-colour", ("--no-colour",), "4.1", (0.01, None), "over 1%"),
    Variant("no-dropout", ("--no-dropout",), "4.2", None,
            "substantial overfitting; half of the iterations to converge"),
    Variant("no-decay", ("--weight-decay", "0"), "5", None, "decay lowers the training error, too"),
    Variant("no-conv3", ("--drop-layer", "conv3"), "7", (0.02, None), "any of the middle layers: about 2%"),
    Variant("no-conv4", ("--drop-layer", "conv4"), "7", (0.02, None), "any of the middle layers: about 2%"),
]


def variants(only, net, colour):
    """The Variants to train, base first: those named in `only`,
    or all that change the net `net` on such images.

    Raises CpnetError for a name that does not exist.
    """
    names = {variant.name for variant in VARIANTS}
    for name in only:
        if name not in names:
            raise CpnetError(f"--only {name}: there is no such variant; there are {', '.join(sorted(names))}")
    idle = ["no-colour"] * (not colour) + ["one-column"] * (f"{net}-one-column" not in NETS)
    wanted = {"base", *(only or names - set(idle))}
    return [variant for variant in VARIANTS if variant.name in wanted]


def result(folder):
    """What a run came to: the last epoch's errors as fractions, and the epoch in which it had converged."""
    lines = RunFolder(folder).read()[2]
    best = min(line["val_top1"] for line in lines)
    return {"val_top1": lines[-1]["val_top1"], "val_top5": lines[-1]["val_top5"],
            "train_top1": lines[-1]["train_top1"],
            "converged": next(line["epoch"] for line in lines if line["val_top1"] <= best + CLOSE)}


def compare(results):
    """{variant name: [result of each seed]} → a row for each:
    means, spread (standard deviation), differences from base."""
    base = {key: statistics.mean(run[key] for run in results["base"]) for key in results["base"][0]}
    rows = []
    for variant in VARIANTS:
        runs = results.get(variant.name)
        if runs:
            mean = {key: statistics.mean(run[key] for run in runs) for key in base}
            spread = statistics.stdev(run["val_top1"] for run in runs) if len(runs) > 1 else None
            rows.append({"variant": variant.name, "seeds": len(runs), **mean, "spread": spread, "runs": runs,
                         "delta": {key: mean[key] - base[key] for key in base}, "section": variant.section,
                         "paper": variant.cost, "paper says": variant.says})
    return rows


def table(rows):
    """The rows as text. All differences are in percentage points: more than 0 is worse without the idea."""
    lines = [f"{'variant':<12} {'seeds':>5} {'top-1':>7} {'±':>5} {'differs':>8} {'paper':>6} {'top-5':>7} "
             f"{'differs':>8} {'paper':>6} {'training':>9} {'differs':>8} {'converged':>10}  the paper says"]
    for row in rows:
        paper = ["" if cost is None else f"{100 * cost:+.1f}" for cost in row["paper"] or (None, None)]
        differs = {key: "" if row["variant"] == "base" else f"{100 * row['delta'][key]:+.2f}"
                   for key in row["delta"]}
        spread = "" if row["spread"] is None else f"{100 * row['spread']:.2f}"
        says = f"{row['section']}: {row['paper says']}" if row["section"] else ""
        lines.append(f"{row['variant']:<12} {row['seeds']:>5} {row['val_top1']:>7.2%} {spread:>5} "
                     f"{differs['val_top1']:>8} {paper[0]:>6} {row['val_top5']:>7.2%} "
                     f"{differs['val_top5']:>8} {paper[1]:>6} {row['train_top1']:>9.2%} "
                     f"{differs['train_top1']:>8} {row['converged']:>10.1f}  {says}".rstrip())
    lines.append("differs: from base, in points, + is worse; ±: standard deviation over seeds; paper: on "
                 f"ImageNet; converged: the first epoch within {100 * CLOSE:g} points of the run's best")
    return "\n".join(lines)

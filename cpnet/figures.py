"""Pictures of a run."""
import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402  (the backend comes first: there may be no screen)
from matplotlib.ticker import MaxNLocator, PercentFormatter  # noqa: E402


def curves(history, path):
    """Training and validation error (top-1) over the epochs, with the drops of the learning rate, as a PNG at `path`."""
    epochs = [line["epoch"] for line in history]
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    axes.plot(epochs, [line["train_top1"] for line in history], color="0.55", label="training (cropped, with dropout)")
    axes.plot(epochs, [line["val_top1"] for line in history], color="C0", marker="o", markersize=3, label="validation")
    for before, after in zip(history, history[1:], strict=False):
        if after["lr"] < before["lr"]:
            axes.axvline(before["epoch"] + 0.5, color="C3", linewidth=0.8, linestyle="--")
            axes.annotate(f" rate {after['lr']:g}", (before["epoch"] + 0.5, 1), xycoords=("data", "axes fraction"),
                          va="top", fontsize=8, color="C3")
    best = min(history, key=lambda line: line["val_top1"])
    axes.set(xlabel="epoch", ylabel="top-1 error", title=f"best validation error {best['val_top1']:.2%}, epoch {best['epoch']}")
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(loc="upper right", bbox_to_anchor=(1, 0.92))
    figure.savefig(path, dpi=120)
    plt.close(figure)

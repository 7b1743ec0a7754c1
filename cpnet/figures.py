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


def draw_net(table, path):
    """Figure 2 of the paper from the net's own table, as a PNG: the columns as lanes, each layer with parameters a box with
    its maps and size, arrows from what it reads."""
    rows = [(layer, out) for layer, shape, out in table.shapes() if layer.parameters(shape, table.columns)]
    after = _pooled(table)
    figure, axes = plt.subplots(figsize=(1.45 * (len(rows) + 1), 1.0 + 1.35 * table.columns), layout="constrained")
    middle = (table.columns - 1) / 2
    lanes = {-1: [middle]}
    _box(axes, -1, middle, "image", _size(table.image), "0.92")
    for x, (layer, out) in enumerate(rows):
        lanes[x] = [middle] if layer.undivided else list(range(table.columns))
        for y in lanes[x]:
            share = (out[0] // len(lanes[x]), *out[1:])
            _box(axes, x, y, layer.name, _size(share) + after.get(layer.name, ""), "#cfe2f3" if len(out) > 1 else "#fde9c9")
            for source in lanes[x - 1]:
                own = source == y or len(lanes[x - 1]) == 1
                if own or layer.reads == "all":
                    axes.annotate("", (x - 0.4, y), (x - 0.6, source), arrowprops={
                        "arrowstyle": "->", "color": "0.3" if own else "C3", "linewidth": 1})
    axes.set(xlim=(-1.6, len(rows) - 0.4), ylim=(table.columns - 0.35, -0.65))
    axes.set_axis_off()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _pooled(table):
    """For each layer that pooling follows, a line saying so."""
    lines, last = {}, None
    for layer, shape, out in table.shapes():
        if layer.parameters(shape, table.columns):
            last = layer.name
        elif out != shape:
            lines[last] = f"\npooled {out[1]}×{out[2]}"
    return lines


def _box(axes, x, y, name, text, colour):
    axes.add_patch(plt.Rectangle((x - 0.4, y - 0.33), 0.8, 0.66, facecolor=colour, edgecolor="0.4"))
    axes.text(x, y - 0.13, name, ha="center", va="center", fontsize=9, weight="bold")
    axes.text(x, y + 0.12, text, ha="center", va="center", fontsize=7)


def _size(shape):
    return f"{shape[0]:,}" if len(shape) == 1 else f"{shape[0]} × {shape[1]}×{shape[2]}"

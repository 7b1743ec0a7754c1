"""Pictures of a run. Each function writes one to `path`, which may be an open file."""
import io
import os
import warnings
from contextlib import contextmanager

import numpy as np

from cpnet.files import write_atomically

# Pictures are files, never windows. An inherited MPLBACKEND, as notebooks set one, may name a backend that is
# not installed here, and would be looked for at the import.
os.environ["MPLBACKEND"] = "agg"
import matplotlib  # noqa: E402
from matplotlib.colors import PowerNorm  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.patches import Rectangle  # noqa: E402
from matplotlib.ticker import MaxNLocator, PercentFormatter  # noqa: E402

SQUARES = 1000  # rows of a confusion table's picture at most


def curves(history, path, *, size=(7, 4.2)):
    """Training and validation error (top-1) over the epochs, with the drops of the learning rate,
    as a PNG at `path`.

    history: the objects of log.jsonl, at least one. size: width, height in inches.
    """
    best = min(history, key=lambda line: line["val_top1"])
    with _over_epochs(history, path, size) as axes:
        _lines(axes, history, "top1")
        axes.set(ylabel="top-1 error", title=f"best validation error {best['val_top1']:.2%}, epoch "
                                             f"{best['epoch']}")
        axes.yaxis.set_major_formatter(PercentFormatter(1))


def losses(history, path, *, size=(7, 4.2)):
    """Training and validation loss over the epochs, as `curves`."""
    best = min(history, key=lambda line: line["val_loss"])
    with _over_epochs(history, path, size) as axes:
        _lines(axes, history, "loss")
        axes.set(ylabel="loss", title=f"smallest validation loss {best['val_loss']:.3f}, epoch "
                                      f"{best['epoch']}")


def speed(history, path, *, size=(7, 4.2)):
    """Training images per second over the epochs, as `curves`."""
    middle = np.median([line["images_per_s"] for line in history])
    with _over_epochs(history, path, size) as axes:
        axes.plot([line["epoch"] for line in history], [line["images_per_s"] for line in history],
                  color="C0", marker="o", markersize=3)
        axes.set(ylabel="training images a second", title=f"median {middle:,.0f} images/s")


def drops(history):
    """[(the last epoch before the learning rate fell, the rate from then on)]."""
    return [(before["epoch"], after["lr"]) for before, after in zip(history, history[1:], strict=False)
            if after["lr"] < before["lr"]]


def _lines(axes, history, what):
    lines = ("train", "training (cropped, with dropout)", "0.55"), ("val", "validation", "C0")
    for split, name, colour in lines:
        axes.plot([line["epoch"] for line in history], [line[f"{split}_{what}"] for line in history],
                  color=colour, marker="o", markersize=3, label=name)
    for epoch, rate in drops(history):
        axes.axvline(epoch + 0.5, color="C3", linewidth=0.8, linestyle="--")
        axes.annotate(f"rate {rate:g} ", (epoch + 0.5, 1), xycoords=("data", "axes fraction"),
                      rotation=90, ha="right", va="top", fontsize=8, color="C3")
    axes.legend(fontsize=9)


@contextmanager
def _over_epochs(history, path, size):
    """Axes to draw on, of epochs against something that is not negative; then the picture is written."""
    figure, axes = subplots(figsize=size, layout="constrained")
    yield axes
    axes.set(xlabel="epoch")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    save(figure, path)


def draw_net(table, path):
    """Figure 2 of the paper from the net's own table, as a PNG: the columns as lanes, each layer with
    parameters a box with its maps and size, arrows from what it reads."""
    rows = [(layer, out) for layer, shape, out in table.shapes() if layer.parameters(shape, table.columns)]
    after = _pooled(table)
    figure, axes = subplots(figsize=(1.45 * (len(rows) + 1), 0.4 + 1.35 * table.columns),
                                layout="constrained")
    middle = (table.columns - 1) / 2
    lanes = {-1: [middle]}
    _box(axes, -1, middle, "image", _size(table.image), "0.92")
    for x, (layer, out) in enumerate(rows):
        lanes[x] = [middle] if layer.undivided else list(range(table.columns))
        for y in lanes[x]:
            share = (out[0] // len(lanes[x]), *out[1:])
            _box(axes, x, y, layer.name, _size(share) + after.get(layer.name, ""),
                 "#cfe2f3" if len(out) > 1 else "#fde9c9")
            for source in lanes[x - 1]:
                own = source == y or len(lanes[x - 1]) == 1
                if own or layer.reads == "all":
                    axes.annotate("", (x - 0.4, y), (x - 0.6, source), arrowprops={
                        "arrowstyle": "->", "color": "0.3" if own else "C3", "linewidth": 1})
    axes.set(xlim=(-1.6, len(rows) - 0.4), ylim=(table.columns - 0.35, -0.65))
    axes.set_axis_off()
    save(figure, path)


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
    axes.add_patch(Rectangle((x - 0.4, y - 0.33), 0.8, 0.66, facecolor=colour, edgecolor="0.4"))
    axes.text(x, y - 0.13, name, ha="center", va="center", fontsize=11, weight="bold")
    axes.text(x, y + 0.12, text, ha="center", va="center", fontsize=9)


def _size(shape):
    return f"{shape[0]:,}" if len(shape) == 1 else f"{shape[0]} × {shape[1]}×{shape[2]}"


def draw_neighbours(dataset, split, queries, found, path):
    """Figure 4, right: a row for each of `queries` (Q), indices in `split`: the image, then the training
    images `found` (Q, k), nearest first, as a PNG at `path`. A label in red is not the query's."""
    rows, across = len(queries), found.shape[1] + 1
    figure, axes = subplots(rows, across, figsize=(1.3 * across, 1.5 * rows), layout="constrained",
                                squeeze=False)
    labels = dataset.split("train").labels
    for row, query, near in zip(axes, queries, found, strict=True):
        own = dataset.split(split).labels[query]
        images = [(dataset.read(split, [query])[0], own),
                  *((dataset.read("train", [i])[0], labels[i]) for i in near)]
        for place, (image, label) in zip(row, images, strict=True):
            _show(place, image)
            place.set_title(_short(dataset.classes[label]), fontsize=7, color="C3" if label != own else "0.2")
        for side in row[0].spines.values():
            side.set(visible=True, linewidth=2, color="C0")
    save(figure, path)


def draw_predictions(images, labels, probabilities, classes, path, *, top=5):
    """Figure 4, left: images uint8 (N, C, H, W), labels (N), probabilities (classes, N) → a PNG at `path`:
    under each image its label and the `top` most probable classes, the bar of the right one in red."""
    across, top = min(4, len(images)), min(top, len(classes))
    rows = -(-len(images) // across)
    figure, axes = subplots(2 * rows, across, figsize=(2.3 * across, 3.4 * rows), layout="constrained",
                                squeeze=False, height_ratios=[3, 2] * rows)
    for place in axes.flat:
        place.set_axis_off()
    for n, (image, label) in enumerate(zip(images, labels, strict=True)):
        shown, bars = axes[n // across * 2, n % across], axes[n // across * 2 + 1, n % across]
        _show(shown, image)
        shown.set_title(_short(classes[label]), y=-0.16, fontsize=9, weight="bold")
        best = probabilities[:, n].argsort(kind="stable")[::-1][:top]
        bars.barh(range(len(best)), probabilities[best, n],
                  color=["C3" if k == label else "#9fc5e8" for k in best])
        for place, k in enumerate(best):
            bars.text(0.02, place, _short(classes[k]), va="center", fontsize=7.5)
        bars.set(xlim=(0, 1), ylim=(top - 0.4, -0.6))
    save(figure, path)


def _show(axes, image):
    """An image uint8 (C, H, W)."""
    axes.imshow(image.transpose(1, 2, 0).squeeze(), cmap="gray", vmin=0, vmax=255)
    axes.set(xticks=[], yticks=[])


def _short(name):
    """The first of a class's names, cut to fit under an image.
    (Between two dollar signs Matplotlib would see a formula.)"""
    name = name.split(",")[0]
    return (name if len(name) <= 18 else name[:17] + "…").replace("$", r"\$")


def draw_confusion(confusion, classes, path):
    """How many images of class i (rows) were taken for class j, as a PNG at `path`: a scores.Confusion.
    Of many classes without names and numbers, and rare mistakes in stronger shades;
    of more than SQUARES several neighbouring ones share a square."""
    count = len(classes)
    few = count <= 30
    table = confusion.table(SQUARES)
    side = min(12, 3 + 0.45 * count) if few else 7
    figure, axes = subplots(figsize=(side, side), layout="constrained")
    share = table / table.sum(axis=1, keepdims=True).clip(1)
    axes.imshow(share, cmap="Blues", norm=PowerNorm(1 if few else 0.4, 0, 1))
    axes.set(xlabel="taken for", ylabel="is", title=f"error {confusion.error:.2%}")
    if few:
        names = [_short(name) for name in classes]
        axes.set_xticks(range(count), names, rotation=60, ha="right")
        axes.set_yticks(range(count), names)
        for (i, j), number in np.ndenumerate(table):
            if number:
                axes.text(j, i, f"{number}", ha="center", va="center", fontsize=9 if count <= 12 else 7,
                          color="w" if share[i, j] > 0.5 else "0.2")
    save(figure, path)


def as_svg(draw, *arguments, **options):
    """The picture that `draw(*arguments, path, **options)`, a function from here, makes,
    as an SVG file's bytes."""
    content = io.BytesIO()
    with matplotlib.rc_context({"savefig.format": "svg"}):
        draw(*arguments, content, **options)
    return content.getvalue()


def subplots(rows=1, across=1, *, figsize, layout, **options):
    """(figure, axes), as pyplot's, without pyplot, which keeps figures and looks for a screen."""
    figure = Figure(figsize=figsize, layout=layout)
    return figure, figure.subplots(rows, across, **options)


def save(figure, path):
    """Write the picture to a file of this name, or to an open one.
    Raises CpnetError where the file cannot be written."""
    content = path if hasattr(path, "write") else io.BytesIO()
    with warnings.catch_warnings():
        # a class name of a script that the font lacks
        warnings.filterwarnings("ignore", "Glyph .* missing")
        kind = os.path.splitext(str(path))[1][1:].lower() if content is not path else None
        known = figure.canvas.get_supported_filetypes()
        figure.savefig(content, dpi=120, format=kind if kind in known else None)
    if content is not path:
        write_atomically(path, content.getbuffer())

"""A contact sheet: a few images of each of some classes, beside the classes' names.
Wrong labels show at a glance."""

import os
import warnings

import numpy as np
from PIL import Image

os.environ["MPLBACKEND"] = "agg"  # an inherited one may not be installed here
from matplotlib.figure import Figure  # noqa: E402

TILE, GAP = 72, 4  # pixels
SHOWN = {"train": 8, "val": 4, "test": 4}  # images a row


def contact_sheet(dataset, file, rows=24):
    """Write a PNG to an open file: up to `rows` classes of an open Dataset, evenly spaced, a row each;
    images evenly spaced in each class."""
    classes = np.unique(np.linspace(0, len(dataset.classes) - 1, rows).astype(int))
    parts = [np.stack([_row(dataset, name, label) for label in classes]) for name in dataset.splits]
    gap = np.full((*parts[0].shape[:2], 4 * GAP, 3), 255, np.uint8)
    sheet = np.concatenate([piece for part in parts for piece in (part, gap)][:-1], axis=2)
    sheet = sheet.reshape(len(classes) * (TILE + GAP), -1, 3)
    height, width = sheet.shape[:2]
    figure = Figure(figsize=(width / 100 + 3.5, height / 100 + 1), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(sheet)
    axes.set_yticks(np.arange(len(classes)) * (TILE + GAP) + TILE / 2,
                    [f"{_short(dataset.classes[k])}  {k}" for k in classes])
    starts = np.cumsum([0] + [part.shape[2] + gap.shape[2] for part in parts])[:-1]
    axes.set_xticks(starts + [part.shape[2] / 2 for part in parts], list(dataset.splits))
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    for label in axes.get_yticklabels():
        label.set_parse_math(False)  # a name may hold dollar signs
    with warnings.catch_warnings():
        # of a script that the font lacks; the number is there
        warnings.filterwarnings("ignore", "Glyph .* missing")
        figure.savefig(file, bbox_inches="tight", format="png")


def _short(name, longest=32):
    return name if len(name) <= longest else name[:longest - 1] + "…"


def _row(dataset, split, label):
    """The images of a class in a split, side by side, uint8 (rows, columns, 3);
    white where there are none."""
    row = np.full((TILE + GAP, SHOWN[split] * (TILE + GAP), 3), 255, np.uint8)
    found = np.flatnonzero(dataset.splits[split].labels == label)
    if len(found):
        found = found[np.unique(np.linspace(0, len(found) - 1, SHOWN[split]).astype(int))]
    for k, image in enumerate(dataset.read(split, found)):
        pixels = image.transpose(1, 2, 0).repeat(3 // len(image), axis=2)
        filter_ = Image.Resampling.NEAREST if image.shape[1] < TILE else Image.Resampling.BICUBIC
        tile = Image.fromarray(pixels).resize((TILE, TILE), filter_)
        row[:TILE, k * (TILE + GAP):][:, :TILE] = np.asarray(tile)
    return row

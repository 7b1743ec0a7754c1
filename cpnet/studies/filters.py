"""Figure 3: what the first layer learned, as a picture, and how the columns share the work (section 6.1)."""
import io
from pathlib import Path

import numpy as np
from PIL import Image

from cpnet.errors import CpnetError
from cpnet.files import write_atomically
from cpnet.run_folder import read_filters

ACROSS = 16  # filters in a row, as in the paper
SIDE = 44  # pixels a filter is drawn with, about
GAP = 2


def draw(weights, columns):
    """conv1's weights (F, C, R, S) → an RGB image uint8 (height, width, 3): column 1 above column 2,
    each filter scaled by its own largest weight, so that grey is zero.
    C is 1 or 3; raises CpnetError otherwise."""
    filters, channels, rows, cols = weights.shape
    if channels not in (1, 3):
        raise CpnetError(f"filters of {channels} channels cannot be drawn, only grey and RGB ones")
    largest = np.abs(weights).max(axis=(1, 2, 3), keepdims=True)
    scaled = 0.5 + 0.5 * weights / np.where(largest > 0, largest, 1)
    tiles = np.repeat((255 * scaled).round().astype(np.uint8).transpose(0, 2, 3, 1), 3 // channels, axis=3)
    zoom = max(1, SIDE // rows)
    tiles = tiles.repeat(zoom, axis=1).repeat(zoom, axis=2)
    across, down = min(ACROSS, filters // columns), -(-filters // columns // ACROSS)
    high, wide = rows * zoom + GAP, cols * zoom + GAP
    picture = np.full((columns * (down * high + 3 * GAP) - 2 * GAP, across * wide + GAP, 3), 255, np.uint8)
    for f, tile in enumerate(tiles):
        column, place = divmod(f, filters // columns)
        top = column * (down * high + 3 * GAP) + place // across * high + GAP
        left = place % across * wide + GAP
        picture[top:top + rows * zoom, left:left + cols * zoom] = tile
    return picture


def saturation(weights, columns):
    """For each column, how much of its filters is colour: the mean over its filters of |w − grey part|² /
    |w|², the grey part being the mean of the three channels. 0 for colour-blind filters, 1 for pure colour.
    Raises CpnetError for grey images."""
    if weights.shape[1] != 3:
        raise CpnetError("grey images: their filters have no colour")
    w = weights.astype(np.float64)
    colour = np.square(w - w.mean(axis=1, keepdims=True)).sum(axis=(1, 2, 3))
    share = colour / np.maximum(np.square(w).sum(axis=(1, 2, 3)), np.finfo(float).tiny)
    return share.reshape(columns, -1).mean(axis=1)


def save_picture(weights, columns, path):
    """Write `draw` as a PNG."""
    content = io.BytesIO()
    Image.fromarray(draw(weights, columns)).save(content, "png")
    write_atomically(path, content.getbuffer())


def snapshots(run):
    """conv1's weights after each epoch of the run in folder `run`, in order.
    Raises CpnetError where none were kept."""
    paths = sorted(Path(run, "filters").glob("*.npy"))
    if not paths:
        raise CpnetError(f"{run}: keeps no filters by epoch; is it the folder of a run?")
    found = [read_filters(path) for path in paths]
    for path, weights in zip(paths, found, strict=True):
        if weights.shape != found[0].shape:
            raise CpnetError(f"{path}: holds filters {weights.shape}, {paths[0]} {found[0].shape}")
    return found


def save_film(run, columns, path, *, seconds=8):
    """Write the filters over the epochs as a GIF that lasts about so long, and stays a while on the last."""
    frames = [Image.fromarray(draw(weights, columns)).quantize(128) for weights in snapshots(run)]
    each = max(40, 1000 * seconds // len(frames))
    content = io.BytesIO()
    durations = [each] * (len(frames) - 1) + [3000]
    frames[0].save(content, "gif", save_all=True, append_images=frames[1:], loop=0, duration=durations)
    write_atomically(path, content.getbuffer())

"""What a report tells: what a run's folder holds, and what its net says of a split's images."""
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from cpnet import nets
from cpnet.checkpoint import Checkpoint
from cpnet.evaluate import check_data, predict_split
from cpnet.run_folder import read_filters
from cpnet.settings import Settings
from cpnet.state import read as read_state
from cpnet.studies.features import hidden
from cpnet.studies.neighbours import nearest
from data.loading.augment import central_crops
from data.store.dataset import Dataset

QUERIES, NEAR = 200, 6  # images that are looked up; training images shown with each
SNAPSHOTS = 4  # epochs whose filters are shown


@dataclass
class Run:
    """What is known of a run without its images."""
    name: str
    settings: Settings
    history: list  # log.jsonl
    checkpoint: Checkpoint | None  # whose weights are looked at; None where the run has none yet
    filters: dict  # {when, as text: conv1's weights (F, C, R, S)}
    started: list = field(default_factory=list)  # on which machine and day it began, and went on each time
    table: nets.Table = field(init=False)
    best: dict | None = field(init=False)  # the log's object of the epoch with the smallest validation error

    def __post_init__(self):
        self.table = nets.build(**self.settings.table)
        self.best = min(self.history, key=lambda line: line["val_top1"], default=None)

    @property
    def weights(self):
        """Which weights are looked at."""
        state = read_state(self.checkpoint.path, self.checkpoint.state)
        epoch, batch = state.epoch, state.batch
        when = f"after epoch {epoch}" if epoch else "untrained"
        if batch:
            when = f"in epoch {epoch + 1}, after {batch} of its batches"
        return f"{Path(self.checkpoint.path).name}: {when}"


@dataclass
class Looked:
    """What a net says of a split's images."""
    dataset: Dataset
    split: str
    probabilities: np.ndarray  # (N, classes)
    queries: np.ndarray  # (Q,) images of the split that were looked up
    near: np.ndarray  # (Q, k) the training images nearest to each, of `sample` ones drawn at random
    sample: int

    @property
    def labels(self):
        """(N,)"""
        return self.dataset.split(self.split).labels


def look(network, dataset, split, *, sample=2000, batch=128, threads=1, progress=False):
    """Have the net classify a split, and look up some of its images among `sample`
    training images drawn at random.

    Returns Looked. Raises CpnetError for a data set that is not the net's,
    DataError for a split that it has not.
    """
    check_data(network.table, dataset)
    chances = predict_split(network, dataset, split, batch=batch, threads=threads, progress=progress)
    rng = np.random.default_rng(0)
    queries = rng.permutation(len(chances))[:QUERIES]
    among = np.sort(rng.permutation(len(dataset.split("train")))[:sample])
    asked, base = (last_hidden_of(network, dataset, *part, batch=batch, progress=progress)
                   for part in ((split, queries), ("train", among)))
    return Looked(dataset, split, chances, queries, among[nearest(asked, base, min(NEAR, len(among)))[0]],
                  len(among))


def last_hidden_of(network, dataset, split, indices, *, batch=128, progress=False):
    """The last hidden layer's activations (n, D) for images `indices` (n,) of a split,
    from their central crops."""
    found = []
    for start in tqdm(range(0, len(indices), batch), desc=f"{split}, sample", unit="batch", leave=False,
                      disable=not progress):
        raw = dataset.read(split, indices[start:start + batch])
        found.append(hidden(network, central_crops(raw, dataset.mean, network.table.image[1], network.dtype)))
    return np.concatenate(found)


def snapshots(folder, checkpoint=None):
    """{when: conv1's weights} of the run in `folder`: at a few epochs, evenly spaced, the first and the last
    among them; else the checkpoint's, if any. Raises CpnetError for a file that cannot be read."""
    paths = sorted(Path(folder, "filters").glob(f"{'[0-9]' * 3}*.npy"))
    some = np.unique(np.linspace(0, len(paths) - 1, min(SNAPSHOTS, len(paths))).round().astype(int))
    kept = {}
    for path in (paths[k] for k in some):
        kept[f"after epoch {int(path.stem)}"] = read_filters(path)
    return kept or ({f"in {Path(checkpoint.path).name}": checkpoint.filters()} if checkpoint else {})

"""Measure the errors of a checkpoint, or of several and their average, on one split of a data set."""
import json
from pathlib import Path

import numpy as np

from cpnet import scores
from cpnet.checkpoint import Checkpoint
from cpnet.commands.common import add_by_name, load, open_data
from cpnet.errors import CpnetError
from cpnet.evaluate import predict_split, see_as_trained
from cpnet.figures import draw_confusion, draw_predictions
from cpnet.files import check_output
from cpnet.kinds import filename, positive
from cpnet.options import Parser, add_devices
from data.store.identity import class_difference

SHOWN = 8  # images of figure 4, left


def main(words):
    parser = Parser("evaluate", "CHECKPOINT [CHECKPOINT …]",
                    "Measures the top-1 and top-5 error of a trained net. Of several nets, it also measures "
                    "the error of their average prediction.",
                    "Example: python run.py evaluate runs/mini-1/checkpoint-best.h5 --split val --crops 10")
    parser.add_argument("checkpoints", nargs="+", type=filename, metavar="CHECKPOINT",
                        help="A trained net, or a file that --save-probabilities made.")
    parser.add_argument("--data", type=filename, metavar="DATA.h5",
                        help="Looks at the images of this data set. Default: the one that the first net was "
                             "trained on.")
    parser.add_argument("--split", default="val", metavar="SPLIT",
                        help="Looks at this split of it: val, test or train.")
    add_by_name(parser)
    parser.add_argument("--crops", type=int, choices=(1, 10), default=1,
                        help="Averages over so many views of an image. 1: the centre; 10: the four corners, "
                             "the centre and their mirror images, as in section 4.1.")
    parser.add_argument("--batch", type=positive, default=128, metavar="N",
                        help="Computes N views at a time.")
    parser.add_argument("--by-class", action="store_true",
                        help="Prints the error of each class, the largest first.")
    parser.add_argument("--confusion", type=filename, metavar="PNG",
                        help="Draws which classes the net takes for which others.")
    parser.add_argument("--picture", type=filename, metavar="PNG",
                        help="Draws eight images with their most probable classes, as figure 4 (left).")
    parser.add_argument("--table", action="store_true",
                        help="Prints the errors beside the paper's, in the form of its tables 1 and 2.")
    parser.add_argument("--json", action="store_true", help="Prints the errors as JSON.")
    parser.add_argument("--save-probabilities", type=filename, metavar="OUT.h5",
                        help="Writes the probabilities to this file, which evaluate can read later in place "
                             "of a checkpoint. Of several nets, it writes their average.")
    add_devices(parser)
    options = parser.parse(words)
    for out in options.confusion, options.picture, options.save_probabilities:
        if out:
            check_output(out)  # before the work, not after it
    views = "centre crop" if options.crops == 1 else "ten crops"
    saved = {path: scores.load(path) for path in options.checkpoints}
    trained_on = next((Checkpoint(path).net().data for path in saved if saved[path] is None), None)
    if not (options.data or trained_on):
        raise CpnetError("give --data: files of probabilities and imported nets do not say which images to "
                         "look at")
    with open_data(options.data or trained_on) as dataset:
        results = {}
        for path in options.checkpoints:  # mistakes first
            if saved[path] is None:
                see_as_trained(Checkpoint(path), dataset, by_name=options.by_name)
            else:
                results[path] = check_saved(path, saved[path], options.split, dataset)
        for path in options.checkpoints:  # one net at a time is in memory
            if saved[path] is None:
                checkpoint, network = load(path, options)
                see_as_trained(checkpoint, dataset)
                results[path] = predict_split(network, dataset, options.split, crops=options.crops,
                                              batch=options.batch, threads=options.loader_threads,
                                              progress=True)
        labels = dataset.split(options.split).labels
        results = {path: results[path] for path in options.checkpoints}
        rows = {path: scores.scores(each, labels) for path, each in results.items()}
        average = scores.mean(list(results.values()))
        if len(results) > 1:
            rows[f"average of {len(results)}"] = scores.scores(average, labels)
        if options.json:
            print(json.dumps([{"model": name, "split": options.split, "crops": options.crops, **row}
                              for name, row in rows.items()], indent=2))
        else:
            top = min(scores.TOP, len(dataset.classes))
            for name, row in rows.items():
                which = f"{name}: " if len(rows) > 1 else ""
                print(f"{which}{options.split}, {row['images']:,} images, {views}: top-1 error "
                      f"{row['top1']:.2%}, top-{top} error {row['top5']:.2%}, loss {row['loss']:.4f}")
        if options.table:
            lines = []
            for name, row in rows.items():
                label = Path(name).parent.name if name in results else ""
                lines.append((label or name, row["top1"], row["top5"]))
            print(scores.tables(lines))
        if options.by_class:
            print(scores.by_class(average, labels, dataset.classes))
        if options.confusion:
            draw_confusion(scores.confusion(average, labels), dataset.classes, options.confusion)
        if options.picture:
            some = np.sort(np.random.default_rng(0).permutation(len(labels))[:SHOWN])
            draw_predictions(dataset.read(options.split, some), labels[some], average[some].T,
                             dataset.classes, options.picture)
        if options.save_probabilities:
            scores.save(options.save_probabilities, average, labels, split=options.split,
                        classes=dataset.classes, data=dataset.path,
                        made_from=f"{', '.join(options.checkpoints)}; {views}")


def check_saved(path, saved, split, dataset):
    """The probabilities of a scores.Saved. Raises CpnetError unless they are of these images and classes."""
    labels = dataset.split(split).labels
    if saved.split != split or not np.array_equal(saved.labels, labels):
        raise CpnetError(f"{path}: holds the probabilities of {len(saved.labels):,} images of "
                         f"'{saved.split}', not of these {len(labels):,} of '{split}'")
    if saved.probabilities.shape[1] != len(dataset.classes):
        raise CpnetError(f"{path}: holds the probabilities of {saved.probabilities.shape[1]} classes, "
                         f"{dataset.path} has {len(dataset.classes)}")
    differs = class_difference(dataset.classes, saved.classes or dataset.classes)
    if differs:
        raise CpnetError(f"{dataset.path}: does not have the classes of {path}: {differs}")
    return saved.probabilities

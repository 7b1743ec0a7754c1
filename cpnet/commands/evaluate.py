"""Errors of a checkpoint, or of several and their average, on a split."""
import json
from pathlib import Path

import numpy as np

from cpnet import scores
from cpnet.checkpoint import Checkpoint
from cpnet.commands.common import load, open_data
from cpnet.errors import CpnetError
from cpnet.evaluate import predict_split, see_as_trained
from cpnet.figures import draw_confusion, draw_predictions
from cpnet.kinds import positive
from cpnet.options import Parser, device_options

SHOWN = 8  # images of figure 4, left


def main(words):
    parser = Parser(prog="run.py evaluate",
                    description="top-1 and top-5 error of a checkpoint; of several, and of their average")
    parser.add_argument("checkpoints", nargs="+", metavar="CHECKPOINT", help="or a file made by --save-probabilities")
    parser.add_argument("--data", help="an .h5 data set (default: the one that the first was trained on)")
    parser.add_argument("--split", default="val", help="val, test or train")
    parser.add_argument("--crops", type=int, choices=(1, 10), default=1, help="1: the centre; 10: corners, centre, mirrors")
    parser.add_argument("--batch", type=positive, default=128, help="images at a time")
    parser.add_argument("--by-class", action="store_true", help="every class's error, the worst first")
    parser.add_argument("--confusion", metavar="PNG", help="which classes are taken for which, as a picture")
    parser.add_argument("--picture", metavar="PNG", help="figure 4, left: eight images and the most probable classes")
    parser.add_argument("--table", action="store_true", help="as tables 1 and 2, beside the published rows")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--save-probabilities", metavar="H5", help="to be scored or averaged later (the average, of several)")
    device_options(parser)
    options = parser.parse(words)
    views = "centre crop" if options.crops == 1 else "ten crops"
    saved = {path: scores.load(path) for path in options.checkpoints}
    trained_on = next((Checkpoint(path).settings["data"] for path in saved if saved[path] is None), None)
    if not (options.data or trained_on):
        raise CpnetError("give --data: neither files of probabilities nor imported nets name the images to look at")
    with open_data(options.data or trained_on) as dataset:
        labels, results = dataset.split(options.split).labels, {}
        for path in options.checkpoints:  # mistakes first
            if saved[path] is None:
                see_as_trained(Checkpoint(path), dataset)
            else:
                results[path] = check_saved(path, saved[path], options.split, labels)
        for path in options.checkpoints:  # one net at a time is in memory
            if saved[path] is None:
                checkpoint, network = load(path, options)
                see_as_trained(checkpoint, dataset)
                results[path] = predict_split(network, dataset, options.split, crops=options.crops, batch=options.batch,
                                              threads=options.loader_threads, progress=True)
        results = {path: results[path] for path in options.checkpoints}
        rows = {path: scores.scores(each, labels) for path, each in results.items()}
        average = scores.mean(list(results.values()))
        if len(results) > 1:
            rows[f"average of {len(results)}"] = scores.scores(average, labels)
        if options.json:
            print(json.dumps([{"model": name, "split": options.split, "crops": options.crops, **row}
                              for name, row in rows.items()], indent=2))
        for name, row in rows.items() if not options.json else ():
            print(f"{name + ': ' if len(rows) > 1 else ''}{options.split}, {row['images']:,} images, {views}: "
                  f"top-1 error {row['top1']:.2%}, top-{min(scores.TOP, len(dataset.classes))} error {row['top5']:.2%}, "
                  f"loss {row['loss']:.4f}")
        if options.table:
            print(scores.tables([(Path(name).parent.name or name if name in results else name, row["top1"], row["top5"])
                                 for name, row in rows.items()]))
        if options.by_class:
            print(scores.by_class(average, labels, dataset.classes))
        if options.confusion:
            draw_confusion(scores.confusion(average, labels), dataset.classes, options.confusion)
        if options.picture:
            some = np.sort(np.random.default_rng(0).permutation(len(labels))[:SHOWN])
            draw_predictions(dataset.read(options.split, some), labels[some], average[some].T, dataset.classes, options.picture)
        if options.save_probabilities:
            scores.save(options.save_probabilities, average, labels, split=options.split, data=dataset.path,
                        made_from=f"{', '.join(options.checkpoints)}; {views}")


def check_saved(path, saved, split, labels):
    """The probabilities of a saved file. Raises CpnetError unless they are of these images."""
    probabilities, own, of = saved
    if of != split or not np.array_equal(own, labels):
        raise CpnetError(f"{path}: holds the probabilities of {len(own):,} images of '{of}', not of these {len(labels):,} of "
                         f"'{split}'")
    return probabilities

"""A run as one HTML page that needs nothing else:
what was trained on what, how it went, what the net sees, and its errors."""
from pathlib import Path

import numpy as np

from cpnet import figures, scores
from cpnet.report.page import (
    abreast,
    alike,
    first_name,
    html,
    page,
    pairs,
    picture,
    png,
    prediction,
    table,
    tag,
)
from cpnet.studies import filters
from cpnet.studies.neighbours import precision
from cpnet.summary import rows as layer_rows
from cpnet.summary import totals
from cpnet.train import duration

VERSIONS = {"cpnet": "version", "Python": "python", "NumPy": "numpy", "CuPy": "cupy", "CUDA": "cuda",
            "driver": "driver"}
NAMES = {"train": "training", "val": "validation", "test": "test"}  # of the splits
EXAMPLES = 8  # images of figure 4, left: so many right and so many wrong ones
QUERIES_SHOWN = 5  # figure 4, right
ALL_CLASSES, WORST = 30, 20  # up to so many classes each has a line; else the worst ones
CHART = {"size": (4.6, 3.1)}  # inches: readable on a phone


def report(run, command, looked, missing):
    """The page, as text. command: what makes the run again; looked: what its net says of a split, or None,
    and then `missing` says why that is not there."""
    parts = [("run", "The run", _run(run, command, looked)), ("curves", "How it learned", _curves(run)),
             ("net", "The net", _net(run)), ("filters", "What the first layer learned", _filters(run))]
    sights = (("predictions", "Right and wrong", _predictions),
              ("alike", "Images that the net finds alike", _alike),
              ("confusion", "What is taken for what", _confusion))
    parts += [(name, heading, make(looked) if looked else [tag("p", missing)])
              for name, heading, make in sights]
    parts += [("errors", "Beside the published errors", _errors(run, looked)),
              ("speed", "Speed", _speed(run))]
    return page(run.name, _lead(run), parts)


def _lead(run):
    """The first lines: what it came to."""
    planned, over = run.settings.epochs, len(run.history)
    what = tag("p", f"{run.table.settings['name']}, trained on {Path(run.settings.data).name}", class_="lead")
    if not run.best:
        return html([what, tag("p", f"No epoch of {planned} is over yet: there are no errors to show.")])
    last, seconds = run.history[-1], sum(line["seconds"] for line in run.history)
    done = _epochs(over) if over >= planned else f"{over} of {_epochs(planned)} so far"
    tiles = [("best validation error", f"{run.best['val_top1']:.2%}", f"epoch {run.best['epoch']}"),
             (f"top-{_top(run)} validation error", f"{run.best['val_top5']:.2%}", "same epoch"),
             ("training error", f"{last['train_top1']:.2%}", "last epoch, with dropout"),
             ("training time", duration(seconds), done)]
    return html([what, tag("ul", *(tag("li", *map(tag, ("span", "strong", "small"), tile)) for tile in tiles),
                           class_="tiles")])


def _epochs(count):
    return f"{count} epoch{'s' * (count != 1)}"


def _top(run):
    return min(scores.TOP, run.table.settings["classes"])


def _run(run, command, looked):
    settings, (channels, height, width) = run.settings, run.table.image
    crops = f"{'random' if settings.crops else 'central'} crops of {height}×{width}"
    augmented = ["mirrors"] * settings.mirror + ["shifts of colour"] * (settings.colour and channels == 3)
    rows = [("net", _described(run.table)), ("images", _images(settings.data, looked)),
            ("training", _training(run)),
            ("augmentation", ", ".join([crops, *augmented])), ("seed", settings.seed)]
    if settings.init_from:
        fresh = f", but for {', '.join(settings.replace)}" if settings.replace else ""
        rows.append(("started from", f"{settings.init_from}{fresh}"))
    for number, place in enumerate(run.started):
        versions = [f"{name} {place[key]}" for name, key in VERSIONS.items() if place.get(key)]
        where = [place.get("card"), place.get("cpu"), f"{place.get('cores')} cores", *versions,
                 place.get("blas")]
        rows.append(("went on" if number else "begun",
                     f"{place.get('date')} on {', '.join(str(word) for word in where if word)}"))
    rows.append(("devices", settings.devices or "cpu"))
    if run.checkpoint:
        rows.append(("looked at below", run.weights))
    # lines break between words only
    words = [piece for word in command.split(" ") for piece in (tag("span", word), " ")]
    return [pairs(rows), tag("p", "To repeat it:"), tag("pre", tag("code", *words))]


def _described(table):
    """A net in words, with all in which it is not the paper's."""
    settings = table.settings
    said = [settings["name"], f"{table.columns} columns" if table.columns > 1 else "one column",
            f"{totals(table)[1]:,} parameters"]
    changes = {f"profile {settings['profile']}": settings["profile"] != "paper",
               settings["activation"]: settings["activation"] != "relu",
               "without response normalization": not settings["lrn"],
               "without dropout": not settings["dropout"],
               f"pooling {settings['pool']}": settings["pool"] != "3x3s2",
               "columns that do not communicate": not settings["exchange"],
               f"without {settings['drop_layer']}": settings["drop_layer"]}
    return ", ".join([*said, *(words for words, so in changes.items() if so)])


def _images(path, looked):
    if not looked:
        return path
    dataset = looked.dataset
    sizes = ", ".join(f"{len(split):,} {NAMES[name]}" for name, split in dataset.splits.items())
    return (f"{path}: {sizes} images, {dataset.channels}×{dataset.height}×{dataset.width} pixels, "
            f"{len(dataset.classes):,} classes; {dataset.source}")


def _training(run):
    settings, steps = run.settings, run.history[-1]["step"] if run.history else 0
    done = f"{len(run.history)} of {_epochs(settings.epochs)}, {steps:,} updates of {settings.batch} images"
    drops = {"plateau": ", divided by 10 when the validation error stops improving",
             "constant": " throughout"}.get(
        settings.schedule, f", divided by 10 after epochs {settings.schedule.replace(',', ', ')}")
    return (f"{done}; learning rate {settings.lr:g}{drops}; momentum {settings.momentum:g}, "
            f"weight decay {settings.decay:g}")


def _curves(run):
    if not run.best:
        return [tag("p", "No epoch is over yet.")]
    drops = ", ".join(f"to {rate:g} after epoch {epoch}" for epoch, rate in figures.drops(run.history))
    drops = f"The learning rate drops {drops}." if drops else "The learning rate has not dropped."
    charts = []
    for draw, what, key, form in (figures.curves, "Top-1 error", "top1",
                                  ".2%"), (figures.losses, "Loss", "loss", ".3f"):
        parts = ", ".join(f"{part} from {run.history[0][name]:{form}} to {run.history[-1][name]:{form}}"
                          for part, name in (("training", f"train_{key}"), ("validation", f"val_{key}")))
        best = min(run.history, key=lambda line, name=f"val_{key}": line[name])
        alt = (f"{what} over {_epochs(len(run.history))}: {parts}, at best {best[f'val_{key}']:{form}} "
               f"in epoch {best['epoch']}. {drops}")
        charts.append(picture(figures.as_svg(draw, run.history, **CHART), "svg+xml", alt, size="half"))
    return [abreast(*charts),
            tag("p", f"{drops} Training errors are of the augmented images, with dropout, as they passed; "
                     "validation errors of central crops, after each epoch.")]


def _net(run):
    header, *rows = layer_rows(run.table)
    parts = [(layer.name, out, layer.reads) for layer, shape, out in run.table.shapes()
             if layer.parameters(shape, 1)]
    maps = ", ".join(f"{name} {'×'.join(map(str, out))}" for name, out, _ in parts)
    meet = [name for name, _, reads in parts[1:] if reads == "all"]
    joined = f"; the columns communicate at {', '.join(meet)}" if run.table.columns > 1 else ""
    alt = (f"{run.table.columns} column{'s' * (run.table.columns > 1)} of layers, from the image to the "
           f"classes: {maps}{joined}")
    return [picture(figures.as_svg(figures.draw_net, run.table), "svg+xml", alt,
                    "Red arrows lead from one column to another."
                    if run.table.columns > 1 else "", size="wide"),
            table("The layers", header, rows, numbers={4, 5, 6}, total=True),
            tag("p", "Outputs are maps × rows × columns, of all columns of the net together; multiply-adds "
                     "are those of one image's forward pass; below a column of the net, the numbers of its "
                     "maps.")]


def _filters(run):
    if not run.filters:
        return [tag("p", "No filters have been kept yet.")]
    columns, shown = run.table.columns, []
    order = "column 1 above column 2, " if columns == 2 else ""
    for when, weights in run.filters.items():
        content = png(filters.draw(weights, columns))
        count, channels, rows, cols = weights.shape
        colour = ""
        if channels == 3:
            shares = filters.saturation(weights, columns)
            colour = "; of their energy colour: " + ", ".join(
                f"{share:.0%} in column {k}" for k, share in enumerate(shares, 1))
        alt = f"The {count} filters of conv1, {rows}×{cols} pixels, {when}: {order}grey is zero{colour}"
        shown.append(picture(content, "png", alt, f"{when}{colour}", size="filters"))
    scale = f"{order}each filter scaled by its own largest weight; grey is zero."
    return [abreast(*shown), tag("p", scale.capitalize())]


def _predictions(looked):
    right = looked.probabilities.argmax(axis=1) == looked.labels
    parts = []
    for heading, those in (("Right", right), ("Wrong", ~right)):
        some = np.random.default_rng(0).permutation(np.flatnonzero(those))[:EXAMPLES]
        cards = [prediction(image, looked.labels[k], looked.probabilities[k], looked.dataset.classes,
                            _which(looked, k))
                 for k, image in zip(some, looked.dataset.read(looked.split, some), strict=True)]
        parts += [tag("h3", f"{heading}: {those.sum():,} of {len(those):,}"),
                  tag("ul", *cards, class_="cards") if cards else tag("p", "None.")]
    return [tag("p", f"Some of the {NAMES[looked.split]} images, drawn at random, each with its label and "
                     "the most probable classes, the right one's bar in red."), *parts]


def _which(looked, k):
    return f"{NAMES[looked.split]} image {k}"


def _alike(looked):
    train, wanted = looked.dataset.split("train").labels, looked.labels[looked.queries]
    rows = []
    for query, near in zip(looked.queries[:QUERIES_SHOWN], looked.near, strict=False):
        images = [(looked.dataset.read("train", [k])[0], train[k]) for k in near]
        rows.append(alike((looked.dataset.read(looked.split, [query])[0], looked.labels[query]), images,
                          looked.dataset.classes, _which(looked, query)))
    return [tag("p", f"First a {NAMES[looked.split]} image, then the training images nearest to it by the "
                     f"last hidden layer's activations, among {looked.sample:,} drawn at random; another "
                     f"class's name is in red. Of the {looked.near.shape[1]} nearest to each of "
                     f"{len(wanted)} images, {precision(looked.near, train, wanted):.1%} have its class."),
            *rows]


def _confusion(looked):
    counts, classes = scores.confusion(looked.probabilities, looked.labels), looked.dataset.classes
    worst = scores.class_errors(counts)
    most = max(worst, key=lambda row: row[4])
    alt = (f"Confusion table of {len(classes):,} classes, {NAMES[looked.split]} images, "
           f"error {counts.error:.2%}")
    if most[4]:
        alt += (f"; the most frequent mistake: {classes[most[0]]} taken for {classes[most[3]]}, "
                f"{most[4]} times")
    few = len(worst) <= ALL_CLASSES
    rows = [(classes[k], f"{error:.1%}", f"{count:,}",
             f"{first_name(classes[other])} ({times})" if times else "")
            for k, error, count, other, times in (worst if few else worst[:WORST])]
    caption = "Errors of the classes, the worst first"
    if not few:
        caption = f"The {WORST} largest errors of {len(worst):,} classes"
    return [abreast(picture(figures.as_svg(figures.draw_confusion, counts, classes), "svg+xml", alt,
                            size="confusion"),
                    table(caption, ("class", "error", "images", "most often taken for"), rows,
                          numbers={1, 2}))]


def _errors(run, looked):
    rows = []
    for title, published in scores.PUBLISHED.items():
        rows += [(f"{title}, published",), *((model, *map(_percent, errors)) for model, *errors in published)]
    if looked:
        own = scores.scores(looked.probabilities, looked.labels)
        rows += [(f"this run, {NAMES[looked.split]}",), (f"{run.table.settings['name']}, centre crop",
                                                          *(_percent(own[key]) for key in ("top1", "top5")))]
    elif run.best:
        rows += [("this run, validation",), (f"{run.table.settings['name']}, epoch {run.best['epoch']}",
                                             *(_percent(run.best[key]) for key in ("val_top1", "val_top5")))]
    top = f"top-5 (this run: top-{_top(run)})" if _top(run) < scores.TOP else "top-5"
    return [table("Error rates", ("model", "top-1", top), rows, numbers={1, 2}),
            tag("p", "*: pre-trained on ImageNet 2011 Fall. Other images have other errors: compare with "
                     "care.")]


def _percent(error):
    return "–" if error is None else f"{error:.1%}"


def _speed(run):
    if not run.best:
        return [tag("p", "No epoch is over yet.")]
    rates = [line["images_per_s"] for line in run.history]
    alt = (f"Training images a second in each epoch: median {np.median(rates):,.0f}, smallest "
           f"{min(rates):,.0f}, largest {max(rates):,.0f}")
    return [picture(figures.as_svg(figures.speed, run.history, **CHART), "svg+xml", alt, size="half")]

"""Class names and probabilities for image files, from a checkpoint alone."""
import numpy as np

from cpnet.evaluate import probabilities
from data.errors import DataError
from data.loading.augment import central_crops
from data.sources.image import load_image


def load_crops(paths, mean, crop):
    """Image files → centred crops float32 (C, crop, crop, N),
    prepared as the training images were (section 2).

    mean (C, H, W): the data set's mean image; its channels and size are the images'. The shorter side is
    scaled to that size, the central square kept, and of it the central crop, as in validation.
    Raises DataError for a file that is no image.
    """
    return central_crops(np.stack([load_image(path, mean.shape[1], channels=len(mean)) for path in paths]),
                         mean, crop)


def predict(network, mean, classes, paths, *, top=5, batch=32):
    """For each path {"image": path, "predictions": [{"index", "class", "probability"}, …]}, the most probable
    first; or {"image": path, "error": text} for a file that is no image."""
    results, errors = [], {}
    for start in range(0, len(paths), batch):
        crops, some = [], paths[start:start + batch]
        for path in some:
            try:
                crops.append(load_crops([path], mean, network.table.image[1]))
            except DataError as error:
                errors[path] = str(error)
        chances = iter(probabilities(network, np.concatenate(crops, axis=-1)).T if crops else ())
        for path in some:
            if path in errors:
                results.append({"image": str(path), "error": errors[path]})
                continue
            chance = next(chances)
            best = np.argsort(-chance, kind="stable")[:top]
            results.append({"image": str(path), "predictions": [
                {"index": int(k), "class": classes[k], "probability": float(chance[k])} for k in best]})
    return results

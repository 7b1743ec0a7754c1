"""A set of colour images from photographs that ship with other packages: from which photograph is a patch?

    pip install scikit-image scikit-learn
    python -m tests.photographs FOLDER [--patches N] [--size S]
    python run.py prepare FOLDER photographs.h5 --size S

FOLDER gets train/ and val/ with a folder of patches for each photograph: squares of one to three times S pixels at random
places, smaller ones where there is no room, scaled to S×S. Those for validation come from the right-hand fifth, those for
training from the rest. Photographs whose package is missing are left out; nothing of them is kept in this repository. Their
licences:

    hopper      matplotlib     public domain, US Navy
    astronaut, hubble          scikit-image, public domain, NASA
    cat, coffee, rocket, retina, motorcycle, tissue
                scikit-image   CC0, or no known restrictions (its skimage/data module names each source)
    temple, flower             scikit-learn, CC BY 2.0: danielbuechele and vultilion on flickr.com
"""
import argparse
import importlib.util
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

PHOTOGRAPHS = {
    "hopper": ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
    "astronaut": ("skimage", "data/astronaut.png"), "hubble": ("skimage", "data/hubble_deep_field.jpg"),
    "cat": ("skimage", "data/chelsea.png"), "coffee": ("skimage", "data/coffee.png"),
    "rocket": ("skimage", "data/rocket.jpg"), "retina": ("skimage", "data/retina.jpg"),
    "motorcycle": ("skimage", "data/motorcycle_left.png"), "tissue": ("skimage", "data/ihc.png"),
    "temple": ("sklearn", "datasets/images/china.jpg"), "flower": ("sklearn", "datasets/images/flower.jpg"),
}
VALIDATION = 0.2  # of the width


def installed():
    """{name: path} of the photographs that are here."""
    found = {}
    for name, (package, place) in PHOTOGRAPHS.items():
        spec = importlib.util.find_spec(package)
        if spec is not None:
            found[name] = Path(spec.origin).parent / place
    return found


def patches(photograph, count, size, random):
    """`count` random patches of an image, scaled to size×size."""
    for _ in range(count):
        side = int(random.integers(min(size, *photograph.size), min(3 * size, *photograph.size) + 1))
        left, top = (int(random.integers(length - side + 1)) for length in photograph.size)
        yield photograph.resize((size, size), Image.Resampling.BICUBIC, (left, top, left + side, top + side))


def write(folder, count, size, seed=0):
    """Class folders of `count` patches of each photograph for training, a fifth as many for validation."""
    for number, (name, path) in enumerate(tqdm(installed().items(), unit=" photographs", leave=False)):
        with Image.open(path) as image:
            photograph, edge = image.convert("RGB"), round(image.width * (1 - VALIDATION))
        for split, part, some in (("train", (0, edge), count), ("val", (edge, photograph.width), count // 5)):
            target = Path(folder) / split / name
            target.mkdir(parents=True)
            own = photograph.crop((part[0], 0, part[1], photograph.height))
            for k, patch in enumerate(patches(own, some, size, np.random.default_rng([seed, number, split == "val"]))):
                patch.save(target / f"{k:05}.png")


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.photographs", description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--patches", type=int, default=1000, help="of each photograph, for training")
    parser.add_argument("--size", type=int, default=32, help="of a patch, in pixels")
    options = parser.parse_args()
    write(options.folder, options.patches, options.size)
    print(f"{options.folder}: {len(installed())} photographs, {options.patches:,} patches each")


if __name__ == "__main__":
    main()

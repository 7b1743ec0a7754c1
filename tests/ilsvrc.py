"""Miniatures of ILSVRC as downloaded: tars and development kits in the official layout."""
import io
import tarfile

import numpy as np
from PIL import Image
from scipy.io import savemat

WORDS = {"n01440764": "tench, Tinca tinca", "n02012849": "crane", "n03126707": "crane", "n07711080": "french fries, chips"}
IDS = {"n07711080": 1, "n02012849": 2, "n01440764": 3, "n03126707": 4}  # of the devkit: not in the order of the synsets
HIGH = {"n00001740": 5, "n00015388": 6}  # synsets above these, which are no classes


def photograph(seed, form="JPEG"):
    """The bytes of a small image that no other seed gives."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (3, 4, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    small.resize((24 + seed % 5, 20 + seed % 3), Image.Resampling.BICUBIC).save(buffer, form)
    return buffer.getvalue()


def tar(files, mode="w"):
    """The bytes of a tar of {name: bytes}, or of tarfile.TarInfo: bytes, in that order."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, data in files.items():
            member = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def meta_mat(year):
    """meta.mat as in the devkit: a struct array (S, 1), sorted by id, with the high-level synsets behind the classes."""
    ids = IDS | HIGH
    kinds = [(f"ILSVRC{year}_ID", "O"), *((name, "O") for name in ("WNID", "words", "gloss", "num_children", "children"))]
    rows = [(float(ids[wnid]), wnid, WORDS.get(wnid, "entity"), "what it is", 2.0 * (wnid in HIGH), np.array([1., 2]))
            for wnid in sorted(ids, key=ids.get)]
    buffer = io.BytesIO()
    savemat(buffer, {"synsets": np.array(rows, kinds)[:, None], "cost_matrix": np.eye(3)})
    return buffer.getvalue()


def write(folder, year=2012, images=5, val=9, test=6):
    """Write a miniature into `folder`: {split: [(name, bytes, WNID), …]}, sorted as the data set is to have them."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(year)
    synsets, truth = sorted(IDS), {}
    train = [(f"{wnid}_{number}.JPEG", photograph(100 * k + number), wnid)
             for k, wnid in enumerate(synsets) for number in (18, 36, 9, 100, 7)[:images + k - 3]]
    inner = {f"{wnid}.tar": tar({name: data for name, data, owner in train if owner == wnid}) for wnid in reversed(synsets)}
    kind, root = ("img", "") if year == 2012 else ("images", "{}/")
    (folder / f"ILSVRC{year}_{kind}_train.tar").write_bytes(tar(inner))
    parts = {"train": sorted(train, key=lambda image: (image[2], image[0]))}
    for split, count in (("val", val), ("test", test)):
        owners = [synsets[k] for k in rng.integers(len(synsets), size=count)]
        parts[split] = [(f"ILSVRC{year}_{split}_{k + 1:08d}.JPEG", photograph(1000 * len(split) + k), wnid)
                        for k, wnid in enumerate(owners)]
        order = rng.permutation(count)  # tars are not sorted
        (folder / f"ILSVRC{year}_{kind}_{split}.tar").write_bytes(
            tar({root.format(split) + parts[split][k][0]: parts[split][k][1] for k in order}))
        truth[split] = "".join(f"{IDS[wnid]}\n" for wnid in owners).encode()
    top = "ILSVRC2012_devkit_t12" if year == 2012 else "devkit-1.0"
    (folder / ("ILSVRC2012_devkit_t12.tar.gz" if year == 2012 else "ILSVRC2010_devkit-1.0.tar.gz")).write_bytes(
        tar({f"{top}/readme.txt": b"read me", f"{top}/data/meta.mat": meta_mat(year),
             f"{top}/data/ILSVRC{year}_validation_ground_truth.txt": truth["val"]}, "w:gz"))
    if year == 2010:  # whose test labels were published later, on their own
        (folder / "ILSVRC2010_test_ground_truth.txt").write_bytes(truth["test"])
    else:
        del parts["test"]
    return parts

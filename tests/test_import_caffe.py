"""Caffe's two versions of the net, as PyTorch computes them, against the nets that the same weights are imported into."""
import json

import numpy as np
import pytest
from PIL import Image

import run as command_line
from cpnet.checkpoint import Checkpoint
from cpnet.errors import CpnetError
from cpnet.formats import import_caffe
from cpnet.formats.export import to_checkpoint
from cpnet.gpu.devices import named
from cpnet.layers import LRN
from cpnet.network import Network

SHAPES = {"conv1": (96, 3, 11, 11), "conv2": (256, 48, 5, 5), "conv3": (384, 256, 3, 3), "conv4": (384, 192, 3, 3),
          "conv5": (256, 192, 3, 3), "fc6": (4096, 9216), "fc7": (4096, 4096), "fc8": (10, 4096)}


def caffe(torch, variant, weights, x):
    """bvlc_alexnet/deploy.prototxt or bvlc_reference_caffenet/deploy.prototxt: x (N, 3, 227, 227), blue, green, red, without
    the mean → logits (N, classes). Dropout is not there at test."""
    F = torch.nn.functional
    w = {name: torch.from_numpy(array).double() for name, array in weights.items()}

    def conv(x, name, **options):
        return F.relu(F.conv2d(x, w[f"{name}.0"], w[f"{name}.1"], **options))

    def norm(x):
        return F.local_response_norm(x, 5, alpha=1e-4, beta=0.75, k=1.0)  # Caffe's too divides alpha by 5

    def pool(x):
        return F.max_pool2d(x, 3, 2, ceil_mode=True)

    def norm_and_pool(x):
        return pool(norm(x)) if variant == "alexnet" else norm(pool(x))

    x = norm_and_pool(conv(x.double(), "conv1", stride=4))
    x = norm_and_pool(conv(x, "conv2", padding=2, groups=2))
    x = conv(x, "conv3", padding=1)
    x = conv(x, "conv4", padding=1, groups=2)
    x = pool(conv(x, "conv5", padding=1, groups=2)).flatten(1)
    for name in "fc6", "fc7":
        x = F.relu(F.linear(x, w[f"{name}.0"], w[f"{name}.1"]))
    return F.linear(x, w["fc8.0"], w["fc8.1"]).numpy()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with caffe.npz, mean.npy (3, 256, 256), classes.txt, photo.png of 256×256; and the weights."""
    folder = tmp_path_factory.mktemp("caffe")
    rng = np.random.default_rng(5)
    weights = {}
    for name, shape in SHAPES.items():
        weights[f"{name}.0"] = rng.standard_normal(shape, np.float32) * np.float32((2 / np.prod(shape[1:])) ** 0.5)
        weights[f"{name}.1"] = rng.standard_normal(shape[:1], np.float32)
    weights["fc8.0"] *= np.float32(0.03)  # probabilities that are neither 0 nor 1
    np.savez(folder / "caffe.npz", **weights)
    np.save(folder / "mean.npy", rng.uniform(90, 130, (3, 256, 256)))
    (folder / "classes.txt").write_text("\n".join(f"n0{k} thing {k}" for k in range(10)) + "\n")
    tiles = rng.integers(0, 256, (32, 32, 3), np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    Image.fromarray(tiles).save(folder / "photo.png")
    return folder, weights


def crop(folder):
    """The image as Caffe's transformer makes it: blue first, minus the mean, the central crop (1, 3, 227, 227), float64."""
    pixels = np.asarray(Image.open(folder / "photo.png")).transpose(2, 0, 1)[::-1]
    return (pixels - np.load(folder / "mean.npy"))[None, :, 14:241, 14:241]


def test_the_logits_of_alexnet(torch, files):
    """In float64, where nothing is left but rounding."""
    folder, weights = files
    image = crop(folder)
    expected = caffe(torch, "alexnet", weights, torch.from_numpy(image.copy()))[0]
    net = import_caffe.read(folder / "caffe.npz", "alexnet", folder / "classes.txt", str(folder / "mean.npy"))
    network = Network(net.table, named("cpu", 2), dtype=np.float64, fuse_pools=False)
    for name, array in net.values.items():
        network.set("values", name, array)
    images = np.ascontiguousarray(image[0, ::-1, :, :, None])

    def difference():
        return abs(network.forward(images)[:, 0] - expected).max() / abs(expected).max()

    assert difference() <= 1e-10
    for row in network.rows:  # within the columns instead
        for part in row.copies:
            part.reads = "column" if isinstance(part, LRN) else part.reads
    assert difference() > 1e-4


def test_a_checkpoint_of_caffenet(torch, files, tmp_path, monkeypatch, capsys):
    """From weights and image file to probabilities, in float32, by the commands."""
    folder, weights = files
    monkeypatch.chdir(folder)
    out = tmp_path / "caffenet.h5"
    assert command_line.main(["import", "--caffe", "caffenet", "caffe.npz", str(out), "--classes", "classes.txt",
                              "--mean", "mean.npy"]) == 0
    capsys.readouterr()
    assert command_line.main(["predict", str(out), "photo.png", "--json", "--top", "10"]) == 0
    predictions = json.loads(capsys.readouterr().out)[0]["predictions"]
    logits = caffe(torch, "caffenet", weights, torch.from_numpy(crop(folder).copy()))[0]
    expected = logits - np.log(np.exp(logits).sum())
    assert np.ptp(expected) > 1 and expected.max() < -0.1
    for line in predictions:
        assert line["class"] == f"n0{line['index']} thing {line['index']}"
        assert abs(np.log(line["probability"]) - expected[line["index"]]) <= 1e-4
    checkpoint = Checkpoint(out)
    np.testing.assert_array_equal(checkpoint.arrays["values"]["fc7.weight"], 2 * weights["fc7.0"])
    np.testing.assert_array_equal(checkpoint.mean, np.load("mean.npy")[::-1].astype(np.float32))


# What does not fit


def empty(**changes):
    """Caffe's arrays, all zero (so they take no memory), with changes; None leaves one out."""
    arrays = {f"{name}.{kind}": np.zeros(shape if kind == 0 else shape[:1], np.float32)
              for name, shape in SHAPES.items() for kind in (0, 1)} | changes
    return {name: array for name, array in arrays.items() if array is not None}


@pytest.fixture
def import_arrays(files, monkeypatch):
    """import_caffe.read of arrays in place of a file's."""
    def imported(arrays, mean="104,117,123"):
        monkeypatch.setattr(import_caffe, "load_npz", lambda path, what: arrays)
        return import_caffe.read("x.npz", "caffenet", files[0] / "classes.txt", mean)

    return imported


def respelled(pattern):
    return {pattern(name.split(".")[0], int(name[-1])): array for name, array in empty().items()}


@pytest.mark.parametrize("pattern", [
    lambda layer, k: f"{layer}.{k}", lambda layer, k: f"{layer}_{'wb'[k]}", lambda layer, k: f"{layer}{'WB'[k]}",
    lambda layer, k: f"{layer}/{('weights', 'biases')[k]}", lambda layer, k: f"{layer}/{('weights', 'biases')[k]}:0",
    lambda layer, k: f"{layer}.{('weight', 'bias')[k]}", lambda layer, k: f"{layer}_{k}"])
def test_spellings(import_arrays, pattern):
    net = import_arrays(respelled(pattern))
    assert net.values.keys() == net.table.parameters().keys()
    assert (net.mean == np.array([123, 117, 104], np.float32)[:, None, None]).all() and net.mean.shape == (3, 256, 256)


def test_blobs_of_four_axes(import_arrays):
    net = import_arrays(empty(**{"fc6.0": np.zeros((1, 1, 4096, 9216), np.float32), "conv1.1": np.ones((1, 1, 1, 96))}))
    assert net.values["fc6.weight"].shape == (4096, 9216) and net.values["conv1.bias"].dtype == np.float32


@pytest.mark.parametrize("change, message", [
    ({"conv2.0": np.zeros((256, 96, 5, 5))}, r"conv2.weight is \(256, 96, 5, 5\), Caffe's net has \(256, 48, 5, 5\)"),
    ({"conv1.0": np.zeros((11, 11, 3, 96))}, r"conv1.weight is \(11, 11, 3, 96\), .* filters are \(F, C/groups, R, S\)"),
    ({"fc6.0": np.zeros((9216, 4096), bool)}, r"fc6.weight is \(9216, 4096\)"),
    ({"fc7.0": np.zeros((4096, 4096), int)}, "fc7.weight holds int64, not floats"),
    ({"fc8.0": np.zeros((9, 4096))}, r"fc8.weight is \(9, 4096\), .*classes.txt names 10 classes"),
    ({"fc6.1": None}, "lacks fc6.bias"),
    ({"fc9.0": np.zeros(3)}, r"fc9.0 \(3,\) is no array of Caffe's net"),
    ({"conv10": np.zeros(3)}, r"conv10 \(3,\) is no array"),
    ({"conv1_w": np.zeros(3)}, "has conv1.weight twice, the second time as conv1_w")])
def test_arrays_that_do_not_fit_are_refused(import_arrays, change, message):
    with pytest.raises(CpnetError, match=f"x.npz: {message}"):
        import_arrays(empty(**change))


def save_all(folder):
    np.savez(folder / "objects.npz", conv1=np.array([np.zeros(2), np.zeros(3)], object))
    np.savez(folder / "mean.npz", mean=np.zeros((3, 256, 256)))
    np.save(folder / "grey.npy", np.zeros((256, 256)))
    np.save(folder / "pickled.npy", np.array([None]))
    np.save(folder / "small.npy", np.zeros((3, 227, 227)))
    (folder / "gap.txt").write_text("a\n\nb\n")
    (folder / "latin.txt").write_bytes(b"caf\xe9\n")


OTHERS = ["--classes", "classes.txt", "--mean", "104,117,123"]
MISTAKES = [
    (["objects.npz", *OTHERS], "objects.npz: is not an .npz of Caffe's weights (conv1: it is pickled, which this"),
    (["nothing.npz", *OTHERS], "nothing.npz: there is no such file"),
    (["photo.png", *OTHERS], "photo.png: is not an .npz of Caffe's weights (not an .npz file)"),
    (["caffe.npz", "--classes", "nothing.txt", "--mean", "104,117,123"], "nothing.txt: cannot be read as class names"),
    (["caffe.npz", "--classes", "latin.txt", "--mean", "104,117,123"], "latin.txt: cannot be read as class names"),
    (["caffe.npz", "--classes", "gap.txt", "--mean", "104,117,123"], "gap.txt: line 2 names no class"),
    (["caffe.npz", "--classes", "classes.txt"], "--caffe, --classes and --mean go together"),
    (["caffe.npz", "--mean", "104,117,123"], "--caffe, --classes and --mean go together")]


@pytest.mark.parametrize("words, message", MISTAKES, ids=[" ".join(words) for words, _ in MISTAKES])
def test_mistakes_are_one_line(files, tmp_path, monkeypatch, capsys, words, message):
    save_all(files[0])
    monkeypatch.chdir(files[0])
    try:
        code = command_line.main(["import", "--caffe", "alexnet", words[0], str(tmp_path / "out.h5"), *words[1:]])
    except SystemExit as exit:
        code = exit.code
    error = capsys.readouterr().err
    assert code not in (0, None) and message in error and error.count("\n") == 1, error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("mean, message", [
    ("104,117", r"\(2,\) of float64, not \(3\) or \(3, H, W\)"), ("mean.npz", "nor a readable .npy file"),
    ("grey.npy", r"\(256, 256\) of float64"), ("pickled.npy", "nor a readable .npy file"), ("none.npy", "No such file")])
def test_means_that_are_refused(files, monkeypatch, mean, message):
    save_all(files[0])
    monkeypatch.chdir(files[0])
    with pytest.raises(CpnetError, match=f"--mean {mean}: .*{message}"):
        import_caffe.read_mean(mean)


def test_a_mean_of_another_size_is_refused(import_arrays, files, tmp_path):
    save_all(files[0])
    with pytest.raises(CpnetError, match="x.npz: the mean image is 3×227×227, the net needs 3 channels, of a size whose crops "
                                         "have 227"):
        to_checkpoint(tmp_path / "x.h5", import_arrays(empty(), str(files[0] / "small.npy")), "x.npz")

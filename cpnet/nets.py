"""The nets, each as one readable table.

Filters and outputs count the whole layer, all columns together. `reads="column"`: the layer's filters see
only the maps of their own column; `reads="all"`: those of all columns,
which is where the columns communicate (section 3.2, figure 2).
"""
import difflib
from dataclasses import dataclass, replace
from functools import partial

from cpnet.errors import CpnetError
from cpnet.layers import LRN, AveragePool, Conv, Dropout, Layer, Linear, MaxPool, Pool, ReLU, Tanh
from cpnet.ops.pool import pool_size


@dataclass(frozen=True)
class Profile:
    """Where the paper, the code its authors ran, and Caffe's two versions of the net differ."""
    middle_std: float = 0.01  # of the weights of conv3, conv4 and conv5
    bias_rate: float = 1.0  # the biases' learning rate, in units of the weights'
    lrn_alpha: float = 1e-4  # the formula's; the code's 1e-4 was divided by n = 5, and so is Caffe's
    lrn_k: float = 2.0
    lrn_reads: str = "column"  # or "all": Caffe normalises across the border between the columns
    block1: str = "act lrn pool"  # what follows conv1, in order; act: the nonlinearity
    block2: str = "act lrn pool"  # what follows conv2
    crop: tuple = (7, 8)  # a crop's side, as a share of the image's: 224 of 256
    schedule: str = "plateau"
    epochs: int = 90


# The last two are for weights trained in Caffe (formats/import_caffe.py):
# they compute what it does, and start as the paper's.
CAFFE = Profile(bias_rate=2.0, lrn_alpha=2e-5, lrn_k=1.0, lrn_reads="all", crop=(227, 256))
PROFILES = {"paper": Profile(),
            "as-run": Profile(middle_std=0.03, bias_rate=2.0, lrn_alpha=2e-5, block1="lrn pool act",
                              schedule="25,51,79", epochs=91),
            "caffe-alexnet": CAFFE,
            "caffenet": replace(CAFFE, block1="act pool lrn", block2="act pool lrn")}


def alexnet(image, classes, profile, act, norm, *, columns=2, sixth=False):
    """The paper's net: five convolutional and three fully-connected layers in two columns (figure 2).

    60,965,224 parameters and 659,272 neurons for 224×224 images and 1000 classes. The paper prints 253,440
    neurons for the first layer, which is 55·48·96, a slip for 55·55·96 = 290,400:
    only with that does the sum come to its "650,000".
    """
    middle, trained = profile.middle_std, {"bias_rate": profile.bias_rate}
    # one column alone has half of the kernels in conv1 to conv4, but not in conv5 (footnote 2)
    share = columns / 2
    return [
        Conv("conv1", int(96 * share), 11, stride=4, pad=(0, 3), reads="all", **trained),
        *_in_order(profile.block1, act("conv1"), norm("conv1"), MaxPool("conv1 pool")),
        Conv("conv2", int(256 * share), 5, pad=2, bias=1, **trained),
        *_in_order(profile.block2, act("conv2"), norm("conv2"), MaxPool("conv2 pool")),
        Conv("conv3", int(384 * share), 3, pad=1, reads="all", std=middle, **trained), act("conv3"),
        Conv("conv4", int(384 * share), 3, pad=1, std=middle, bias=1, **trained), act("conv4"),
        Conv("conv5", 256, 3, pad=1, std=middle, bias=1, **trained), act("conv5"), MaxPool("conv5 pool"),
        *([Conv("conv6", 128 * columns, 3, pad=1, reads="all", std=0.03, bias=1, **trained),
           act("conv6")] * sixth),
        Linear("fc6", 4096, bias=1, **trained), act("fc6"), Dropout("fc6 dropout"),
        Linear("fc7", 4096, bias=1, **trained), act("fc7"), Dropout("fc7 dropout"),
        Linear("fc8", classes, undivided=True, **trained),
    ]


def mini(image, classes, profile, act, norm, *, columns=2, sixth=False):
    """The paper's eight layers and two columns in miniature, for images of 28 to 32 pixels.

    With a standard deviation of 0.01 such small fan-ins pass on almost nothing and the loss stays at
    ln(classes). Each std here is gain / √fan_in, the gain being what the full net has:
    0.01 (0.03 for conv3 to conv5) times √fan_in there.
    """
    trained = {"bias_rate": profile.bias_rate}
    # one column alone has half of these, as in alexnet
    first, second, third = 16 * columns, 32 * columns, 48 * columns

    def std(full, fan_in_full, fan_in):
        return full * (fan_in_full / fan_in) ** 0.5

    final = image[1]
    for _ in range(3):
        final = pool_size(final, 3, 2, True)
    return [
        Conv("conv1", first, 5, pad=2, reads="all", std=std(0.01, 363, 25 * image[0]), **trained),
        *_in_order(profile.block1, act("conv1"), norm("conv1"), MaxPool("conv1 pool")),
        Conv("conv2", second, 5, pad=2, std=std(0.01, 1200, 400), bias=1, **trained),
        *_in_order(profile.block2, act("conv2"), norm("conv2"), MaxPool("conv2 pool")),
        Conv("conv3", third, 3, pad=1, reads="all", std=std(0.03, 2304, 9 * second), **trained), act("conv3"),
        Conv("conv4", third, 3, pad=1, std=std(0.03, 1728, 432), bias=1, **trained), act("conv4"),
        Conv("conv5", 64, 3, pad=1, std=std(0.03, 1728, 432), bias=1, **trained), act("conv5"),
        MaxPool("conv5 pool"),
        *([Conv("conv6", 64, 3, pad=1, reads="all", std=std(0.03, 2304, 576), bias=1, **trained),
           act("conv6")] * sixth),
        Linear("fc6", 1024, std=std(0.01, 9216, 64 * final**2), bias=1, **trained), act("fc6"),
        Dropout("fc6 dropout"),
        Linear("fc7", 1024, std=std(0.01, 4096, 1024), bias=1, **trained), act("fc7"), Dropout("fc7 dropout"),
        Linear("fc8", classes, std=std(0.01, 4096, 1024), undivided=True, **trained),
    ]


def four_layer(image, classes, profile, act, norm):
    """The four-layer net of figure 1 and footnote 3, for CIFAR-10 (24 to 32 pixels),
    as its authors ran it."""
    trained = {"bias_rate": 2.0}
    return [
        Conv("conv1", 32, 5, pad=2, reads="all", std=0.0001, **trained), MaxPool("conv1 pool"), act("conv1"),
        *norm("conv1"),
        Conv("conv2", 32, 5, pad=2, **trained), act("conv2"), AveragePool("conv2 pool"), *norm("conv2"),
        Conv("conv3", 64, 5, pad=2, **trained), act("conv3"), AveragePool("conv3 pool"),
        Linear("fc4", classes, decay=1.0, undivided=True, **trained),
    ]


ACTIVATIONS = {"relu": ReLU, "tanh": Tanh}
POOLS = {"3x3s2": {"z": 3, "s": 2, "ceil": True},
         # as many outputs, from windows that do not overlap
         "2x2s2": {"z": 2, "s": 2, "ceil": False}}


@dataclass(frozen=True)
class Net:
    """One entry of the list of nets: its layers, columns, smallest image,
    and the settings it is trained with."""
    layers: object  # (image, classes, profile, act, norm) → [Layer]
    columns: int
    smallest: int
    about: str
    rate: float = 0.01
    decay: float = 0.0005


NETS = {
    "alexnet": Net(alexnet, 2, 63, "the paper's net (figure 2)"),
    "alexnet-one-column": Net(partial(alexnet, columns=1), 1, 63, "the one-GPU net of footnote 2"),
    "alexnet-conv6": Net(partial(alexnet, sixth=True), 2, 63,
                         "with a sixth convolution over the last pooling (section 6)"),
    "mini": Net(mini, 2, 8, "the same pattern for images of 28 to 32 pixels"),
    "mini-one-column": Net(partial(mini, columns=1), 1, 8, "half of mini, as footnote 2 halves alexnet"),
    "mini-conv6": Net(partial(mini, sixth=True), 2, 8, "mini with a sixth convolution"),
    "four-layer": Net(four_layer, 1, 8, "the CIFAR-10 net of figure 1", rate=0.001, decay=0.004),
}


@dataclass(frozen=True)
class Table:
    """A net on paper. `settings` are the arguments of `build` that make it again."""
    settings: dict
    image: tuple  # (C, H, W) of the crop that it sees
    columns: int
    layers: list[Layer]
    rate: float
    decay: float

    def takes(self, shape):
        """Whether crops of images of this shape (C, H, W) are such as the net was made for."""
        return len(shape) == 3 and shape[0] == self.image[0] \
            and crop_size(min(shape[1:]), self.settings["profile"]) == self.image[1]

    def shapes(self):
        """For each layer, the shapes of one image's input and output."""
        shape = self.image
        for layer in self.layers:
            out = layer.out_shape(shape)
            yield layer, shape, out
            shape = out

    def parameters(self):
        """The whole net's Parameters by name, such as "conv1.weight"."""
        return self._by_name(lambda layer, shape: layer.parameters(shape, self.columns))

    def initial_state(self):
        """The whole net's arrays that are kept but not trained (layers.py), as Parameters by name."""
        return self._by_name(lambda layer, shape: layer.initial_state(shape, self.columns))

    def _by_name(self, arrays_of):
        found = {}
        for layer, shape, _ in self.shapes():
            for key, parameter in arrays_of(layer, shape).items():
                found[f"{layer.name}.{key}"] = parameter
        return found


def build(name, image=(3, 224, 224), classes=1000, profile="paper", activation="relu", lrn=True,
          pool="3x3s2", dropout=True, exchange=True, drop_layer=None):
    """The Table of the net `name` for crops of shape `image` (C, H, W).
    Raises CpnetError for settings that do not fit.

    The last six are the ablations of the paper's claims: tanh (3.1), no response normalization (3.3),
    pooling that does not overlap (3.4), no dropout (4.2),
    columns that never communicate before the last layer (3.2), one convolution less (7).
    """
    net = look_up(name, NETS, "net")
    settings = dict(name=name, image=list(image), classes=classes, profile=profile, activation=activation,
                    lrn=lrn, pool=pool, dropout=dropout, exchange=exchange, drop_layer=drop_layer)
    if min(image[1:]) < net.smallest:
        raise CpnetError(f"net {name} needs crops of {net.smallest} pixels or more, these are "
                         f"{image[1]}×{image[2]}"
                         + ": try --net mini" * (net.smallest > NETS["mini"].smallest))
    choice = look_up(profile, PROFILES, "profile")
    unit = look_up(activation, ACTIVATIONS, "activation")
    layers = net.layers(tuple(image), classes, choice,
                        lambda name: unit(f"{name} {activation}"),
                        lambda name: [LRN(f"{name} lrn", k=choice.lrn_k, alpha=choice.lrn_alpha,
                                          reads=choice.lrn_reads)] if lrn else [])
    if look_up(pool, POOLS, "pool") != POOLS["3x3s2"]:
        layers = [replace(layer, **POOLS[pool]) if isinstance(layer, Pool) else layer for layer in layers]
    if not dropout:
        layers = [layer for layer in layers if not isinstance(layer, Dropout)]
    if not exchange:
        layers = [_alone(layer) if index else layer for index, layer in enumerate(layers)]
    if drop_layer:
        layers = _drop(layers, drop_layer, name)
    return Table(settings, tuple(image), net.columns, layers, net.rate, net.decay)


def _alone(layer):
    """The layer, reading its own column only; but the undivided last one still has both."""
    return replace(layer, reads="column") if layer.reads == "all" and not layer.undivided else layer


def _drop(layers, name, net):
    """Without the convolution `name` and its nonlinearity. The next one reads what it read; where it read all
    columns' maps, the next one does, so that the columns still meet there."""
    convolutions = [layer for layer in layers if isinstance(layer, Conv)]
    pooled = {layer.name.split()[0] for layer in layers if isinstance(layer, Pool)}
    middle = {}
    for layer, following in zip(convolutions[1:], convolutions[2:], strict=False):
        if layer.name not in pooled:
            middle[layer.name] = following
    following = look_up(name, middle, f"--drop-layer of net {net}:") if middle else None
    if following is None:
        raise CpnetError(f"--drop-layer {name}: net {net} has no convolution between others, without "
                         "pooling, to leave out")
    dropped = next(layer for layer in convolutions if layer.name == name)
    kept = [layer for layer in layers if layer.name.split()[0] != name]
    return [replace(layer, reads=dropped.reads) if layer is following and dropped.reads == "all" else layer
            for layer in kept]


def look_up(value, options, what):
    """options[value]. Raises CpnetError naming the nearest option otherwise."""
    if value in options:
        return options[value]
    near = difflib.get_close_matches(str(value), options, 1, 0)
    raise CpnetError(f"{what} {value!r} does not exist: did you mean {near[0]!r}? There are "
                     f"{', '.join(options)}.")


def crop_size(size, profile="paper"):
    """Side of the crops taken from images of `size` pixels:
    224 of 256 (Caffe's profiles: 227), in proportion of others."""
    share, whole = PROFILES[profile].crop
    return size * share // whole


def _in_order(order, act, norm, pool):
    layers = {"act": [act], "lrn": norm, "pool": [pool]}
    return [layer for step in order.split() for layer in layers[step]]

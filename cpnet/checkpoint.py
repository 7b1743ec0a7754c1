"""Checkpoints: one HDF5 file that holds all of a run, readable with h5py and nothing else.

    attributes      format = "cpnet-checkpoint", version (of the format), program (the version of cpnet),
                    settings, state (JSON text)
    values/NAME     every parameter as a whole array, whatever the placement it was trained in
    velocities/NAME the update rule's velocities
    state/NAME      what layers keep without training it, where the net has such layers
    mean, classes   the data set's mean image (C, H, W) and class names: this file is enough to predict

A file gets its name only when it is complete and on the disk, so an interrupted save leaves the old file.
What a file says is checked before anything is computed with it.
"""
import io
import json

import numpy as np

from cpnet import __version__, nets, settings
from cpnet.errors import CpnetError
from cpnet.files import write_atomically
from cpnet.network import layer_of
from data.store import hdf5

FORMAT, VERSION = "cpnet-checkpoint", 1
KINDS = "values", "velocities", "state"
TRAINED = "values", "state"  # all that predictions take


def save(path, network, *, settings, state, mean, classes):
    """Write a checkpoint. settings, state: dicts that JSON can hold. Raises CpnetError if it cannot."""
    image = io.BytesIO()  # HDF5 does not survive a full disk cleanly, so the file is made in memory
    with hdf5.new(image) as file:
        file.attrs.update(format=hdf5.fixed(FORMAT), version=VERSION, program=hdf5.fixed(__version__),
                          settings=hdf5.fixed(json.dumps(dict(settings))),
                          state=hdf5.fixed(json.dumps(state)))
        for kind in KINDS:
            if network.kinds[kind]:
                group = file.create_group(kind)
                for name in network.kinds[kind]:
                    group[name] = network.get(kind, name)
        file["mean"] = mean
        file["classes"] = hdf5.fixed_list(classes)
    write_atomically(path, image.getbuffer())


class Checkpoint:
    """What a checkpoint holds: settings and state (dicts), mean, classes, and arrays[kind][name].

    Raises CpnetError for a file that is not a checkpoint.
    """

    def __init__(self, path):
        self.path = path
        with hdf5.reading(path, "checkpoint", CpnetError) as file:
            if hdf5.kind(file) != FORMAT:
                raise CpnetError(f"{path}: is an HDF5 file but not a checkpoint of this program")
            if file.attrs["version"] != VERSION:
                raise CpnetError(f"{path}: has version {file.attrs['version']}, this program reads "
                                 f"version {VERSION}")
            self.settings, self.state = (hdf5.json_object(file.attrs[key]) for key in ("settings", "state"))
            self.mean = file["mean"][()]
            self.classes = hdf5.texts(file["classes"])
            self.arrays = {kind: _read(file, kind) for kind in KINDS}
        if not isinstance(self.mean, np.ndarray) or self.mean.dtype.kind != "f" or not _finite(self.mean):
            raise CpnetError(f"{path}: its mean holds values that are not finite; is it whole?")

    def run(self):
        """The Settings of the run that wrote it. Raises CpnetError, naming the key, if they are no run's."""
        return settings.read(self.path, self.settings)

    def net(self):
        """The Settings, of which all but the net may be missing: imported weights come from no run.

        Raises CpnetError, too, where mean image or classes are not those of such a net.
        """
        found = settings.read(self.path, self.settings, needed=["table"])
        table = nets.build(**found.table)
        if len(self.classes) != table.settings["classes"]:
            raise CpnetError(f"{self.path}: names {len(self.classes)} classes, and its net has "
                             f"{table.settings['classes']}; is it whole?")
        if not table.takes(self.mean.shape):
            raise CpnetError(f"{self.path}: its mean image is {'×'.join(map(str, self.mean.shape))}, and its "
                             f"net was made for crops of {'×'.join(map(str, table.image))}; is it whole?")
        return found

    def table(self):
        """The Table of its net."""
        return nets.build(**self.net().table)

    def filters(self):
        """conv1's weights (F, C, R, S). Raises CpnetError if they are not those of its net."""
        name = "conv1.weight"
        found = {key: array for key, array in self.arrays["values"].items() if key == name}
        check_arrays(self.path, found, {name: self.table().parameters()[name]})
        return found[name]

    def restore(self, network, kinds=KINDS):
        """Give `network` the arrays. Raises CpnetError, naming a difference, if they are of another net."""
        for kind in kinds:
            check_arrays(self.path, self.arrays[kind], network.kinds[kind])
            for name, array in self.arrays[kind].items():
                network.set(kind, name, array)

    def initialise(self, network, replace=()):
        """Give `network` the trained values. The layers named in `replace` keep the values that they have.

        Raises CpnetError for a layer that the net does not have, and for arrays that do not fit and are not
        replaced. It also does so for a net of another profile, in which the same weights mean something else.
        """
        profile = self.table().settings["profile"]
        if profile != network.table.settings["profile"]:
            raise CpnetError(f"{self.path}: was trained with --profile {profile}: give that")
        unknown = set(replace) - set(map(layer_of, network.parameters))
        if unknown:
            raise CpnetError(f"--replace {min(unknown)}: the net has no such layer with weights")
        for kind in TRAINED:
            fresh = {name: network.get(kind, name) for name in network.kinds[kind]
                     if layer_of(name) in replace}
            trained = {name: array for name, array in self.arrays[kind].items()
                       if layer_of(name) not in replace}
            try:
                check_arrays(self.path, fresh | trained, network.kinds[kind])
            except CpnetError as error:
                raise CpnetError(f"{error}; --replace LAYER starts a layer afresh") from None
            for name, array in trained.items():
                network.set(kind, name, array)


def _read(file, kind):
    """{name: array} of a kind; empty for "state" where the net has none."""
    group = file[kind] if kind in file or kind != "state" else {}
    return {name: np.asarray(group[name][()]) for name in group}


def _finite(array):
    """Whether all of an array's values are numbers that float32 has."""
    with np.errstate(over="ignore"):
        return bool(np.isfinite(array.astype(np.float32)).all())


def check_arrays(path, arrays, parameters):
    """Raises CpnetError unless the arrays of `path` are finite, with the names and shapes of `parameters`."""
    for name in sorted({*arrays, *parameters}):
        if name not in arrays or name not in parameters:
            raise CpnetError(f"{path}: is of another net: {name} is only in "
                             f"{'the file' if name in arrays else 'the net'}")
        if arrays[name].shape != parameters[name].shape:
            raise CpnetError(f"{path}: is of another net: {name} is {arrays[name].shape} there, "
                             f"{parameters[name].shape} in the net")
        if arrays[name].dtype.kind != "f" or not _finite(arrays[name]):
            raise CpnetError(f"{path}: {name} holds values that are not finite")

"""What the command line's parsers share: errors of one line, checked numbers, and the options of several commands."""
import argparse
import dataclasses
import difflib
import os

from cpnet import nets
from cpnet.errors import fail
from cpnet.kinds import Choice, Flag, positive
from cpnet.settings import OPTIONS

LOADER_THREADS = max(1, (os.cpu_count() or 1) // 4)


class Formatter(argparse.HelpFormatter):
    """Names every default, but for those of switches and those that the help describes in words."""

    def _get_help_string(self, action):
        if action.nargs == 0 or not action.default or action.default == argparse.SUPPRESS or "(default" in action.help:
            return action.help
        return f"{action.help.removesuffix('.')} (default: %(default)s)."


class Parser(argparse.ArgumentParser):
    """One line an error, and the nearest valid option to one that does not exist."""

    def __init__(self, **options):
        super().__init__(allow_abbrev=False, formatter_class=Formatter, **options)

    def parse(self, words):
        options, unknown = self.parse_known_args(words)
        if unknown:
            known = [name for action in self._actions for name in action.option_strings]
            near = difflib.get_close_matches(unknown[0].split("=")[0], known, 1, 0)
            self.error(f"there is no option {unknown[0]}: did you mean {near[0]}? --help lists them all")
        return options

    def error(self, message):
        raise SystemExit(fail(message, 2))


def net_options(net, ablations):
    """Add the options that choose a net, and those that leave out one of the paper's ideas, to two groups of a parser."""
    net.add_argument(
        "--net", help=f"Use this net: {', '.join(nets.NETS)} (default: alexnet, or mini for small images).")
    net.add_argument(
        "--profile", default="paper",
        help="Follow the paper; or as-run, what the authors' own code did otherwise; or, for weights from Caffe, one of its "
             f"two nets. One of {', '.join(nets.PROFILES)}.")
    ablations.add_argument(
        "--activation", default="relu", help=f"Use this non-linearity: {' or '.join(nets.ACTIVATIONS)}.")
    ablations.add_argument("--no-lrn", dest="lrn", action="store_false", help="Leave out response normalization.")
    ablations.add_argument(
        "--pool", default="3x3s2",
        help="Pool windows of this size and distance: 3x3s2 overlap, 2x2s2 do not. One of "
             f"{', '.join(nets.POOLS)}.")
    ablations.add_argument("--no-dropout", dest="dropout", action="store_false", help="Leave out dropout.")
    ablations.add_argument(
        "--no-exchange", dest="exchange", action="store_false",
        help="Do not let the columns communicate before the last layer.")
    ablations.add_argument("--drop-layer", help="Leave out this convolution between others: conv3 or conv4.")


NET_SETTINGS = "profile", "activation", "lrn", "pool", "dropout", "exchange", "drop_layer"


def net_settings(options):
    """What `net_options` brought, as arguments of `nets.build`."""
    return {name: getattr(options, name) for name in NET_SETTINGS}


def place_options(parser):
    """Options that say where to compute, and by how many threads."""
    parser.add_argument(
        "--devices",
        help="Compute on cpu, or on GPUs by number: 0; or 0,1, which places each column on a GPU of its own; 0,0 and cpu,cpu "
             "place both on one (default: the best there is, and it says which).")
    parser.add_argument("--threads", type=positive, help="Use this many CPU threads to compute (default: one a core).")


def device_options(parser):
    """The same, with the precision, and the threads that read images."""
    place_options(parser)
    for name in "math", "loader_threads":
        settings_option(parser, name)


def settings_option(parser, name):
    """Add the option of a setting (settings.py) to a parser, or to a group of one."""
    how = OPTIONS[name].metadata
    text = how["help"].replace("%", "%%")
    if how["derived"]:
        text = f"{text[:-1]} (default: {how['derived']})."
    options = {"dest": name, "help": text}
    default = OPTIONS[name].default if OPTIONS[name].default is not dataclasses.MISSING else OPTIONS[name].default_factory()
    options["default"] = LOADER_THREADS if name == "loader_threads" else None if how["derived"] else default
    if isinstance(how["kind"], Flag):
        options["action"] = "store_false" if default else argparse.BooleanOptionalAction
    elif isinstance(how["kind"], Choice):
        options |= {"choices": how["kind"].words}
    else:
        options |= {"type": how["kind"], "metavar": how["metavar"]}
    parser.add_argument(how["name"] or f"--{name.replace('_', '-')}", **options)

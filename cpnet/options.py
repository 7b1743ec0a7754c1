"""What the command line's parsers share: errors of one line, checked numbers, and the options of several commands."""
import argparse
import difflib
import math
import os
import sys


class Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Names every default, but for those that the help describes in words."""

    def _get_help_string(self, action):
        return action.help if action.default is None else super()._get_help_string(action)


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


def fail(message, code=1):
    """Print an error as one line; returns the exit code."""
    print("error: " + " ".join(str(message).split()), file=sys.stderr)
    return code


def number(kind, low, what, *, strict=False):
    """An argument type: a finite `kind` of at least (`strict`: above) `low`."""
    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not (value > low if strict else value >= low) or math.isinf(value):
            raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
        return value
    return parse


whole, positive = number(int, 0, "a whole number, 0 or more"), number(int, 1, "a whole number above 0")
above_zero, zero_or_more = number(float, 0, "a number above 0", strict=True), number(float, 0, "a number, 0 or more")


def share(text):
    """An argument type: 0.1% or 0.001 → 0.001."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share such as 0.1% or 0.001")
    return value


def net_options(parser):
    """Options that choose a net."""
    parser.add_argument("--net", help="alexnet, alexnet-one-column, alexnet-conv6, mini, mini-one-column, mini-conv6, "
                                      "four-layer (default: by the images)")
    parser.add_argument("--profile", default="paper", help="paper; as-run: what the authors' own code did otherwise; "
                                                               "caffe-alexnet, caffenet: for weights from Caffe")
    parser.add_argument("--activation", default="relu", help="relu or tanh (figure 1)")
    parser.add_argument("--no-lrn", dest="lrn", action="store_false", help="leave out response normalization")
    parser.add_argument("--pool", default="3x3s2", help="windows of 3×3, 2 apart, or 2x2s2, which do not overlap")
    parser.add_argument("--no-dropout", dest="dropout", action="store_false", help="leave out dropout")
    parser.add_argument("--no-exchange", dest="exchange", action="store_false",
                        help="the columns never communicate before the last layer")
    parser.add_argument("--drop-layer", help="leave out a convolution between others: conv3 or conv4")


def net_settings(options):
    """What `net_options` brought, as arguments of `nets.build`."""
    return {name: getattr(options, name)
            for name in ("profile", "activation", "lrn", "pool", "dropout", "exchange", "drop_layer")}


def device_options(parser):
    """Options that say where to compute."""
    parser.add_argument("--devices",
                        help="cpu; GPUs by number: 0; 0,1 places each column on its own (0,0 and cpu,cpu do so on one) "
                             "(default: the best there is, which it says)")
    parser.add_argument("--math", choices=("fp32", "tf32"), default="fp32",
                        help="of products on GPUs with tensor cores: as exact as float32, or faster by TF32, to 3 digits")
    parser.add_argument("--threads", type=positive, help="CPU threads that compute (default: one a core)")
    parser.add_argument("--loader-threads", type=positive, default=max(1, (os.cpu_count() or 1) // 4),
                        help="CPU threads that read and prepare images")

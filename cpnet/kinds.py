"""The kinds of values that options and settings have: how each is typed, and which values a file may hold."""
import argparse
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from operator import eq

from cpnet.errors import CpnetError


@dataclass(frozen=True)
class Kind:
    """Which values an option or a setting may have. A Kind can be the `type` of an option in argparse."""
    says: str  # the end of the sentence "'x' is not …"
    parse: Callable  # typed text → value; ValueError if it is none
    holds: Callable  # whether a value, perhaps one read from a file, is of this kind
    text: Callable = str  # value → the text that one types for it
    same: Callable = eq  # whether two values mean the same

    def __call__(self, typed):
        try:
            value = self.parse(typed)
        except ValueError:
            value = None
        except CpnetError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        if value is None or not self.holds(value):
            raise argparse.ArgumentTypeError(f"{typed!r} is not {self.says}")
        return value


MOST = 2**31 - 1  # of whole numbers: arrays and their sizes are counted in such


def number(kind, low, says, *, strict=False):
    """The Kind of a finite int or float that is at least (`strict`: above) `low`. An int is at most MOST."""
    def holds(value):
        if type(value) not in (int, kind) or type(value) is int and abs(value) > MOST:
            return False
        return math.isfinite(value) and (value > low if strict else value >= low)

    def parse(typed):
        try:
            return kind(typed)
        except OverflowError:
            raise ValueError from None
    return Kind(says, parse, holds)


def _share(typed):
    """0.1% or 0.001 → 0.001"""
    return float(typed.removesuffix("%")) / (100 if typed.endswith("%") else 1)


def _names(typed):
    """fc7,fc8 → ["fc7", "fc8"]"""
    return [name.strip() for name in typed.split(",")]


def _factors(typed):
    """conv1=0.1,fc8=2 → {"conv1": 0.1, "fc8": 2.0}"""
    factors = {}
    for part in typed.split(","):
        name, factor = part.split("=")
        factors[name.strip()] = float(factor)
    return factors


def _are_names(value):
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _are_factors(value):
    return isinstance(value, dict) and all(zero_or_more.holds(factor) for factor in value.values())


def _factors_text(value):
    return ",".join(f"{name}={factor:g}" for name, factor in value.items())


def _is_path(value):
    return isinstance(value, str) and value.strip() != "" and "\0" not in value


def _is_name(value):
    return _is_path(value) and os.path.basename(value) == value and value not in (".", "..")


def _same_file(one, other):
    return os.path.realpath(one) == os.path.realpath(other)


whole = number(int, 0, f"a whole number, 0 or more, at most {MOST}")
positive = number(int, 1, f"a whole number above 0, at most {MOST}")
above_zero = number(float, 0, "a number above 0", strict=True)
zero_or_more = number(float, 0, "a number, 0 or more")
share = Kind("a share such as 0.1% or 0.001", _share, lambda value: zero_or_more.holds(value) and value <= 1)
word = Kind("text", str, lambda value: isinstance(value, str))
filename = Kind("the name of a file", os.path.expanduser, _is_path, same=_same_file)
run_name = Kind("a name such as mini-2, without a folder", str, _is_name)
flag = Kind("true or false", None, lambda value: isinstance(value, bool))
names = Kind("a list of names such as fc7,fc8", _names, _are_names, ",".join)
factors = Kind("a list of layers and factors such as conv1=0.1,fc8=2", _factors, _are_factors, _factors_text)

"""What the value of an option or a setting may be: read from the command line's text, or checked as a file has it."""
import argparse
import math


class Kind:
    """Values of the type `type`; `what` they are, in words."""

    def __init__(self, type, what):
        self.type, self.what = type, what

    def __call__(self, text):
        """The value that a text is, as argparse asks for it."""
        return self.type(text)

    def problem(self, value):
        """Why a value that was read from a file is none; "" if it is one."""
        return "" if isinstance(value, self.type) else f"{value!r} is not {self.what}"


class Text(Kind):
    """Any text."""

    def __init__(self):
        super().__init__(str, "a text")


class Number(Kind):
    """A finite number of at least `low`, or above it; of type int or float."""

    def __init__(self, type, low, *, above=False):
        limit = f" above {low}" if above or (type is int and low) else f", {low} or more"
        if type is int and low == 1:
            limit = " above 0"
        super().__init__(type, f"a {'whole ' * (type is int)}number{limit}")
        self.low, self.above = low, above

    def _fits(self, value):
        return math.isfinite(value) and (value > self.low if self.above else value >= self.low)

    def __call__(self, text):
        try:
            value = self.type(text)
        except ValueError:
            value = math.nan
        if not self._fits(value):
            raise argparse.ArgumentTypeError(f"{text!r} is not {self.what}")
        return value

    def problem(self, value):
        number = isinstance(value, int if self.type is int else int | float) and not isinstance(value, bool)
        return "" if number and self._fits(value) else f"{value!r} is not {self.what}"


class Share(Kind):
    """A share: 0.1% or 0.001."""

    def __init__(self):
        super().__init__(float, "a share such as 0.1% or 0.001")

    def __call__(self, text):
        try:
            value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            value = math.nan
        if self.problem(value):
            raise argparse.ArgumentTypeError(f"{text!r} is not {self.what}")
        return value

    def problem(self, value):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return "" if number and 0 <= value <= 1 else f"{value!r} is not {self.what}"


class Choice(Kind):
    """One of some words."""

    def __init__(self, words):
        super().__init__(str, f"one of {', '.join(words)}")
        self.words = tuple(words)

    def problem(self, value):
        return "" if value in self.words else f"{value!r} is not {self.what}"


class Flag(Kind):
    """Yes or no."""

    def __init__(self):
        super().__init__(bool, "true or false")


class Names(Kind):
    """Names, separated by commas."""

    def __init__(self):
        super().__init__(list, "a list of names")

    def __call__(self, text):
        return [name.strip() for name in text.split(",")]

    def problem(self, value):
        good = isinstance(value, list) and all(isinstance(name, str) for name in value)
        return "" if good else f"{value!r} is not {self.what}"


class Factors(Kind):
    """{layer: factor}: conv1=0.1,fc8=2."""

    def __init__(self):
        super().__init__(dict, "layers and factors, such as conv1=0.1,fc8=2")

    def __call__(self, text):
        try:
            factors = {name.strip(): float(factor) for name, factor in (part.split("=") for part in text.split(","))}
        except ValueError:
            factors = {}
        if not factors or self.problem(factors):
            raise argparse.ArgumentTypeError(f"{text!r} does not give {self.what}")
        return factors

    def problem(self, value):
        good = isinstance(value, dict) and all(isinstance(factor, int | float) and 0 <= factor < math.inf
                                               for factor in value.values())
        return "" if good else f"{value!r} is not {self.what}"


whole, positive = Number(int, 0), Number(int, 1)
above_zero, zero_or_more = Number(float, 0, above=True), Number(float, 0)
share, names = Share(), Names()

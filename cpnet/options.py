"""What the parsers of all commands share: errors of one line, defaults in the help, settings as options."""
import argparse
import difflib
import textwrap
from copy import copy
from dataclasses import fields, replace
from typing import NamedTuple

from cpnet import kinds, nets
from cpnet.errors import CpnetError, fail
from cpnet.settings import DEVICE, GROUPS, Item, NetSettings, Settings


class Formatter(argparse.HelpFormatter):
    """Ends an option's help with its default, if that is a value: not nothing, and not yes or no."""

    def _get_help_string(self, action):
        value = action.default
        if value in (None, argparse.SUPPRESS, [], {}) or isinstance(value, bool):
            return action.help
        return f"{action.help} Default: %(default)s."

    def _split_lines(self, text, width):
        return textwrap.wrap(text, width, break_on_hyphens=False)


class Parser(argparse.ArgumentParser):
    """The parser of one command. Each error is one line. For an unknown option it names the nearest one."""

    def __init__(self, command, arguments, description, epilog=""):
        """arguments: what stands behind the command in the line of its usage, such as "CHECKPOINT"."""
        words = [f"python run.py {command}", arguments, "[options]"]
        super().__init__(prog=words[0], usage=" ".join(filter(None, words)), description=description,
                         epilog=epilog, allow_abbrev=False, add_help=False, formatter_class=Formatter)
        self.add_argument("-h", "--help", action="help", help="Prints this help.")

    def parse(self, words):
        """The options among `words`, and the defaults of all others."""
        for word in words:
            option, given, value = word.partition("=")
            # of which argparse would make an empty list
            if option.startswith("--") and given and value == "--":
                self.error(f"argument {option}: '--' is no value for it")
        options, unknown = self.parse_known_args(words)
        if unknown and not unknown[0].startswith("-"):
            self.error(f"{unknown[0]!r} is one word too many; --help shows what the command takes")
        if unknown:
            known = [name for action in self._actions for name in action.option_strings]
            near = difflib.get_close_matches(unknown[0].split("=")[0], known, 1, 0)
            self.error(f"there is no option {unknown[0]}: did you mean {near[0]}? --help lists them all")
        return options

    def given(self, words):
        """{dest: spelling} of the options that `words` themselves name."""
        typed = {word.split("=")[0] for word in words}
        spellings = {}
        for action in self._actions:
            for spelling in typed.intersection(action.option_strings):
                spellings[action.dest] = spelling
        return spellings

    def error(self, message):
        raise SystemExit(fail(message, 2))


def add_threads(parser, work, old_spelling=None):
    """Add --threads, for threads that do the `work`. An old spelling still works, unseen in the help."""
    parser.add_argument("--threads", type=kinds.positive, metavar="N",
                        help=f"Uses N threads of the CPU to {work}. Default: one for each core.")
    if old_spelling:
        parser.add_argument(old_spelling, dest="threads", type=kinds.positive, default=argparse.SUPPRESS,
                            help=argparse.SUPPRESS)


class Option(NamedTuple):
    """A setting that is an option of the command line."""
    name: str  # the setting's
    item: Item
    of_net: bool  # whether it is one of NetSettings


def _options():
    """{dest: Option} of all settings that are options."""
    found = {}
    for kind in NetSettings, Settings:
        for each in fields(kind):
            item = each.metadata["item"]
            if item.option:
                found[item.dest or each.name] = Option(each.name, item, kind is NetSettings)
    return found


OPTIONS = _options()
OF_NET = [dest for dest, option in OPTIONS.items() if option.of_net]
OF_DEVICE = "devices", "math", "loader_threads"


def add_settings(parser, chosen=tuple(OPTIONS)):
    """Add the options `chosen` to a parser, in groups. Returns {name of a group: argparse's group}."""
    groups = {}
    for name in GROUPS:
        members = [dest for dest in chosen if OPTIONS[dest].item.group == name]
        if members:
            groups[name] = parser.add_argument_group(name)
        for dest in members:
            _add_option(groups[name], dest, OPTIONS[dest].item)
    return groups


def _add_option(group, dest, item):
    shown = {"dest": dest, "help": item.text.replace("%", "%%")}
    if item.kind is not kinds.flag:
        shown.update(type=item.kind, default=copy(item.default), metavar=item.metavar)
    elif item.default:  # --no-…
        shown.update(action="store_false")
    else:
        shown.update(action=argparse.BooleanOptionalAction, default=False)
    group.add_argument(item.option, **shown).help = shown["help"]  # some Pythons add to it


def add_devices(parser):
    """Add the options that say where a net runs."""
    add_threads(add_settings(parser, OF_DEVICE)[DEVICE], "compute")


def net_settings(options):
    """The net's settings among the options, except for its name: arguments of `nets.build`."""
    return {OPTIONS[dest].name: getattr(options, dest) for dest in OF_NET if dest != "net"}


def resumed(settings, options, given):
    """The `settings` of a run, with those options that may change when it is resumed.

    given: {dest: spelling} of the options that were typed. One of them that may not change must have the
    value of the run. Raises CpnetError, naming both values, if it has another.
    """
    changes = {}
    for dest in OPTIONS.keys() & given.keys():
        option, new = OPTIONS[dest], getattr(options, dest)
        old = _value(settings, option)
        if option.item.may_change:
            changes[option.name] = new
        elif old is None or not option.item.kind.same(new, old):
            here, there = _spoken(option.item, new, given[dest]), _spoken(option.item, old)
            raise CpnetError(f"{here}, but the run has {there}, and this cannot change with --resume; leave "
                             "the option out, or start another run")
    return replace(settings, **changes)


def as_words(settings, leave_out=()):
    """The options that make these settings, as one types them. Those with usual values are left out."""
    net = nets.build(**settings.table)
    profile = nets.PROFILES[net.settings["profile"]]
    usual = {"lr": net.rate, "decay": net.decay, "epochs": profile.epochs, "schedule": profile.schedule}
    words = []
    for option in sorted(OPTIONS.values(), key=lambda option: GROUPS.index(option.item.group)):
        value = _value(settings, option)
        if option.name in leave_out or value is None or value == usual.get(option.name, option.item.default):
            continue
        words.append(option.item.option)
        if option.item.kind is not kinds.flag:
            words.append(option.item.kind.text(value))
    return words


def _value(settings, option):
    """What the settings of a run say of an option."""
    if option.of_net:
        return settings.table.get(option.name, option.item.default)
    return settings[option.name]


def _spoken(item, value, spelling=None):
    """An option with its value as one types it, or "no --option"."""
    option = spelling or item.option
    if value in (None, [], {}) or item.kind is kinds.flag and value == item.default:
        return f"no {option}"
    return option if item.kind is kinds.flag else f"{option} {item.kind.text(value)}"

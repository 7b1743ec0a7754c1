"""Kernel text: what has to be rewritten for g++, and which kernels it defines."""

import os
import re

from .errors import CuemuError

_COMMENT_OR_STRING = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"', re.S)
_ALIGNMENT = r"(?:(?:__align__|alignas)\s*\(\s*\d+\s*\))?"
_DYNAMIC_SHARED = re.compile(rf"\bextern\s+__shared__\s+{_ALIGNMENT}([^;\[\]]*?)(\w+)\s*\[\s*\]\s*;")
_STATIC_SHARED = re.compile(r"\b__shared__\s+([^;]+);")
_UNROLL = re.compile(r"^[ \t]*#[ \t]*pragma[ \t]+unroll\b[ \t]*\(?[ \t]*(\w*)[ \t]*\)?[ \t]*$", re.M)


def flatten(path, _seen=None):
    """The text of a file with every #include "..." in place, and #line directives so that faults name their line."""
    seen = set() if _seen is None else _seen
    name, folder = os.path.basename(path), os.path.dirname(path)
    lines = [f'#line 1 "{name}"']
    with open(path, encoding="utf-8") as file:
        text = file.read()
    for number, line in enumerate(text.split("\n"), 1):
        include = re.match(r'\s*#\s*include\s+"([^"]+)"', line)
        if not include:
            lines.append(line)
            continue
        included = os.path.normpath(os.path.join(folder, include[1]))
        if included not in seen:
            seen.add(included)
            lines.append(flatten(included, seen))
        lines.append(f'#line {number + 1} "{name}"')
    return "\n".join(lines)


def without_comments(text):
    """The text with comments blanked out; every other character keeps its place."""

    def blank(match):
        return match[0] if match[0][0] == '"' else re.sub(r"[^\n]", " ", match[0])

    return _COMMENT_OR_STRING.sub(blank, text)


def closing(text, start):
    """The position of the bracket that closes the one at `start`."""
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] in "([{") - (text[i] in ")]}")
        if not depth:
            return i
    raise CuemuError("source", "a bracket is never closed: " + text[start : start + 60])


def split_at_commas(text):
    """Split at the commas that are in no bracket."""
    parts, depth = [""], 0
    for c in text:
        depth += (c in "([{<") - (c in ")]}>")
        if c == "," and not depth:
            parts.append("")
        else:
            parts[-1] += c
    return [part.strip() for part in parts]


def for_host(text, unroll):
    """The text with the things changed that macros cannot: declarations of shared memory and #pragma unroll."""

    def dynamic(match):
        return f"CUEMU_DYNAMIC_SHARED({match[2]}, {match[1].strip()});"

    def static(match):
        first, *others = split_at_commas(match[1])
        # int a[8], b, c[2][4]: the type is all that stands before the first name
        parsed = re.fullmatch(r"(.*?[\s>)])(\w+)\s*((?:\[.*\])?)", first, re.S)
        if not parsed or "=" in match[1]:
            raise CuemuError("source", f"cannot make sense of the declaration {match[0]!r}")
        kind = parsed[1].strip()
        out = []
        for part in [parsed[2] + parsed[3], *others]:
            name = re.match(r"\w+", part)[0]
            out.append(f"CUEMU_SHARED({name}, {kind} {part});")
        return " ".join(out)

    text = without_comments(text)
    text = _DYNAMIC_SHARED.sub(dynamic, text)
    text = _STATIC_SHARED.sub(static, text)
    return _UNROLL.sub(lambda match: f"#pragma GCC unroll {match[1] or unroll}" if unroll else "", text)


def kernels(text):
    """{name: [(name of parameter), ...]} of all __global__ functions, and the names of those that are extern "C"."""
    text = without_comments(text)
    parameters, plain = {}, []
    for found in re.finditer(r'(extern\s+"C"\s+)?__global__\s', text):
        at = found.end()
        while True:  # the name is the first word before a bracket that is not an attribute
            word = re.compile(r"(\w+)\s*\(").search(text, at)
            if not word:
                raise CuemuError("source", "a __global__ without a name and parameters")
            end = closing(text, word.end() - 1)
            if word[1] not in ("__launch_bounds__", "__align__", "__attribute__"):
                break
            at = end
        names = [re.search(r"(\w+)\s*(?:=.*)?$", part) for part in split_at_commas(text[word.end() : end])]
        parameters[word[1]] = [name[1] for name in names if name]
        if found[1] and word[1] not in plain:
            plain.append(word[1])
    return parameters, plain

import ast
import re

import pytest

from tests.helpers import ROOT

PLACE = re.compile(r"`([\w/]+\.py):(\w+)`")


@pytest.mark.parametrize("page, least", [("paper-map.md", 30), ("questions.md", 20), ("devices.md", 8), ("winograd.md", 4)])
def test_every_place_that_is_named_exists(page, least):
    places = set(PLACE.findall((ROOT / "docs" / page).read_text()))
    assert len(places) > least
    for path, name in places:
        defined = {node.name for node in ast.walk(ast.parse((ROOT / path).read_text()))
                   if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        assert name in defined, f"{path} defines no {name}"


def test_a_missing_place_would_be_found():
    assert PLACE.findall("| x | `cpnet/nets.py:alexnett`, `run.py:train_parser` |") == [
        ("cpnet/nets.py", "alexnett"), ("run.py", "train_parser")]

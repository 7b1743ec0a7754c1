import ast
import re

from tests.helpers import ROOT

PLACE = re.compile(r"`([\w/]+\.py):(\w+)`")


def test_every_place_on_the_map_exists():
    places = set(PLACE.findall((ROOT / "docs" / "paper-map.md").read_text()))
    assert len(places) > 30
    for path, name in places:
        defined = {node.name for node in ast.walk(ast.parse((ROOT / path).read_text()))
                   if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        assert name in defined, f"{path} defines no {name}"


def test_a_missing_place_would_be_found():
    assert PLACE.findall("| x | `cpnet/nets.py:alexnett`, `run.py:train_parser` |") == [
        ("cpnet/nets.py", "alexnett"), ("run.py", "train_parser")]

"""The figures of docs/devices.md follow from the net's table."""
import re
from math import prod

from cpnet.nets import build
from tests.helpers import ROOT

BATCH = 128
ROW = re.compile(r"^\| (\w+) \| ([^|]+), (each way|from 1 to 0) \| ([\d.]+) \| their gradients, [^|]+ \| ([\d.]+) \|$", re.M)


def test_what_crosses():
    text = (ROOT / "docs" / "devices.md").read_text()
    table = build("alexnet")
    crossing = {}
    for layer, shape, _ in list(table.shapes())[1:]:
        if layer.reads == "all":
            megabytes = f"{prod(shape) / 2 * BATCH * 4 / 1e6:.2f}"
            crossing[layer.name] = ("from 1 to 0" if layer.undivided else "each way"), megabytes, megabytes
    assert {name: (way, *figures) for name, _, way, *figures in ROW.findall(text)} == crossing
    assert f"| crops of 224×224, one byte for each colour of a pixel | {prod(table.image) * BATCH / 1e6:.2f} |" in text

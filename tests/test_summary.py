import pytest

from cpnet import nets
from cpnet.gpu.devices import named
from cpnet.network import Network
from cpnet.summary import summary, totals


def lines(name, where="cpu", **options):
    table = nets.build(name, **options)
    return summary(table, named(where, table.columns)).splitlines()


def test_the_paper_s_net():
    text = lines("alexnet", "cpu,cpu")
    rows = {line.partition("  ")[0]: line.split() for line in text}
    assert rows["conv1"] == ("conv1 conv 11×11, stride 4, pad 0+3 all 96×55×55 290,400 34,944 105,415,200 0–47 48–95").split()
    assert rows["conv2"] == "conv2 conv 5×5, pad 2 column 256×27×27 186,624 307,456 223,948,800 0–127 128–255".split()
    assert rows["conv1 pool"] == "conv1 pool max pool 3×3, stride 2 96×27×27 0–47 48–95".split()
    assert rows["fc6"] == "fc6 fully connected all 4096 4,096 37,752,832 37,748,736 0–2047 2048–4095".split()
    assert rows["fc8"] == "fc8 fully connected all 1000 1,000 4,097,000 4,096,000 0–999 –".split()
    assert rows["total"] == "total 659,272 60,965,224 724,406,816".split()
    assert text[0] == "alexnet, profile paper: images of 3×224×224, 1,000 classes"


@pytest.mark.parametrize("name", nets.NETS)
def test_it_fits_on_a_screen(name):
    assert max(map(len, lines(name))) <= 120


@pytest.mark.parametrize("name, where, owned", [
    ("mini", "cpu", ["columns 1 and 2, the whole of fc8"]), ("mini", "cpu,cpu", ["column 1, the whole of fc8", "column 2"]),
    ("four-layer", "cpu", ["column 1"])])
def test_what_each_device_holds(name, where, owned):
    table = nets.build(name, (3, 28, 28), 10)
    placed = named(where, table.columns)
    network = Network(table, placed)
    last = summary(table, placed).splitlines()[-len(placed):]
    for d, (line, columns) in enumerate(zip(last, owned, strict=True)):
        held = sum(segment.of(network.values[d]).size for segment in network.segments[d])
        assert line == f"device {d} (cpu): {columns}; {held:,} parameters"


def test_totals_count_what_the_network_holds():
    for name in "mini", "four-layer":
        table = nets.build(name, (1, 28, 28), 10)
        network = Network(table, named("cpu", table.columns))
        assert totals(table)[1] == sum(network.get("values", key).size for key in network.parameters)

"""The list of a step's launches: what it counts, and that recording changes nothing. Emulated GPUs and shapes alone."""
import json
from types import SimpleNamespace

import numpy as np
import pytest

from bench import kernels, launches
from cpnet import nets
from cpnet.gpu.platform import _platforms
from cpnet.network import Network
from cpnet.ops.conv import passes
from cpnet.step import Step
from cpnet.summary import totals
from tests import cuemu, device
from tests.device import RUNNER, DeviceArray, host
from tests.gpus import tiny
from tests.test_graph import batches


@pytest.fixture(scope="module")
def alexnet():
    """A step of the paper's net at a batch of 128."""
    return kernels.record_step(None, 128)[0]


def total(found, key, **which):
    return sum(getattr(each, key) for each in found if all(getattr(each, name) == value for name, value in which.items()))


def test_operations(alexnet):
    """Of the whole step: three products a layer, two for the first, taps in the padding left out; those are counted here by
    multiplying what one image needs with ones."""
    counted = 0
    for layer, shape, out in nets.build("alexnet").shapes():
        if layer.multiply_adds(shape, 2):
            taps = 1.0
            if len(out) == 3:
                inside = np.zeros((shape[1] + 50, shape[2] + 50))
                inside[20:20 + shape[1], 20:20 + shape[2]] = 1
                first = 20 - layer.pads[0]
                starts = [(first + p * layer.stride, first + q * layer.stride) for p in range(out[1]) for q in range(out[2])]
                taps = np.mean([inside[h:h + layer.size, w:w + layer.size].mean() for h, w in starts])
            counted += 2 * 128 * layer.multiply_adds(shape, 2) * taps * (2 if layer.name == "conv1" else 3)
    assert total(alexnet, "operations") == pytest.approx(counted, rel=1e-12)
    table = nets.build("alexnet")
    whole = 2 * 128 * (3 * totals(table)[2] - table.layers[0].multiply_adds(table.image, 2))
    assert whole == pytest.approx(529e9, rel=0.01) and 0.9 * whole < counted < whole
    assert total(alexnet, "operations", layer="conv2", part="backward") == 2 * total(alexnet, "operations", layer="conv2",
                                                                                    part="forward") > 0


def test_bytes(alexnet):
    parameters = totals(nets.build("alexnet"))[1]
    update = total(alexnet, "bytes", part="update")
    assert 5 * 4 * parameters <= update < 5 * 4 * parameters * 1.001  # w and v read and written, the gradient read
    maps = 4 * 96 * 55 * 55 * 128
    pooled = 4 * 96 * 27 * 27 * 128  # and a byte for each winner
    assert total(alexnet, "bytes", kernel="lrn_pool_forward", layer="conv1 pool") == maps + pooled * 5 // 4
    assert total(alexnet, "bytes", kernel="lrn_pool_backward", layer="conv1 pool") == 2 * maps + pooled * 5 // 4
    sums = 4 * passes.BIAS_BLOCKS  # at most
    assert maps < total(alexnet, "bytes", kernel="conv_bias_gradient", layer="conv1") <= maps + sums  # only read: it is masked
    unfused = kernels.record_step(None, 128, fuse_pools=False)[0]
    assert total(unfused, "bytes", kernel="lrn_forward", layer="conv1 lrn") == 2 * maps
    assert total(unfused, "bytes", kernel="lrn_backward", layer="conv1 lrn") == 3 * maps
    assert 3 * maps < total(unfused, "bytes", kernel="conv_bias_gradient", layer="conv1") <= 3 * maps + sums
    weights, inputs, outputs = 4 * 4096 * 9216, 4 * 128 * 9216, 4 * 128 * 4096
    assert [(each.kernel, each.bytes) for each in alexnet if each.layer == "fc6"] == [
        ("conv_pack", 2 * weights), ("conv_product", weights + inputs + 4 * outputs),  # in four parts, whose sums
        ("conv_sum_parts", 5 * outputs + 4 * 4096),  # are added up with the bias
        ("conv_bias_gradient", outputs + 4 * 4096), ("conv_weight_parts_tensor", weights + inputs + outputs),
        ("conv_product", weights + inputs + outputs)]  # by the weights as they lie
    assert all(each.bytes > 0 for each in alexnet)


def test_recording_changes_nothing_and_shapes_give_the_same_list(rng, monkeypatch):
    cuemu.require()
    monkeypatch.setattr(device, "SEEDS", (1,))
    monkeypatch.setattr(launches, "SHARED", getattr(RUNNER, "shared_memory", 0))  # the same card
    images, labels = batches(rng, 1)[0]
    plain, noted = (Step(Network(tiny(), [device.Emulated("gpu")], seed=3), seed=7) for _ in range(2))
    for _ in range(2):
        plain(images, labels, step=0, rate=0.01)
    platform = launches.Recording(RUNNER)
    monkeypatch.setitem(_platforms, DeviceArray, platform)
    lists = [launches.record(noted, platform, images, labels) for _ in range(2)]
    np.testing.assert_array_equal(host(plain.network.values[0]), host(noted.network.values[0]))
    shapes, nowhere = launches.nowhere()
    dry = Step(Network(tiny(), [nowhere], seed=3), seed=7)
    lists += [launches.record(dry, shapes, *map(nowhere.put, (images, labels))) for _ in range(2)]

    def known(found):
        return [(each.layer, each.part, each.kernel, each.grid, each.bytes, each.operations) for each in found]

    assert known(lists[0]) == known(lists[1]) == known(lists[2]) == known(lists[3])
    assert [each.part for each in lists[0]].count("update") == 1 and lists[0][0].layer == "conv1"
    assert not any({"forward", "backward"} & set(vars(part)) for row in noted.network.rows for part in row.copies)


def test_rows_and_report():
    found = [launches.Launch("a", "forward", "k", (1,), 4_000_000, 0, None),
             launches.Launch("b", "forward", "m", (2, 3), 2_000_000, 3_000_000_000, None)]
    rows = kernels.table_rows(found, 4.0, 100.0, [0.002, 0.06])
    assert [(row["floor_ms"], row["share"], row["bound"]) for row in rows] == [
        (pytest.approx(0.001), pytest.approx(0.5), "memory"), (pytest.approx(0.03), pytest.approx(0.5), "arithmetic")]
    text = kernels.report(rows, False)
    assert text.splitlines()[-1].split() == ["the", "step", "2", "6.0", "3.0", "0.062", "0.031", "50%"]
    predicted = kernels.table_rows(found, 4.0, 100.0)
    assert predicted[0]["ms"] is None and predicted[0]["share"] is None
    assert kernels.report(predicted, True).splitlines()[-1].startswith("PREDICTED")


def test_the_command_without_a_gpu(tmp_path, capsys):
    kernels.main(["--predict", "--batch", "2", "--tflops", "50", "--json", str(tmp_path / "kernels.json")])
    result = json.loads((tmp_path / "kernels.json").read_text())
    assert result["predicted"] and result["ceilings"] == {"TB/s": 4.3, "TFLOP/s": 50.0} and result["batch"] == 2
    assert all(row["ms"] is None and row["floor_ms"] > 0 for row in result["rows"]) and len(result["rows"]) > 60
    out = capsys.readouterr().out
    assert "stated ceilings: 4.30 TB/s, 50 TFLOP/s" in out and "PREDICTED" in out


@pytest.mark.parametrize("words, message", [([], "one of the arguments"), (["--devices", "0", "--predict"], "not allowed with"),
                                            (["--devices", "cpu"], "name one GPU by its number"),
                                            (["--predict", "--batch", "0"], "are above 0")])
def test_settings(words, message, capsys):
    with pytest.raises(SystemExit):
        kernels.parse(words)
    assert message in capsys.readouterr().err


class Clock:
    """CuPy with a clock of its own, which work moves on."""

    def __init__(self):
        self.now, self.cuda = 0.0, self

    def Event(self):
        event = SimpleNamespace(at=None, synchronize=lambda: None)
        event.record = lambda: setattr(event, "at", self.now)
        return event

    def get_elapsed_time(self, start, end):
        return end.at - start.at

    def copyto(self, to, source):
        self.now += 0.5


def test_each_launch_is_timed_in_its_place(monkeypatch):
    clock, ran = Clock(), []

    def work(name, ms):
        def repeat():
            ran.append(name)
            clock.now += ms if len(ran) > 2 else 100  # the first round is slower, and does not count
        return SimpleNamespace(repeat=repeat)

    monkeypatch.setattr(kernels, "product_rate", lambda kind: 99.0)
    monkeypatch.setattr(kernels, "COPY", 1 << 20)
    platform = SimpleNamespace(cupy=clock, empty=np.empty, assign=np.copyto)
    times, bandwidth, tflops = kernels.measure(platform, [work("a", 2.0), work("b", 3.0)], "fp32", 3)
    assert (times, tflops, ran) == ([2.0, 3.0], 99.0, ["a", "b"] * 4)
    assert bandwidth == pytest.approx(2 * kernels.COPY / 0.5 / 1e9)

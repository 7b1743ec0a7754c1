"""bench.prepare on a handful of images: the figures are there and fit together."""
import json

import pytest

from bench import prepare


def test_bench_prepare(tmp_path, capsys):
    (tmp_path / "work").mkdir()
    prepare.main(["--images", "20", "--rounds", "1", "--store", "jpeg", "--folder", str(tmp_path / "work"),
                  "--json", str(tmp_path / "out.json")])
    row, = json.loads((tmp_path / "out.json").read_text())
    assert row["case"] == "prepare-jpeg" and row["images"] == 20 and row["ours"] > 0
    assert row["ratio"] == pytest.approx(row["ours"] / row["peer"], rel=0.02)
    assert row["imagenet_hours"] == pytest.approx(1_331_167 / row["ours"] / 3600, abs=0.02)
    assert 1e7 < row["memory_bytes"] < 1e9 and 20_000 < row["bytes_per_jpeg"] < 300_000
    assert "prepare --store jpeg, 2 workers" in capsys.readouterr().out
    assert list((tmp_path / "work").iterdir()) == []

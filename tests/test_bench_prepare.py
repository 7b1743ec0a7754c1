"""bench.prepare on a handful of images: the figures are there and fit together."""
import json

from bench import prepare


def test_bench_prepare(tmp_path, capsys):
    (tmp_path / "work").mkdir()
    prepare.main(["--images", "20", "--rounds", "1", "--store", "jpeg", "--folder", str(tmp_path / "work"),
                  "--json", str(tmp_path / "out.json")])
    row, = json.loads((tmp_path / "out.json").read_text())
    assert row["case"] == "prepare-jpeg" and row["images"] == 20 and row["ours"] > 0 and row["peer"] > 0
    assert 1e7 < row["memory_bytes"] < 1e9 and 20_000 < row["bytes_per_jpeg"] < 300_000
    assert "prepare --store jpeg, 2 workers" in capsys.readouterr().out
    assert list((tmp_path / "work").iterdir()) == []


def test_what_the_figures_are(monkeypatch):
    """Of three rounds with these seconds for 1,000 images, the medians."""
    seconds = {prepare.ours: iter([(4.0, 100), (2.0, 300), (2.5, 200)]), prepare.pillow: iter([1.0, 5.0, 2.0])}
    monkeypatch.setattr(prepare, "make", lambda source, images: 50_000)
    monkeypatch.setattr(prepare, "in_a_process", lambda work, *arguments: next(seconds[work]))
    row = prepare.measure("folder", 1000, 2, 3, "raw")
    assert (row["ours"], row["peer"], row["ratio"], row["memory_bytes"]) == (400.0, 500.0, 0.8, 300)
    assert row["imagenet_hours"] == round(1_331_167 / 400 / 3600, 2) and row["bytes_per_jpeg"] == 50_000

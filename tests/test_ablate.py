"""The series of runs behind `run.py ablate`: which variants, what is computed from them, and going on where it stopped."""
import json

import pytest

import run as command_line
from cpnet.errors import CpnetError
from cpnet.nets import build
from cpnet.run_folder import RunFolder
from cpnet.settings import Settings
from cpnet.state import LOGGED
from cpnet.studies import ablate
from tests.helpers import small_set


def test_every_variant_is_another_net_or_another_training():
    from cpnet.commands.train import new_settings, parser
    from data.store.dataset import Dataset
    from tests.helpers import BUNDLED
    seen = []
    with Dataset(BUNDLED) as dataset:
        for variant in ablate.VARIANTS:
            words = [*variant.options, *(["--net", "mini-one-column"] if variant.name == "one-column" else ["--net", "mini"])]
            settings = new_settings(parser().parse(words), dataset)
            assert settings not in seen, variant.name
            seen.append(settings)


def test_which_variants_apply():
    def names(*arguments):
        return [variant.name for variant in ablate.variants(*arguments)]

    everything = [variant.name for variant in ablate.VARIANTS]
    assert names([], "mini", True) == names([], "alexnet", True) == everything
    assert names([], "mini", False) == [name for name in everything if name != "no-colour"]
    assert "one-column" not in names([], "alexnet-conv6", True)
    assert names(["no-lrn"], "mini", False) == ["base", "no-lrn"]
    with pytest.raises(CpnetError, match="--only no-lnr: there is no such variant; there are base, no-colour"):
        names(["no-lnr"], "mini", False)


def lines(*errors):
    return "".join(json.dumps({**dict.fromkeys(LOGGED, 1.0), "epoch": k, "val_top1": error, "val_top5": error / 2, "train_top1": error / 4}) + "\n"
                   for k, error in enumerate(errors, 1))


def test_result_of_a_run(tmp_path):
    RunFolder(tmp_path).create(Settings(table=build("mini", (1, 14, 14), 4).settings, data="a.h5", lr=0.1, epochs=4,
                                        decay=0.0, schedule="plateau"))
    (tmp_path / "log.jsonl").write_text(lines(0.5, 0.204, 0.2, 0.3))
    assert ablate.result(tmp_path) == {"val_top1": 0.3, "val_top5": 0.15, "train_top1": 0.075, "converged": 2}


def test_means_spread_and_differences():
    def run(error, converged=3):
        return {"val_top1": error, "val_top5": 0.1, "train_top1": 0.05, "converged": converged}

    rows = ablate.compare({"base": [run(0.2), run(0.22)], "no-lrn": [run(0.23, 4), run(0.25, 6)]})
    assert [row["variant"] for row in rows] == ["base", "no-lrn"]
    assert rows[1]["val_top1"] == pytest.approx(0.24) and rows[1]["spread"] == pytest.approx(0.02 / 2**0.5)
    assert rows[1]["delta"]["val_top1"] == pytest.approx(0.03) and rows[1]["delta"]["converged"] == 2
    text = ablate.table(rows).splitlines()[2]
    assert text.split()[:8] == ["no-lrn", "2", "24.00%", "1.41", "+3.00", "+1.4", "10.00%", "+0.00"]
    assert "normalization aids generalization" in text


def test_a_series_goes_on_where_it_stopped_and_refuses_to_mix(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small_set("squares.h5", train=32, val=8)
    words = ["ablate", "--data", "squares.h5", "--epochs", "1", "--batch", "16", "--only", "no-conv3,one-column", "--runs", "a"]
    assert command_line.main(words) == 0
    rows = json.loads((tmp_path / "a" / "results.json").read_text())
    assert [row["variant"] for row in rows] == ["base", "one-column", "no-conv3"]
    saved = json.loads((tmp_path / "a" / "no-conv3-0" / "config.json").read_text())
    assert saved["table"] == json.loads(json.dumps(build("mini", (1, 14, 14), 4, drop_layer="conv3").settings))
    stamp = (tmp_path / "a" / "base-0" / "checkpoint-last.h5").stat().st_mtime_ns
    capsys.readouterr()
    assert command_line.main([*words, "--seeds", "2"]) == 0
    assert (tmp_path / "a" / "base-0" / "checkpoint-last.h5").stat().st_mtime_ns == stamp  # not trained again
    assert {row["seeds"] for row in json.loads((tmp_path / "a" / "results.json").read_text())} == {2}
    assert "no-conv3" in capsys.readouterr().out
    assert command_line.main([word if word != "1" else "2" for word in words]) == 1
    assert "was begun with epochs 1, not 2" in capsys.readouterr().err

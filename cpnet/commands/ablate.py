"""Train the net without one of the paper's ideas after the other, and compare."""
import json
from pathlib import Path

from cpnet.commands import series, train
from cpnet.commands.common import open_data
from cpnet.files import write_atomically
from cpnet.kinds import names, positive
from cpnet.options import Parser, device_options
from cpnet.studies import ablate


def main(words):
    parser = Parser(prog="run.py ablate", epilog="Interrupted, the same command goes on where it stopped.",
                    description="train the net without one of the paper's ideas after the other; one row of a table each")
    parser.add_argument("--data", help="an .h5 data set (default: as in training)")
    parser.add_argument("--net", help="the net to take apart (default: by the images)")
    parser.add_argument("--epochs", type=positive, default=30, help="of every run")
    parser.add_argument("--batch", type=positive, default=128, help="images an update")
    parser.add_argument("--seeds", type=positive, default=1, help="runs of every variant: seeds 0, 1, …")
    parser.add_argument("--only", type=names, default=[], metavar="VARIANTS",
                        help="some of " + ", ".join(variant.name for variant in ablate.VARIANTS[1:]))
    parser.add_argument("--runs", default="runs/ablate", help="the folder of the series")
    device_options(parser)
    options = parser.parse(words)
    with open_data(options.data) as dataset:
        words = ["--batch", str(options.batch), *(["--net", options.net] if options.net else [])]
        net = train.new_settings(train.parser().parse(words), dataset).table["name"]
        variants = ablate.choose(options.only, net, dataset.channels == 3)
        data = str(Path(dataset.path).resolve())
    series.begin(Path(options.runs) / "ablate.json",
                 {"data": data, "net": net, "epochs": options.epochs, "batch": options.batch})
    shared = ["--data", data, "--epochs", options.epochs, "--batch", options.batch]
    results = {}
    for seed in range(options.seeds):  # a first row of everything before the second seed of anything
        for variant in variants:
            name = f"{variant.name}-{seed}"
            chosen = f"{net}-one-column" if variant.name == "one-column" else net
            code = series.run(options, name, ["--seed", seed, "--net", chosen, *shared, *variant.options])
            if code:
                return code
            results.setdefault(variant.name, []).append(ablate.result(Path(options.runs) / name))
        rows = ablate.compare(results)
        write_atomically(Path(options.runs) / "results.json", json.dumps(rows, indent=1) + "\n")
        print(ablate.table(rows))
    return 0

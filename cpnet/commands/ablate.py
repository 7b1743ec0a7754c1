"""Train the net without each of the paper's ideas in turn, and compare the errors."""
import json
from pathlib import Path

from cpnet.commands import series, train
from cpnet.commands.common import open_data
from cpnet.files import write_atomically
from cpnet.kinds import filename, names, positive
from cpnet.options import Parser, add_devices
from cpnet.studies import ablate


def main(words):
    parser = Parser("ablate", "",
                    "Trains the net once as it is and once without each of the paper's ideas, and prints a "
                    "table that compares them.",
                    "Example: python run.py ablate --epochs 30 --seeds 3. If it is interrupted, the same "
                    "command goes on.")
    parser.add_argument("--data", type=filename, metavar="DATA.h5",
                        help="Trains on this data set. Default: the one that train takes.")
    parser.add_argument("--net", metavar="NET",
                        help="Takes this net apart. Default: the one that train takes.")
    parser.add_argument("--epochs", type=positive, default=30, metavar="N",
                        help="Trains each net for N epochs.")
    parser.add_argument("--batch", type=positive, default=128, metavar="N",
                        help="Updates the weights after every N images.")
    parser.add_argument("--seeds", type=positive, default=1, metavar="N",
                        help="Trains each variant N times, with the seeds 0, 1, and so on.")
    parser.add_argument("--only", type=names, default=[], metavar="VARIANTS",
                        help="Trains only these variants, besides the whole net. "
                             f"There are {', '.join(variant.name for variant in ablate.VARIANTS[1:])}.")
    parser.add_argument("--runs", default="runs/ablate", type=filename, metavar="FOLDER",
                        help="Keeps all of its runs in this folder.")
    add_devices(parser)
    options = parser.parse(words)
    with open_data(options.data) as dataset:
        words = ["--batch", str(options.batch), *(["--net", options.net] if options.net else [])]
        net = train.new_settings(train.parser().parse(words), dataset).table["name"]
        variants = ablate.variants(options.only, net, dataset.channels == 3)
        data = str(Path(dataset.path).resolve())
    settings = {"data": data, "net": net, "epochs": options.epochs, "batch": options.batch}
    with series.begun(Path(options.runs) / "ablate.json", settings):
        return train_all(options, settings, variants)


def train_all(options, settings, variants):
    """Train the Variants, seed by seed, and print the table after each. Returns the exit code."""
    net, shared = settings["net"], []
    for key in "data", "epochs", "batch":
        shared += [f"--{key}", settings[key]]
    results = {}
    for seed in range(options.seeds):  # all variants with the first seed, then all with the second
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

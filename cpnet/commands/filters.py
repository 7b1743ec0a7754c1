"""Draw the first layer's filters: figure 3."""
from pathlib import Path

from cpnet import nets
from cpnet.checkpoint import Checkpoint
from cpnet.options import Parser
from cpnet.studies import filters


def main(words):
    parser = Parser(prog="run.py filters",
                    description="figure 3: the first layer's filters, column 1 above column 2; grey is zero")
    parser.add_argument("checkpoint")
    parser.add_argument("out", metavar="PNG")
    parser.add_argument("--film", metavar="GIF", help="the filters after each epoch of the checkpoint's run, too")
    options = parser.parse(words)
    checkpoint = Checkpoint(options.checkpoint)
    columns = nets.build(**checkpoint.settings["table"]).columns
    weights = checkpoint.arrays["values"]["conv1.weight"]
    filters.save_picture(weights, columns, options.out)
    print(f"{options.out}: {len(weights)} filters of {weights.shape[2]}×{weights.shape[3]}, each scaled by itself")
    if weights.shape[1] == 3:
        for number, share in enumerate(filters.saturation(weights, columns), 1):
            print(f"column {number}: {share:.1%} of the filters' energy is colour")
    if options.film:
        filters.save_film(Path(options.checkpoint).parent, columns, options.film)
        print(f"{options.film}: ready")

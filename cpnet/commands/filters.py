"""Draw the first layer's filters, as figure 3."""
from pathlib import Path

from cpnet.checkpoint import Checkpoint
from cpnet.kinds import filename
from cpnet.options import Parser
from cpnet.studies import filters


def main(words):
    parser = Parser("filters", "CHECKPOINT OUT.png",
                    "Draws the first layer's filters, as figure 3: those of column 1 above those of column "
                    "2. Grey is zero.",
                    "Example: python run.py filters runs/mini-1/checkpoint-best.h5 filters.png")
    parser.add_argument("checkpoint", type=filename, metavar="CHECKPOINT", help="The trained net.")
    parser.add_argument("out", type=filename, metavar="OUT.png", help="The picture to make.")
    parser.add_argument("--film", type=filename, metavar="GIF",
                        help="Also makes a film of the filters after each epoch of the run.")
    options = parser.parse(words)
    checkpoint = Checkpoint(options.checkpoint)
    columns = checkpoint.table().columns
    weights = checkpoint.filters()
    filters.save_picture(weights, columns, options.out)
    print(f"{options.out}: {len(weights)} filters of {weights.shape[2]}×{weights.shape[3]}, "
          "each scaled by itself")
    if weights.shape[1] == 3:
        for number, share in enumerate(filters.saturation(weights, columns), 1):
            print(f"column {number}: {share:.1%} of the filters' energy is colour")
    if options.film:
        filters.save_film(Path(options.checkpoint).parent, columns, options.film)
        print(f"{options.film}: ready")

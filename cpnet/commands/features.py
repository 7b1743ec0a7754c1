"""Write the last hidden layer's activations for all images of a data set."""
from pathlib import Path

from cpnet import state
from cpnet.commands.common import load, open_data
from cpnet.evaluate import see_as_trained
from cpnet.kinds import filename, names, positive
from cpnet.options import Parser, add_devices
from cpnet.studies.features import extract, last_hidden


def main(words):
    parser = Parser("features", "CHECKPOINT DATA.h5 OUT.h5",
                    "Writes the last hidden layer's activations for each image, for the commands neighbours "
                    "and codes.",
                    "Example: python run.py features runs/mini-1/checkpoint-best.h5 my.h5 features.h5. If it "
                    "is interrupted, the same command goes on.")
    parser.add_argument("checkpoint", type=filename, metavar="CHECKPOINT", help="The trained net.")
    parser.add_argument("data", type=filename, metavar="DATA.h5",
                        help="The data set whose images it looks at.")
    parser.add_argument("out", type=filename, metavar="OUT.h5", help="The file to make.")
    parser.add_argument("--splits", type=names, metavar="SPLITS",
                        help="Looks only at these splits. Example: train,test. Default: all that the data "
                             "set has.")
    parser.add_argument("--batch", type=positive, default=128, metavar="N",
                        help="Computes N images at a time.")
    add_devices(parser)
    options = parser.parse(words)
    checkpoint, network = load(options.checkpoint, options)
    step = state.read(checkpoint.path, checkpoint.state).step
    made_from = f"{Path(options.checkpoint).resolve()}, step {step}"
    with open_data(options.data) as dataset:
        see_as_trained(checkpoint, dataset)
        splits = options.splits or list(dataset.splits)
        extract(network, dataset, options.out, splits, made_from=made_from, batch=options.batch,
                threads=options.loader_threads, progress=True)
        count = sum(len(dataset.split(split)) for split in splits)
    print(f"{options.out}: ready; {last_hidden(network.table).name} of {count:,} images; "
          f"python run.py neighbours {options.out} {options.data}")

"""The last hidden layer's activations of a data set, to a file."""
from pathlib import Path

from cpnet.commands.common import load, open_data
from cpnet.evaluate import see_as_trained
from cpnet.kinds import positive
from cpnet.options import Parser, device_options
from cpnet.studies.features import extract, last_hidden


def main(words):
    parser = Parser(prog="run.py features", epilog="Interrupted, the same command goes on where it stopped.",
                    description="the last hidden layer's activations of every image, for `neighbours`")
    parser.add_argument("checkpoint")
    parser.add_argument("data", help="an .h5 data set")
    parser.add_argument("out", help="the .h5 file to make")
    parser.add_argument("--splits", help="such as train,test (default: all that there are)")
    parser.add_argument("--batch", type=positive, default=128, help="images at a time")
    device_options(parser)
    options = parser.parse(words)
    checkpoint, network = load(options.checkpoint, options)
    made_from = f"{Path(options.checkpoint).resolve()}, step {checkpoint.state['step']}"
    with open_data(options.data) as dataset:
        see_as_trained(checkpoint, dataset)
        splits = options.splits.split(",") if options.splits else list(dataset.splits)
        extract(network, dataset, options.out, splits, made_from=made_from, batch=options.batch,
                threads=options.loader_threads, progress=True)
        count = sum(len(dataset.split(split)) for split in splits)
    print(f"{options.out}: ready; {last_hidden(network.table).name} of {count:,} images; "
          f"python run.py neighbours {options.out} {options.data}")

"""Short binary codes by an auto-encoder, to a file."""
from cpnet.commands.common import one_device, one_device_options
from cpnet.kinds import above_zero, positive, whole
from cpnet.options import Parser
from cpnet.studies.codes import make
from cpnet.studies.features import open_vectors


def main(words):
    parser = Parser(prog="run.py codes", epilog="Interrupted, the same command goes on after the last whole epoch.",
                    description="train an auto-encoder that compresses vectors to short binary codes, for `neighbours`")
    parser.add_argument("vectors", help="a file made by `features`, or a data set: then its raw pixels")
    parser.add_argument("out", help="the .h5 file to make")
    parser.add_argument("--bits", type=positive, default=128, help="of a code")
    parser.add_argument("--hidden", type=positive, default=512, help="neurons between vector and code, on both sides")
    parser.add_argument("--epochs", type=positive, default=5, help="passes over the training split")
    parser.add_argument("--batch", type=positive, default=128, help="vectors a step")
    parser.add_argument("--rate", type=above_zero, default=1.0, help="of learning, times the widest layer; falls to 0")
    parser.add_argument("--seed", type=whole, default=0, help="of the weights and the order")
    one_device_options(parser)
    options = parser.parse(words)
    settings = {name: getattr(options, name) for name in ("bits", "hidden", "epochs", "batch", "rate", "seed")}
    device, source = one_device(options), open_vectors(options.vectors)
    try:
        make(source, options.out, settings, device, progress=True)
    finally:
        source.close()
    print(f"{options.out}: ready; python run.py neighbours FEATURES DATA --codes {options.out}")

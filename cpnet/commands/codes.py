"""Train an auto-encoder, and write the short binary codes that it gives."""
from cpnet.commands.common import add_one_device, one_device
from cpnet.kinds import above_zero, filename, positive, whole
from cpnet.options import Parser
from cpnet.studies.codes import make
from cpnet.studies.features import open_vectors


def main(words):
    parser = Parser("codes", "VECTORS OUT.h5",
                    "Trains an auto-encoder that compresses vectors to short binary codes, and writes the "
                    "code of each image, for the command neighbours.",
                    "Example: python run.py codes features.h5 codes.h5 --bits 128. If it is interrupted, the "
                    "same command goes on after the last whole epoch.")
    parser.add_argument("vectors", type=filename, metavar="VECTORS",
                        help="A file that the command features made, or a data set, whose pixels are then "
                             "the vectors.")
    parser.add_argument("out", type=filename, metavar="OUT.h5", help="The file to make.")
    parser.add_argument("--bits", type=positive, default=128, metavar="N", help="Makes codes of N bits.")
    parser.add_argument("--hidden", type=positive, default=512, metavar="N",
                        help="Puts a layer of N neurons between vector and code, and another behind the "
                             "code.")
    parser.add_argument("--epochs", type=positive, default=5, metavar="N", help="Trains for N epochs.")
    parser.add_argument("--batch", type=positive, default=128, metavar="N",
                        help="Updates the weights after every N vectors.")
    parser.add_argument("--rate", type=above_zero, default=1.0, metavar="RATE",
                        help="Learns with this rate, divided by the number of neurons in the widest layer. "
                             "The rate falls evenly to 0 at the end of training.")
    parser.add_argument("--seed", type=whole, default=0, metavar="N",
                        help="Draws the first weights and the order of the vectors from this number.")
    add_one_device(parser)
    options = parser.parse(words)
    settings = {"bits": options.bits, "hidden": options.hidden, "epochs": options.epochs,
                "batch": options.batch, "rate": options.rate, "seed": options.seed}
    device, source = one_device(options), open_vectors(options.vectors)
    try:
        make(source, options.out, settings, device, progress=True)
    finally:
        source.close()
    print(f"{options.out}: ready; python run.py neighbours FEATURES DATA --codes {options.out}")

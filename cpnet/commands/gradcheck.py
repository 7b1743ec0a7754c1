"""Compare every gradient with finite differences."""
from cpnet import gradcheck, nets
from cpnet.options import Parser


def main(words):
    parser = Parser("gradcheck", "",
                    "Compares the gradients of each operation and of a whole net with finite differences, in "
                    "float64.",
                    "Example: python run.py gradcheck --net four-layer. The exit code is 1 if a gradient is "
                    "wrong.")
    parser.add_argument("--net", default="mini", metavar="NET",
                        help=f"Checks this whole net: {', '.join(nets.NETS)}.")
    parser.add_argument("--devices", default="cpu", metavar="DEVICES",
                        help="Computes on cpu, or on GPUs by their numbers, such as 0 or 0,1.")
    options = parser.parse(words)
    rows = list(gradcheck.everything(options.net, options.devices))
    print(gradcheck.report(rows))
    wrong = sum(not error <= gradcheck.TOLERANCE for _, error in rows)
    said = f"{wrong} of them wrong" if wrong else "all right"
    print(f"{len(rows)} gradients, {said}: within {gradcheck.TOLERANCE:g} of finite differences, relatively")
    return int(wrong > 0)

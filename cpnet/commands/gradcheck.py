"""Every gradient against finite differences."""
from cpnet import gradcheck
from cpnet.options import Parser


def main(words):
    parser = Parser(prog="run.py gradcheck", description="every gradient against finite differences, in float64")
    parser.add_argument("--net", default="mini", help="the whole net to check")
    parser.add_argument("--devices", default="cpu", help="where: cpu, or GPUs by number, such as 0 or 0,1")
    options = parser.parse(words)
    rows = list(gradcheck.everything(options.net, options.devices))
    print(gradcheck.report(rows))
    return 0 if all(error <= gradcheck.TOLERANCE for _, error in rows) else 1

"""What a net sees in image files."""
import json

from cpnet.commands.common import load
from cpnet.kinds import positive
from cpnet.options import Parser, device_options
from cpnet.predict import predict


def main(words):
    parser = Parser(prog="run.py predict", description="what a net sees in image files")
    parser.add_argument("checkpoint")
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument("--top", type=positive, default=5, help="classes to name")
    parser.add_argument("--json", action="store_true", help="print JSON")
    device_options(parser)
    options = parser.parse(words)
    checkpoint, network = load(options.checkpoint, options)
    results = predict(network, checkpoint.mean, checkpoint.classes, options.images, top=options.top)
    if options.json:
        print(json.dumps(results, indent=2, ensure_ascii=False))
        return
    for result in results:
        print(result["image"])
        for line in result["predictions"]:
            print(f"  {line['probability']:7.2%}  {line['class']}")

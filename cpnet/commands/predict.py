"""Say what a net sees in image files."""
import json

from cpnet.commands.common import load
from cpnet.errors import fail
from cpnet.kinds import filename, positive
from cpnet.options import Parser, add_devices
from cpnet.predict import predict


def main(words):
    parser = Parser("predict", "CHECKPOINT IMAGE [IMAGE …]",
                    "Prints the classes that a trained net sees in image files.",
                    "Example: python run.py predict runs/mini-1/checkpoint-best.h5 cat.jpg dog.png --top 3")
    parser.add_argument("checkpoint", type=filename, metavar="CHECKPOINT", help="The trained net.")
    parser.add_argument("images", nargs="+", type=filename, metavar="IMAGE",
                        help="An image file, such as a JPEG or PNG.")
    parser.add_argument("--top", type=positive, default=5, metavar="N",
                        help="Prints the N most probable classes.")
    parser.add_argument("--json", action="store_true", help="Prints the classes as JSON.")
    add_devices(parser)
    options = parser.parse(words)
    checkpoint, network = load(options.checkpoint, options)
    results = predict(network, checkpoint.mean, checkpoint.classes, options.images, top=options.top)
    if options.json:
        print(json.dumps(results, indent=2, ensure_ascii=False))
    for result in results:
        if "error" in result:
            fail(result["error"])
        elif not options.json:
            print(result["image"])
            for line in result["predictions"]:
                print(f"  {line['probability']:7.2%}  {line['class']}")
    return int(any("error" in result for result in results))

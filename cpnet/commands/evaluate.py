"""Errors of a checkpoint on a split."""
from cpnet.commands.common import load, open_data
from cpnet.evaluate import check_data, evaluate
from cpnet.options import Parser, device_options, positive


def main(words):
    parser = Parser(prog="run.py evaluate", description="top-1 and top-5 error of a checkpoint")
    parser.add_argument("checkpoint")
    parser.add_argument("--data", help="an .h5 data set (default: the one it was trained on)")
    parser.add_argument("--split", default="val", help="val, test or train")
    parser.add_argument("--crops", type=int, choices=(1, 10), default=1, help="1: the centre; 10: corners, centre, mirrors")
    parser.add_argument("--batch", type=positive, default=128, help="images at a time")
    device_options(parser)
    options = parser.parse(words)
    checkpoint, network = load(options.checkpoint, options)
    with open_data(options.data or checkpoint.settings["data"]) as dataset:
        check_data(network.table, dataset)
        result = evaluate(network, dataset, options.split, crops=options.crops, batch=options.batch,
                          threads=options.loader_threads, progress=True)
    views = "centre crop" if options.crops == 1 else "ten crops"
    print(f"{options.split}, {result['images']:,} images, {views}: top-1 error {result['top1']:.2%}, "
          f"top-{min(5, len(checkpoint.classes))} error {result['top5']:.2%}, loss {result['loss']:.4f}")

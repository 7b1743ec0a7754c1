"""Write a checkpoint's weights for other programs."""
from pathlib import Path

from cpnet.files import write_atomically
from cpnet.formats.export import from_checkpoint, to_npz, to_safetensors
from cpnet.formats.export_onnx import to_onnx
from cpnet.kinds import filename
from cpnet.options import Parser

FORMATS = "npz", "safetensors", "onnx"


def main(words):
    parser = Parser("export", "CHECKPOINT OUT",
                    "Writes the weights of a trained net, and all else that a prediction needs, for other "
                    "programs (docs/formats.md).",
                    "Example: python run.py export runs/mini-1/checkpoint-best.h5 mini.onnx")
    parser.add_argument("checkpoint", type=filename, metavar="CHECKPOINT", help="The trained net.")
    parser.add_argument("out", type=filename, metavar="OUT", help="The file to make.")
    parser.add_argument("--format", choices=FORMATS,
                        help="Writes in this format. Default: the one that the ending of OUT names.")
    parser.add_argument("--fold-dropout", action="store_true",
                        help="Multiplies the weights behind each dropout by the 0.5 that dropout multiplies "
                             "by at test. In ONNX files they always are.")
    options = parser.parse(words)
    if Path(options.out).resolve() == Path(options.checkpoint).resolve():
        parser.error(f"{options.out} is the checkpoint itself, which would be lost")
    suffix = Path(options.out).suffix[1:].lower()
    if not options.format and suffix not in FORMATS:
        parser.error(f"{options.out}: its ending names no format; end it with .{', .'.join(FORMATS)}, or say "
                     "with --format which one it is to have")
    trained = from_checkpoint(options.checkpoint)
    match options.format or suffix:
        case "npz":
            content = to_npz(trained, options.fold_dropout)
        case "safetensors":
            content = to_safetensors(trained, options.fold_dropout)
        case "onnx":
            content = to_onnx(trained)
    write_atomically(options.out, content)
    print(f"{options.out}: ready")

"""A checkpoint's weights for other programs."""
from pathlib import Path

from cpnet.files import write_atomically
from cpnet.formats.export import from_checkpoint, to_npz, to_safetensors
from cpnet.formats.export_onnx import to_onnx
from cpnet.options import Parser

FORMATS = "npz", "safetensors", "onnx"


def main(words):
    parser = Parser(prog="run.py export", description="a checkpoint's weights and all that predicting takes")
    parser.add_argument("checkpoint")
    parser.add_argument("out")
    parser.add_argument("--format", choices=FORMATS, help="default: by the ending of OUT, else npz")
    parser.add_argument("--fold-dropout", action="store_true",
                        help="multiply dropout's 0.5 at test into the weights that follow (ONNX files always have it there)")
    options = parser.parse(words)
    if Path(options.out).resolve() == Path(options.checkpoint).resolve():
        parser.error(f"{options.out} is the checkpoint itself, which would be lost")
    suffix = Path(options.out).suffix[1:]
    trained = from_checkpoint(options.checkpoint)
    match options.format or (suffix if suffix in FORMATS else "npz"):
        case "npz":
            content = to_npz(trained, options.fold_dropout)
        case "safetensors":
            content = to_safetensors(trained, options.fold_dropout)
        case "onnx":
            content = to_onnx(trained)
    write_atomically(options.out, content)
    print(f"{options.out}: ready")

"""A checkpoint from weights of this program's `export`, or of Caffe."""
from cpnet.formats import export, import_caffe
from cpnet.options import Parser


def main(words):
    parser = Parser(prog="run.py import", description="a checkpoint from exported weights, or from Caffe's")
    parser.add_argument("source", help="an .npz or .safetensors that export wrote; with --caffe an .npz of plain arrays")
    parser.add_argument("out")
    parser.add_argument("--caffe", choices=import_caffe.PROFILES, help="which of Caffe's nets the weights are of")
    parser.add_argument("--classes", metavar="TXT", help="with --caffe: the names of the classes, a line each")
    parser.add_argument("--mean", metavar="NPY", help="with --caffe: its mean image, or blue,green,red as three numbers")
    options = parser.parse(words)
    if any(bool(given) != bool(options.caffe) for given in (options.classes, options.mean)):
        parser.error("--caffe, --classes and --mean go together: Caffe's weights name no classes and hold no mean")
    if options.caffe:
        trained = import_caffe.read(options.source, options.caffe, options.classes, options.mean)
    else:
        trained = export.read(options.source)
    export.to_checkpoint(options.out, trained, options.source)
    print(f"{options.out}: ready; python run.py evaluate {options.out}" + " --data DATA.h5" * bool(options.caffe))

"""Make a checkpoint from weights that `export` wrote, or from Caffe's."""
from cpnet.formats import export, import_caffe
from cpnet.kinds import filename
from cpnet.options import Parser


def main(words):
    parser = Parser("import", "FILE CHECKPOINT",
                    "Makes a checkpoint from weights that the command export wrote, or from Caffe's "
                    "(docs/formats.md).",
                    "Example: python run.py import --caffe caffenet caffenet.npz caffenet.h5 --classes "
                    "synset_words.txt --mean 104,117,123")
    parser.add_argument("source", type=filename, metavar="FILE",
                        help="An .npz or .safetensors file that export wrote; with --caffe, an .npz file of "
                             "plain arrays.")
    parser.add_argument("out", type=filename, metavar="CHECKPOINT", help="The checkpoint to make.")
    parser.add_argument("--caffe", choices=import_caffe.PROFILES,
                        help="Reads the weights of this one of Caffe's nets.")
    parser.add_argument("--classes", type=filename, metavar="TXT",
                        help="Reads the names of the classes from this file, one in each line (with "
                             "--caffe).")
    parser.add_argument("--mean", type=filename, metavar="NPY",
                        help="Reads the mean image from this file, or takes three numbers: blue,green,red "
                             "(with --caffe).")
    options = parser.parse(words)
    if any(bool(given) != bool(options.caffe) for given in (options.classes, options.mean)):
        parser.error("--caffe, --classes and --mean go together: Caffe's weights name no classes and hold no "
                     "mean")
    if options.caffe:
        trained = import_caffe.read(options.source, options.caffe, options.classes, options.mean)
    else:
        trained = export.read(options.source)
    export.to_checkpoint(options.out, trained, options.source)
    data = " --data DATA.h5" if options.caffe else ""
    print(f"{options.out}: ready; python run.py evaluate {options.out}{data}")

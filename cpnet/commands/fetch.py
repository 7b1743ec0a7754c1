"""Download a public data set, and check its files."""
from cpnet.errors import fail
from cpnet.kinds import filename
from cpnet.options import Parser
from data.sources.fetch import SOURCES, fetch


def main(words):
    parser = Parser("fetch", "NAME FOLDER",
                    "Downloads a data set from its authors' address, and checks each file.",
                    "Example: python run.py fetch cifar-10 downloads. If it is interrupted, the same command "
                    "goes on.")
    parser.add_argument("name", metavar="NAME", help=f"The data set: {' or '.join(SOURCES)}.")
    parser.add_argument("folder", type=filename, metavar="FOLDER",
                        help="The folder for its files. Files that are there already are checked and kept.")
    parser.add_argument("--from", dest="address", metavar="ADDRESS",
                        help="Downloads from this address of a mirror instead.")
    options = parser.parse(words)
    try:
        count = fetch(options.name, options.folder, options.address)
    except KeyboardInterrupt:
        return fail("interrupted; the same command goes on from there", 130)
    files = len(SOURCES[options.name].files)
    print(f"{options.folder}: all {files} files are there and whole, {count} of them new; "
          f"go on with python run.py prepare {options.folder} {options.name}.h5")

"""Public data sets, downloaded and checked."""
from cpnet.errors import fail
from cpnet.options import Parser
from data.sources.fetch import SOURCES, fetch


def main(words):
    parser = Parser(prog="run.py fetch", description="downloads a data set from its authors' address, resumed and checked")
    parser.add_argument("name", help=" or ".join(SOURCES))
    parser.add_argument("folder", help="where to keep its files; what is there already is checked")
    parser.add_argument("--from", dest="address", metavar="ADDRESS", help="of a mirror: where the files lie instead")
    options = parser.parse(words)
    try:
        count = fetch(options.name, options.folder, options.address)
    except KeyboardInterrupt:
        return fail("interrupted; the same command goes on from there", 130)
    print(f"{options.folder}: all {len(SOURCES[options.name].files)} files are there and whole, {count} of them new; "
          f"go on with python run.py prepare {options.folder} {options.name}.h5")

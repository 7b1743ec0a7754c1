"""Whether a data set is what it says, and what it looks like."""
import sys
from pathlib import Path

from cpnet.errors import CpnetError
from cpnet.kinds import positive
from cpnet.options import Parser
from data.check import SAMPLE, check
from data.sheet import contact_sheet
from data.store.dataset import Dataset


def main(words):
    parser = Parser(prog="run.py check", description="looks through a data set: structure, labels, classes, copies, "
                                                     "mean image, colours; draws a contact sheet",
                    epilog="exit code 1 if anything is wrong; copies are warnings only")
    parser.add_argument("data", metavar="DATA.h5")
    parser.add_argument("--sample", type=positive, default=SAMPLE, help="training images to recompute mean and colours on")
    parser.add_argument("--sheet", metavar="PNG", help="where to draw some images of each class (default: DATA-sheet.png)")
    parser.add_argument("--workers", type=positive, help="threads (default: one a core)")
    options = parser.parse(words)
    with Dataset(options.data) as dataset:
        print(f"{dataset.path}: {dataset.channels}×{dataset.height}×{dataset.width}, {len(dataset.classes):,} classes; "
              f"{dataset.source}")
        findings = check(dataset, sample=options.sample, workers=options.workers)
        print(*findings.facts, sep="\n")
        for kind, lines in (("warning", findings.warnings), ("error", findings.errors)):
            for line in lines:
                print(f"{kind}: {line}", file=sys.stderr)
        sheet = Path(options.sheet or Path(options.data).with_suffix("").name + "-sheet.png")
        if not findings.errors:
            try:
                contact_sheet(dataset, sheet)
            except OSError as error:
                raise CpnetError(f"{sheet}: cannot be written: {error.strerror}; choose another with --sheet") from error
            print(f"contact sheet: {sheet}")
    print(f"{options.data}: {len(findings.errors)} errors, {len(findings.warnings)} warnings")
    return 1 if findings.errors else 0

"""Examine a data set, and draw some of its images."""
import io
import sys
from pathlib import Path

from cpnet.files import check_output, write_atomically
from cpnet.kinds import filename, positive
from cpnet.machine import cores
from cpnet.options import Parser, add_threads
from data.check import SAMPLE, check
from data.sheet import contact_sheet
from data.store.dataset import Dataset


def main(words):
    parser = Parser("check", "DATA.h5",
                    "Examines a data set: its structure, labels, classes, identical images, mean image and "
                    "colours. Draws some images of each class on a contact sheet.",
                    "Example: python run.py check my.h5. The exit code is 1 if there are errors; identical "
                    "images are only warnings.")
    parser.add_argument("data", type=filename, metavar="DATA.h5", help="The data set to examine.")
    parser.add_argument("--sample", type=positive, default=SAMPLE, metavar="N",
                        help="Computes the mean image and the colours anew from N training images.")
    parser.add_argument("--sheet", type=filename, metavar="PNG",
                        help="Draws the contact sheet to this file. Default: DATA-sheet.png.")
    add_threads(parser, "read the images", old_spelling="--workers")
    options = parser.parse(words)
    with Dataset(options.data) as dataset:
        print(f"{dataset.path}: {dataset.channels}×{dataset.height}×{dataset.width}, "
              f"{len(dataset.classes):,} classes; {dataset.source}")
        sheet = Path(options.sheet or Path(options.data).with_suffix("").name + "-sheet.png")
        check_output(sheet)  # before the work, not after it
        findings = check(dataset, sample=options.sample, workers=options.threads or cores())
        print(*findings.facts, sep="\n")
        for kind, lines in (("warning", findings.warnings), ("error", findings.errors)):
            for line in lines:
                print(f"{kind}: {line}", file=sys.stderr)
        if not findings.errors:
            content = io.BytesIO()
            contact_sheet(dataset, content)
            write_atomically(sheet, content.getbuffer())
            print(f"contact sheet: {sheet}")
    print(f"{options.data}: {len(findings.errors)} errors, {len(findings.warnings)} warnings")
    return 1 if findings.errors else 0

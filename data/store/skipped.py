"""The list of what was found for a data set and is not in it: OUT.skipped.jsonl, an object a line."""

import json
import os

from data.store.writer import publish


def skipped_path(out):
    """The list of what was found for the data set `out` and is not in it."""
    return os.path.splitext(out)[0] + ".skipped.jsonl"


def list_skipped(out, temporary, skipped, left_out):
    """Write skipped_path(out), by way of the file `temporary`: an object a line, with split, index in the
    split's listing, image and reason. If there is nothing to list, one of an earlier `out` is removed.

    skipped: {split: [[index, name, reason], …]}; left_out: [(path, reason)] of all else, whose split and
    index are null.
    """
    rows = [(split, *entry) for split, entries in skipped.items() for entry in entries]
    rows += [(None, None, *entry) for entry in left_out]
    if not rows:
        if os.path.exists(skipped_path(out)):
            os.remove(skipped_path(out))
        return
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            for row in rows:
                line = dict(zip(("split", "index", "image", "reason"), row, strict=True))
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        publish(temporary, skipped_path(out))
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)

"""Which column of a file holds its captions, as the makers of public lists name it."""

from __future__ import annotations

import shlex
from pathlib import Path

from sbv2bench.data.caption_rows import LISTS, found_columns, read_rows, refuse_other_separators
from sbv2bench.errors import InputError

# JourneyDB's prompts, COCO's and img2dataset's captions, LAION's TEXT; in any case of letters, the first that there is.
NAMES = ("prompt", "caption", "text")
NESTED = "Task2.Caption"  # JourneyDB's descriptions, beside its prompts


def caption_column(path: Path, wanted: str | None = None) -> str:
    """The column that was asked for, or the one that a file's captions usually stand in; "" of a file without columns.

    Raises InputError where there is none, and what reading the first row raises.
    """
    if path.suffix.lower() in LISTS:
        return ""
    if wanted is not None:
        next(read_rows(path, (wanted,)), None)
        return wanted
    found = found_columns(path)
    if usual := next((column for name in NAMES for column in found if column.casefold() == name), None):
        return usual
    if NESTED.partition(".")[0] in found:
        return NESTED
    if not found:
        return NAMES[-1]  # an empty file, which is refused when it is read
    refuse_other_separators(NAMES, found, str(path))
    raise InputError(
        f"{path}: found no column {', '.join(NAMES)} among {', '.join(found)[:200]}", f"--column {shlex.quote(found[0])}"
    )

"""A table of any width: what is left out, set on several lines or put into another part, and what is never broken."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from sbv2bench.report.columns import Column
from sbv2bench.report.layout import print_table

Row = tuple[str, str, str, str]
ROWS: list[Row] = [
    ("mini/a-model-of-a-long-name", "0.12345 ± 0.00012", "what it is in a few more words than fit", "1"),
    ("mini/b", "12.3 ± 1.2", "short", "2"),
]
NAME: Column[Row] = Column("", "model", lambda row: row[0], left=True, names=True)
VALUE: Column[Row] = Column("", "value", lambda row: row[1], strong=lambda row: row[0] == "mini/b")
PROSE: Column[Row] = Column("", "about", lambda row: row[2], left=True, prose=True)
SPARE: Column[Row] = Column("", "spare", lambda row: row[3], room=1)


def shown(width: int, *columns: Column[Row]) -> str:
    out = io.StringIO()
    print_table(Console(file=out, width=width), columns, ROWS)
    return out.getvalue()


def test_a_table_that_fits_is_whole() -> None:
    lines = shown(120, NAME, VALUE, PROSE, SPARE).splitlines()
    assert lines[2].split() == [*["mini/a-model-of-a-long-name", "0.12345", "±", "0.00012"], *ROWS[0][2].split(), "1"]
    assert "12.3 ± 1.2*" in lines[3] and lines[2].index("0.00012") + 7 == lines[3].index("*")


@pytest.mark.parametrize("width", [20, 40, 60, 80])
def test_no_number_and_no_id_is_broken(width: int) -> None:
    text = shown(width, NAME, VALUE, PROSE, SPARE)
    assert all(whole in text for whole in ("mini/a-model-of-a-long-name", "0.12345 ± 0.00012", "12.3 ± 1.2*"))
    assert ("no room for: spare" in text) == ("spare\n──" not in text)


def test_a_part_names_its_rows() -> None:
    parts = shown(48, NAME, VALUE, PROSE).split("\n\n")
    assert len(parts) == 3 and all("mini/b" in part for part in parts[:2])

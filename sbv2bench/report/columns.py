"""A table is a list of columns and a list of rows; every writer here takes the same two.

In CSV every number stands in full; Markdown, LaTeX and the terminal (layout.py) show it as people read it. A new column is one
line in the list of its table, and a new format is one function here.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

R = TypeVar("R")
_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "†": r"\dag{}", "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
}  # fmt: skip
_STRONG = (("**", "**"), (r"\textbf{", "}"))  # in Markdown, in LaTeX


@dataclass(frozen=True)
class Column(Generic[R]):
    """One column of a table whose rows are R.

    key: its name in CSV; "" leaves it out there. value: of a row, in full; None is empty. heading: its name for people; "" leaves
    it out of what they read. text: what they read; without it the value as it is. strong: whether a row's cell is set off, as
    the best of a column is, with all that cannot be told from it. left: set to the left in a terminal and in LaTeX.
    In a narrow terminal: names: says which row it is, so it begins every part of a table that is cut; prose: may be set on
    several lines; room: above 0, left out where there is no room, the highest first.
    """

    key: str
    heading: str
    value: Callable[[R], object]
    text: Callable[[R], str] | None = None
    strong: Callable[[R], bool] | None = None
    left: bool = False
    names: bool = False
    prose: bool = False
    room: int = 0

    def read(self, row: R) -> str:
        """The cell as people read it."""
        return self.text(row) if self.text is not None else _in_full(self.value(row))


def _in_full(value: object) -> str:
    """A float to its last bit."""
    return "" if value is None else repr(value) if isinstance(value, float) else str(value)


def csv_text(*tables: tuple[Sequence[Column[Any]], Sequence[Any]]) -> str:
    """(columns, rows) of one table, or of several under one head: columns of one key are one, and absent cells are empty."""
    keys = dict.fromkeys(column.key for columns, _ in tables for column in columns if column.key)
    out = io.StringIO()
    writer = csv.DictWriter(out, list(keys), lineterminator="\n")
    writer.writeheader()
    for columns, rows in tables:
        writer.writerows({column.key: _in_full(column.value(row)) for column in columns if column.key} for row in rows)
    return out.getvalue()


def markdown_lines(columns: Sequence[Column[R]], rows: Sequence[R], *, foreign: bool = False) -> list[str]:
    """The lines of a table. foreign: text of the cells may be anybody's, so all that Markdown reads in it is escaped."""
    shown = [column for column in columns if column.heading]
    plain = markdown_plain if foreign else _one_cell
    body = [[_dressed(column, row, plain, 0) for column in shown] for row in rows]
    heads = [plain(column.heading) for column in shown]
    return [f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(shown), *body)]


def markdown_plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return re.sub(r"([\\`*_<>|\[\]])", r"\\\1", text).replace("\n", " ")


def _one_cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def latex_plain(text: str) -> str:
    """Text that LaTeX sets as it is."""
    return "".join(_LATEX.get(character, character) for character in text)


def latex_lines(columns: Sequence[Column[R]], rows: Sequence[R]) -> list[str]:
    """A tabular of booktabs."""
    shown = [column for column in columns if column.heading]
    body = [" & ".join(_dressed(column, row, latex_plain, 1) for column in shown) + r" \\" for row in rows]
    form = "".join("l" if column.left else "r" for column in shown)
    heads = " & ".join(latex_plain(column.heading) for column in shown) + r" \\"
    return [rf"\begin{{tabular}}{{{form}}}", r"\toprule", heads, r"\midrule", *body, r"\bottomrule", r"\end{tabular}"]


def _dressed(column: Column[R], row: R, plain: Callable[[str], str], form: int) -> str:
    """A cell, set off where it is strong. form: the format's place in _STRONG."""
    text = plain(column.read(row))
    before, after = _STRONG[form] if text and column.strong is not None and column.strong(row) else ("", "")
    return f"{before}{text}{after}"

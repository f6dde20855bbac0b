"""A table is a list of columns and a list of rows; every writer here takes the same two.

In CSV every number stands in full; Markdown, LaTeX and the terminal show it as people read it. A new column is one line in
the list of its table, and a new format is one function here.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

R = TypeVar("R")
_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "†": r"\dag{}", "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
}  # fmt: skip
_PLACES = {1: ("**", "**", r"\textbf{", "}", "bold"), 2: ("<u>", "</u>", r"\underline{", "}", "underline")}


@dataclass(frozen=True)
class Column(Generic[R]):
    """One column of a table whose rows are R.

    key: its name in CSV; "" leaves it out there. value: of a row, in full; None is empty. heading: its name for people; "" leaves
    it out of what they read. text: what they read; without it the value as it is. place: 1 where a row is the best of the
    column, 2 where it is the second; left: set to the left in a terminal and in LaTeX. narrow: kept where room is short.
    """

    key: str
    heading: str
    value: Callable[[R], object]
    text: Callable[[R], str] | None = None
    place: Callable[[R], int] | None = None
    left: bool = False
    narrow: bool = True

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
    body = [" & ".join(_dressed(column, row, latex_plain, 2) for column in shown) + r" \\" for row in rows]
    form = "".join("l" if column.left else "r" for column in shown)
    heads = " & ".join(latex_plain(column.heading) for column in shown) + r" \\"
    return [rf"\begin{{tabular}}{{{form}}}", r"\toprule", heads, r"\midrule", *body, r"\bottomrule", r"\end{tabular}"]


def _dressed(column: Column[R], row: R, plain: Callable[[str], str], form: int) -> str:
    """A cell with what sets off the best and the second of its column. form: where the format's marks stand in _PLACES."""
    marks = _PLACES.get(column.place(row), ("",) * 5) if column.place is not None else ("",) * 5
    return f"{marks[form]}{plain(column.read(row))}{marks[form + 1]}"


def terminal_table(
    columns: Sequence[Column[R]], rows: Sequence[R], title: str = "", *, style: Callable[[R], str | None] | None = None
) -> Table:
    """A table for the terminal; long cells are folded. style: rich's name of a row's style."""
    shown = [column for column in columns if column.heading]
    table = Table(title=escape(title) or None, title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
    for column in shown:
        table.add_column(escape(column.heading), overflow="fold", justify="left" if column.left else "right")
    for row in rows:
        cells = []
        for column in shown:
            dress = _PLACES.get(column.place(row)) if column.place is not None else None
            text = escape(column.read(row))
            cells.append(f"[{dress[4]}]{text}[/{dress[4]}]" if dress else text)
        table.add_row(*cells, style=style(row) if style is not None else None)
    return table

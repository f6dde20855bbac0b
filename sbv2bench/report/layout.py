"""A table in a terminal of any width: no number and no id is ever broken.

Where a table is too wide, the columns that it can do without are left out and named below it (`Column.room`); if that is not
enough, prose is set on several lines, and at last the table is cut into parts that each begin with the columns that name a row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import zip_longest
from textwrap import wrap
from typing import Generic, TypeVar

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from sbv2bench.report.columns import Column

R = TypeVar("R")
_GAP = 2  # spaces between columns
_PROSE, _EASY = 16, 32  # characters of a line of prose, at least, and to be read with ease
_STAR = "*"  # of a cell that is set off, where a terminal may have no bold type


def print_table(
    console: Console, columns: Sequence[Column[R]], rows: Sequence[R], title: str = "", *,
    style: Callable[[R], str | None] | None = None, remark: bool = True,
) -> list[Column[R]]:  # fmt: skip
    """Print the columns that have a heading. style: rich's name of a row's style. remark: say for which there was no room.

    Returns those for which there was none.
    """
    table = _Table([column for column in columns if column.heading], rows, console.width)
    for line in wrap(title, console.width, break_long_words=False):
        _put(console, Text(line, "italic"))
    for part in table.parts:
        _print_part(console, table, part, rows, style)
    if table.left_out and remark:
        names = ", ".join(" ".join(column.heading.split()) for column in table.left_out)
        print_words(console, f"no room for: {names}", style="dim")
    return table.left_out


def print_words(console: Console, text: str, indent: int = 0, style: str = "") -> None:
    """A sentence, on several lines in a narrow terminal; lines after the first are indented, and no word is broken."""
    lines = wrap(text, console.width, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False)
    for line in lines or [""]:
        _put(console, Text(line, style))


class _Table(Generic[R]):
    """Cells and widths: which columns there is room for, in which parts, and how wide each is."""

    def __init__(self, columns: Sequence[Column[R]], rows: Sequence[R], width: int) -> None:
        self.cells = {id(column): [_cell(column, row) for row in rows] for column in columns}
        self.widths = {id(column): self._natural(column) for column in columns}
        kept = list(columns)
        while self._total(kept, _EASY) > width and (spare := [column for column in kept if column.room]):
            kept.remove(max(reversed(spare), key=lambda column: column.room))
        self.left_out = [column for column in columns if column not in kept]
        self._fit(kept, width)
        self.parts = self._cut(kept, width)

    def _natural(self, column: Column[R]) -> int:
        lines = [*column.heading.split("\n"), *(line for cell in self.cells[id(column)] for line in cell.split("\n"))]
        return max(map(cell_len, lines))

    def _total(self, columns: Sequence[Column[R]], prose: int | None = None) -> int:
        """Characters of a line; prose: no more than so many for a column of it."""
        widths = (
            min(self.widths[id(column)], prose) if prose and column.prose else self.widths[id(column)] for column in columns
        )
        return sum(widths) + _GAP * (len(columns) - 1)

    def _fit(self, columns: Sequence[Column[R]], width: int) -> None:
        """Narrow the prose, the widest column first, until the table fits or no word of it has room."""
        least = {id(column): self._least(column) for column in columns if column.prose}
        while self._total(columns) > width:
            wide = [key for key, words in least.items() if self.widths[key] > words]
            if not wide:
                return
            self.widths[max(wide, key=lambda key: self.widths[key])] -= 1

    def _least(self, column: Column[R]) -> int:
        words = [word for text in (column.heading, *self.cells[id(column)]) for word in text.split()]
        return max(min(_PROSE, self.widths[id(column)]), *map(cell_len, words), 0)

    def _cut(self, columns: Sequence[Column[R]], width: int) -> list[list[Column[R]]]:
        """Parts that fit, each with the columns that name a row before its own."""
        if self._total(columns) <= width:
            return [list(columns)]
        names = [column for column in columns if column.names] or list(columns[:1])
        parts: list[list[Column[R]]] = []
        for column in columns:
            if column in names:
                continue
            if not parts or self._total([*parts[-1], column]) > width:
                parts.append([*names])
            parts[-1].append(column)
        return parts or [list(columns)]


def _cell(column: Column[R], row: R) -> str:
    """The text of a cell; in a column where some are set off, a place for the star behind every number."""
    text = column.read(row)
    return text if column.strong is None or not text else f"{text}{_STAR if column.strong(row) else ' '}"


def _print_part(
    console: Console, table: _Table[R], part: Sequence[Column[R]], rows: Sequence[R], style: Callable[[R], str | None] | None
) -> None:
    widths = [table.widths[id(column)] for column in part]
    heads = [[Text(line, "bold") for line in column.heading.split("\n")] for column in part]
    for texts in zip_longest(*heads, fillvalue=Text()):
        _put(console, _line(texts, widths, part))
    _put(console, Text("─" * (sum(widths) + _GAP * (len(part) - 1))))
    for place, row in enumerate(rows):
        dress = style(row) if style is not None else None
        cells = []
        for column, width in zip(part, widths, strict=True):
            strong = "bold" if column.strong is not None and column.strong(row) else ""
            text = table.cells[id(column)][place]
            lines = [text] if cell_len(text) <= width and "\n" not in text else _set(text, width)
            cells.append([Text(line, strong) for line in lines])
        for texts in zip_longest(*cells, fillvalue=Text()):
            _put(console, _line(texts, widths, part), dress or "")
    _put(console, Text())


def _set(text: str, width: int) -> list[str]:
    return [part for line in text.split("\n") for part in wrap(line, width, break_long_words=False, break_on_hyphens=False)]


def _line(texts: Sequence[Text], widths: Sequence[int], columns: Sequence[Column[R]]) -> Text:
    line = Text()
    for text, width, column in zip(texts, widths, columns, strict=True):
        space = " " * max(0, width - cell_len(text.plain))
        line.append_text(Text(space) + text if not column.left else text + space).append(" " * _GAP)
    line.rstrip()
    return line


def _put(console: Console, line: Text, style: str = "") -> None:
    console.print(line, style=style or None, soft_wrap=True)

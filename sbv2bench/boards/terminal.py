"""A board in the terminal."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from rich.console import Console

from sbv2bench.boards.boards import Board
from sbv2bench.boards.tables import Measured, columns, measured
from sbv2bench.report.columns import Column, terminal_table
from sbv2bench.report.terminal import say
from sbv2bench.report.values import NOT_HELD_OUT, NOT_HELD_OUT_MEANS, marked

_NARROW = 160


def print_board(console: Console, board: Board) -> None:
    """A leaderboard's measured rows without the columns that only files need; without uncertainties in a narrow terminal."""
    if board.rows:
        narrow = console.width < _NARROW
        left_out = {"scheduler", *({"n", "seeds"} if narrow else ())}
        shown = [column for column in columns(board) if column.narrow and column.key not in left_out]
        if narrow:
            shown = [replace(column, text=_without_error(column)) for column in shown]
        console.print(terminal_table(shown, measured(board), board.suite))
        if marked(board.results):
            say(console, f"{NOT_HELD_OUT} {NOT_HELD_OUT_MEANS}")
    if board.published:
        say(
            console,
            f"{board.suite}: {len(board.rows)} measured rows, {len(board.published)} rows of published numbers beside them",
        )


def _without_error(column: Column[Measured]) -> Callable[[Measured], str]:
    return lambda row: re.split(r" ± | \[", column.read(row))[0]

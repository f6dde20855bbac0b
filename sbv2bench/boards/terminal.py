"""A board in the terminal."""

from __future__ import annotations

import re

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sbv2bench.boards.boards import Board
from sbv2bench.boards.tables import columns, table
from sbv2bench.report.terminal import say
from sbv2bench.report.values import NOT_HELD_OUT, NOT_HELD_OUT_MEANS, marked

_NARROW = 160


def print_board(console: Console, board: Board) -> None:
    """A leaderboard's measured rows without the columns that only files need; without uncertainties in a narrow terminal."""
    if board.rows:
        left_out = {"scheduler", "protocol", "commit", "date", "hardware", "licence", "file"}
        narrow = console.width < _NARROW
        left_out |= {"n", "seeds"} if narrow else set()
        names = columns(board)
        shown = Table(title=f"{board.suite}, protocol {board.fingerprint[:8]}", title_justify="left", box=SIMPLE, padding=0)
        for name in names:
            if name not in left_out:
                shown.add_column(name, overflow="fold", no_wrap=name == "model")
        for row in table(board):
            cells = [cell for name, cell in zip(names, row, strict=True) if name not in left_out]
            shown.add_row(*(escape(re.split(r" ± | \[", cell)[0] if narrow else cell) for cell in cells))
        console.print(shown)
        if marked(board.results):
            say(console, f"{NOT_HELD_OUT} {NOT_HELD_OUT_MEANS}")
    if board.published:
        say(
            console,
            f"{board.suite}: {len(board.rows)} measured rows, {len(board.published)} rows of published numbers beside them",
        )

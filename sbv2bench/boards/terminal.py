"""A board in the terminal."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from rich.console import Console

from sbv2bench.boards.boards import Board
from sbv2bench.boards.tables import Measured, columns, measured
from sbv2bench.report.columns import Column
from sbv2bench.report.layout import print_table, print_words
from sbv2bench.report.values import LEADERS_MEAN, NOT_HELD_OUT, NOT_HELD_OUT_MEANS, marked

_NARROW = 160  # columns below which errors are left to the files, so that more metrics have room
_ROOM = {
    "rank": 1, "attribute_accuracy": 2, "latency_paper_ms": 3, "latency_ms": 3, "recall": 4, "precision": 5, "kid": 6,
    "density": 7, "coverage": 7, "pareto": 8, "clip_gain": 8, "passes": 8, "n": 9, "seeds": 9,
}  # fmt: skip
_FILES = {"scheduler", "commit", "date", "hardware", "licence", "file"}


def print_board(console: Console, board: Board) -> None:
    """A leaderboard's measured rows without the columns that only files need; without uncertainties in a narrow terminal."""
    if board.rows:
        shown = [
            replace(column, room=_ROOM.get(column.key, 0), names=column.names or column.key in ("nfe", "guidance_scale"))
            for column in columns(board)
            if column.key not in _FILES
        ]
        if console.width < _NARROW:
            shown = [replace(one, text=_without_error(one), heading=_in_two_lines(one.heading)) for one in shown]
        print_table(console, shown, measured(board), board.suite)
        if any(board.leading(key) for key in board.keys):
            print_words(console, f"* {LEADERS_MEAN}", indent=2)
        if marked(board.results):
            print_words(console, f"{NOT_HELD_OUT} {NOT_HELD_OUT_MEANS}", indent=2)
    if board.published:
        counts = f"{len(board.rows)} measured rows, {len(board.published)} rows of published numbers beside them"
        print_words(console, f"{board.suite}: {counts}")


def _in_two_lines(heading: str) -> str:
    """ "FID-mini ↓" with "mini ↓" below it."""
    return re.sub(r"[- ](?=mini\b|\()", "\n", heading)


def _without_error(column: Column[Measured]) -> Callable[[Measured], str]:
    return lambda row: re.split(r" ± | \[", column.read(row))[0]

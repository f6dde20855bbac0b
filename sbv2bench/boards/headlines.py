"""What a board found, in a sentence and three tiles: the best in one step, the best of all, the fastest on the frontier."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from sbv2bench.compare.ranks import NOISE
from sbv2bench.report.page_content import Board, Column, Row, Tile


def headlined(board: Board) -> Board:
    """With the sentence of what was found and three tiles; without them where no two rows can be set against each other."""
    column = next((column for column in board.columns if column.key in board.verdicts and column.shown), None)
    speed = next((column for column in board.columns if column.key.startswith("latency") and column.key in board.verdicts), None)
    rows = [board.rows[place] for place in board.ranked]
    having = [number for number, row in enumerate(rows) if column and column.key in row.numbers]
    if column is None or len(having) < 2:
        return board

    def best(of: Sequence[int], key: str, lower: bool) -> int:
        return min(of, key=lambda place: rows[place].numbers[key].value * (1 if lower else -1))

    def tile(heading: str, place: int, of: Sequence[int], shown: Column) -> Tile:
        line = board.verdicts[shown.key][place]
        number = rows[place].numbers[shown.key]
        tied = tuple(_named(rows[other]) for other in of if line[other] == NOISE)
        said = f"{shown.label} {number.text} {number.spread}".rstrip() + (f" {shown.unit}" if shown.unit else "")
        return Tile(heading, rows[place].id, said, tied)

    lower = column.direction == "lower"
    whole = best(having, column.key, lower)
    one_step = [place for place in having if rows[place].nfe == 1]
    tiles, found = (
        [],
        f"{_named(rows[whole])} is the best of {len(rows)}, with {column.label} {rows[whole].numbers[column.key].text}",
    )
    if one_step:
        one = best(one_step, column.key, lower)
        tiles.append(tile("Best in one step", one, one_step, column))
        if one != whole:
            tie = board.verdicts[column.key][one][whole] == NOISE
            found = (
                f"The best one-step model, {rows[one].title}, {'cannot be told from' if tie else 'comes after'} the best of all,"
            )
            found += f" {_named(rows[whole])}: {column.label} {rows[one].numbers[column.key].text} against"
            found += f" {rows[whole].numbers[column.key].text}"
    tiles.append(tile("Best of all", whole, having, column))
    if speed:
        timed = [place for place in having if speed.key in rows[place].numbers]
        front = _front(timed, rows, column, speed)
        if front:
            tiles.append(tile("Fastest on the frontier", best(front, speed.key, True), front, speed))
    return replace(board, found=f"{found}.", tiles=tuple(tiles))


def _front(timed: Sequence[int], rows: Sequence[Row], column: Column, speed: Column) -> list[int]:
    """Rows of the commonest machine that no other is as good as in both, and better in one."""
    machines = Counter(rows[place].numbers[speed.key].method for place in timed)
    same = [place for place in timed if rows[place].numbers[speed.key].method == machines.most_common(1)[0][0]]
    sign = 1 if column.direction == "lower" else -1
    order = sorted(same, key=lambda place: (rows[place].numbers[speed.key].value, sign * rows[place].numbers[column.key].value))
    front = order[:1]
    for place in order[1:]:
        if sign * rows[place].numbers[column.key].value < sign * rows[front[-1]].numbers[column.key].value:
            front.append(place)
    return front


def _named(row: Row) -> str:
    return f"{row.title} ({row.settings})" if row.settings and row.settings != "1 step" else row.title

"""A table of the paper in the mini family: its layout with our numbers, and whether its rows come in the same order.

Numbers of other models, data and extractors cannot be compared, orders can. Every two rows that the paper prints different
numbers of are one order; it is judged as the claims are (boards/claims.py: Welch's difference over training or generation
seeds), with p-values corrected for the number of orders in the column (Holm), so that a few do not agree by chance.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from sbv2bench.boards import claims
from sbv2bench.boards.boards import Board
from sbv2bench.boards.claims import Claim, Estimate, Row, Verdict
from sbv2bench.metrics.comparison import Difference, holm
from sbv2bench.results.published import PrintedRow, Table, declared, published_models, rows_of_table
from sbv2bench.results.records import EvalResult

LEVEL = 0.05
VERDICTS: tuple[Verdict, ...] = ("agrees", "disagrees", "not separated", "not run")


@dataclass(frozen=True)
class Column:
    """A measured column. metrics: the printed ones whose mean stands beside it."""

    key: str
    title: str
    direction: str
    metrics: tuple[str, ...]

    def published(self, row: PrintedRow) -> float | None:
        """What the paper prints of a row; None where it prints not all of it."""
        numbers = [row.numbers.get(metric) for metric in self.metrics]
        known = [number for number in numbers if number is not None]
        return sum(known) / len(known) if len(known) == len(numbers) else None


@dataclass(frozen=True)
class Line:
    """A method, the row of the ladder that stands for it if one does, and what was measured of that by column."""

    printed: PrintedRow
    stand_in: Row | None
    measured: dict[str, Estimate | None]


@dataclass(frozen=True)
class Order:
    """Two methods of which the paper prints the first better in a column. difference: first less second, 95 % interval."""

    key: str
    better: str
    worse: str
    difference: Difference | None
    corrected_p: float | None
    verdict: Verdict


@dataclass(frozen=True)
class Miniature:
    """A table on a mini suite."""

    name: str
    table: Table
    suite: str
    fingerprint: str
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    orders: tuple[Order, ...]

    def any_measured(self) -> bool:
        """Whether any number of the table was measured."""
        return any(value is not None for line in self.lines for value in line.measured.values())

    def counts(self, key: str) -> dict[Verdict, int]:
        """How many orders of a column have each verdict."""
        found = Counter(order.verdict for order in self.orders if order.key == key)
        return {verdict: found[verdict] for verdict in VERDICTS}

    def document(self) -> dict[str, object]:
        """JSON-ready."""
        return {
            "target": self.name,
            "title": self.table.title,
            "suites": [self.suite],
            "protocol": self.fingerprint,
            "columns": [{"key": column.key, "title": column.title, "printed": list(column.metrics)} for column in self.columns],
            "rows": [self._row(line) for line in self.lines],
            "orders": [_order(order) for order in self.orders],
            "counts": {column.key: self.counts(column.key) for column in self.columns},
            "correction": f"Holm within a column, at {LEVEL}",
        }

    def _row(self, line: Line) -> dict[str, object]:
        cells = []
        for column in self.columns:
            found = line.measured[column.key]
            cells.append(
                {
                    "key": column.key,
                    "published": column.published(line.printed),
                    "measured": None if found is None else found.mean.value,
                    "std_err": None if found is None else found.mean.std_err,
                    "over": "" if found is None else found.over,
                }
            )
        model, guidance = (None, None) if line.stand_in is None else (line.stand_in.model, line.stand_in.guidance_scale)
        head = {"method": line.printed.method, "nfe": line.printed.nfe, "model": model, "guidance_scale": guidance}
        return head | {"suspect": line.printed.suspect, "cells": cells}


def _order(order: Order) -> dict[str, object]:
    difference = order.difference
    numbers = (None, None) if difference is None else (difference.value, list(difference.interval))
    return {
        "key": order.key,
        "better": order.better,
        "worse": order.worse,
        "difference": numbers[0],
        "ci95": numbers[1],
        "corrected_p": order.corrected_p,
        "verdict": order.verdict,
    }


def stand_in(row: PrintedRow) -> Row | None:
    """The ladder's row for the model of a printed row, of several the one of its guidance, else the first; None without any."""
    model = published_models()[row.name]
    rows = [own for own in claims.declared().ladder if published_models()[f"{own.table}/{own.method}"].id == model.id]
    return next((own for own in rows if own.guidance_scale == model.guidance_scale), rows[0] if rows else None)


def columns_of(rows: Sequence[PrintedRow]) -> tuple[Column, ...]:
    """The columns that some rows have in the mini suites, in the paper's order."""
    metrics = declared().metrics
    printed = dict.fromkeys(metric for row in rows for metric in row.numbers)
    found: dict[str, list[str]] = {}
    for metric in printed:
        if metrics[metric].mini:
            found.setdefault(metrics[metric].mini, []).append(metric)
    return tuple(
        Column(key, metrics[names[0]].title if len(names) == 1 else key.upper(), metrics[names[0]].direction, tuple(names))
        for key, names in found.items()
    )


def miniature(name: str, board: Board) -> Miniature:
    """A table by the results of a mini suite's board."""
    rows = rows_of_table(name.removeprefix("table"))
    columns = columns_of(rows)
    lines = []
    for row in rows:
        own = stand_in(row)
        found = {column.key: None if own is None else claims.estimate(own, column.key, board.results) for column in columns}
        lines.append(Line(row, own, found))
    orders = [order for column in columns for order in _orders(column, lines, board.results)]
    return Miniature(name, declared().tables[name], board.suite, board.fingerprint, columns, tuple(lines), tuple(orders))


def _orders(column: Column, lines: Sequence[Line], results: Sequence[EvalResult]) -> list[Order]:
    """The orders of a column, Holm's correction made."""
    orders = [order for pair in combinations(lines, 2) if (order := _uncorrected(column, pair, results)) is not None]
    measured = [place for place, order in enumerate(orders) if order.difference is not None]
    corrected = holm([order.difference.p_value for order in orders if order.difference is not None])
    for place, p_value in zip(measured, corrected, strict=True):
        verdict = orders[place].verdict if p_value < LEVEL else "not separated"
        orders[place] = replace(orders[place], corrected_p=p_value, verdict=verdict)
    return orders


def _uncorrected(column: Column, pair: tuple[Line, Line], results: Sequence[EvalResult]) -> Order | None:
    """None where the paper prints no order of two rows, or the mini family has not both."""
    numbers = [column.published(line.printed) for line in pair]
    if None in numbers or numbers[0] == numbers[1] or any(line.stand_in is None or line.printed.suspect for line in pair):
        return None
    better, worse = sorted(pair, key=lambda line: column.published(line.printed) or 0.0, reverse=column.direction == "higher")
    assert better.stand_in is not None and worse.stand_in is not None
    says = f"{better.printed.method} is better than {worse.printed.method}"
    found = claims.measure(Claim(says=says, metric=column.key, better=better.stand_in, worse=worse.stand_in), results)
    return Order(column.key, better.printed.method, worse.printed.method, found.difference, None, found.verdict)

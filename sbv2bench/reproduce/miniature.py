"""A table of the paper in the mini family: its layout with our numbers, and whether its rows come in the same order.

Numbers of other models, data and extractors cannot be compared, orders can. Every two rows that the paper prints different
numbers of are one order; it is judged as the claims are (boards/claims.py: Welch's difference over training or generation
seeds), with p-values corrected for the number of orders in the column (Holm), so that a few do not agree by chance.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from sbv2bench.boards import claims
from sbv2bench.boards.boards import Board
from sbv2bench.boards.claims import LEVEL, Claim, Estimate, Row, Verdict
from sbv2bench.metrics.comparison import Difference
from sbv2bench.reproduce.use import SHIPPED, Used
from sbv2bench.results.published import PrintedRow, Table, declared, published_models, rows_of_table
from sbv2bench.results.records import EvalResult

VERDICTS: tuple[Verdict, ...] = ("agrees", "disagrees", "not separated", "not run")


@dataclass(frozen=True)
class Measured:
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
class MiniLine:
    """A method, the row of the ladder that stands for it if one does, and what was measured of that by column.

    weights: whose they are, in words; "" where nothing was measured.
    """

    printed: PrintedRow
    stand_in: Row | None
    measured: dict[str, Estimate | None]
    weights: str = ""


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
    columns: tuple[Measured, ...]
    lines: tuple[MiniLine, ...]
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

    def _row(self, line: MiniLine) -> dict[str, object]:
        own = line.stand_in
        return {
            "method": line.printed.method,
            "nfe": line.printed.nfe,
            "model": own and own.model,
            "guidance_scale": own and own.guidance_scale,
            "weights": line.weights,
            "suspect": line.printed.suspect,
            "cells": [
                {"key": column.key, "published": column.published(line.printed), **_numbers(line.measured[column.key])}
                for column in self.columns
            ],
        }


def _numbers(found: Estimate | None) -> dict[str, object]:
    mean, std_err = (None, None) if found is None else (found.mean.value, found.mean.std_err)
    return {"measured": mean, "std_err": std_err, "over": "" if found is None else found.over}


def _order(order: Order) -> dict[str, object]:
    found = order.difference
    return vars(order) | {"difference": found and found.value, "ci95": found and list(found.interval)}


def stand_in(row: PrintedRow) -> Row | None:
    """The ladder's row for the model of a printed row, of several the one of its guidance, else the first; None without any."""
    model = published_models()[row.name]
    rows = [own for own in claims.declared().ladder if published_models()[f"{own.table}/{own.method}"].id == model.id]
    return next((own for own in rows if own.guidance_scale == model.guidance_scale), rows[0] if rows else None)


def columns_of(rows: Sequence[PrintedRow]) -> tuple[Measured, ...]:
    """The columns that some rows have in the mini suites, in the paper's order."""
    metrics = declared().metrics
    printed = dict.fromkeys(metric for row in rows for metric in row.numbers)
    found: dict[str, list[str]] = {}
    for metric in printed:
        if metrics[metric].mini:
            found.setdefault(metrics[metric].mini, []).append(metric)
    return tuple(
        Measured(key, metrics[names[0]].title if len(names) == 1 else key.upper(), metrics[names[0]].direction, tuple(names))
        for key, names in found.items()
    )


def miniature(name: str, board: Board, used: Mapping[str, Used] | None = None) -> Miniature:
    """A table by the results of a mini suite's board. used: by a model's id, weights that take its place, as they are sampled."""
    rows = rows_of_table(name.removeprefix("table"))
    columns = columns_of(rows)
    lines = []
    for row in rows:
        own = stand_in(row)
        folder = None if own is None else (used or {}).get(own.model)
        if own is not None and folder is not None:
            own = own.model_copy(update=_in_place(folder, board))
        found = {column.key: None if own is None else claims.estimate(own, column.key, board.results) for column in columns}
        weights = SHIPPED if folder is None else folder.weights
        lines.append(MiniLine(row, own, found, weights if any(found.values()) else ""))
    orders = [order for column in columns for order in _orders(column, lines, board.results)]
    return Miniature(name, declared().tables[name], board.suite, board.fingerprint, columns, tuple(lines), tuple(orders))


def _in_place(used: Used, board: Board) -> dict[str, object]:
    """Under which id a folder was measured on a board, at its own guidance and steps."""
    ids = [result.model.id for result in board.results if used.is_of(result)]
    nfe = used.model.network_evaluations()
    return {"model": next(iter(ids), used.model.id), "nfe": nfe, "guidance_scale": used.model.guidance_scale}


def _orders(column: Measured, lines: Sequence[MiniLine], results: Sequence[EvalResult]) -> list[Order]:
    """The orders of a column, Holm's correction made."""
    found = (_uncorrected(column, pair, results) for pair in combinations(lines, 2))
    return claims.judged_together([order for order in found if order is not None])


def _uncorrected(column: Measured, pair: tuple[MiniLine, MiniLine], results: Sequence[EvalResult]) -> Order | None:
    """None where the paper prints no order of two rows, or the mini family has not both."""
    numbers = [column.published(line.printed) for line in pair]
    if None in numbers or numbers[0] == numbers[1] or any(line.stand_in is None or line.printed.suspect for line in pair):
        return None
    better, worse = sorted(pair, key=lambda line: column.published(line.printed) or 0.0, reverse=column.direction == "higher")
    assert better.stand_in is not None and worse.stand_in is not None
    says = f"{better.printed.method} is better than {worse.printed.method}"
    found = claims.measure(Claim(says=says, metric=column.key, better=better.stand_in, worse=worse.stand_in), results)
    return Order(column.key, better.printed.method, worse.printed.method, found.difference, None, found.verdict)

"""A table of the paper, each printed number beside the measured one: within tolerance or not, or why neither is said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from sbv2bench.boards.boards import latency_of
from sbv2bench.errors import InputError, ToleranceError
from sbv2bench.registry import Registry, suggestion
from sbv2bench.reproduce.search import Found, Search, result_of, twins
from sbv2bench.reproduce.use import RETRAINED, Used, weights_of
from sbv2bench.results.conditions import dtype_of
from sbv2bench.results.published import (
    EDGE,
    PrintedMetric,
    PrintedRow,
    Table,
    declared,
    published_models,
    rows_like,
    rows_of_table,
)
from sbv2bench.results.records import EvalResult
from sbv2bench.specs import ModelSpec, SuiteSpec

OURS = "half of the last printed digit, plus a tolerance of our own (catalog/tables.yaml): nobody has published any"
WITHIN: Literal["within printed precision plus tolerance"] = "within printed precision plus tolerance"
Verdict = Literal["within printed precision plus tolerance", "outside", "published only", "suspect", "not run"]


@dataclass(frozen=True)
class Cell:
    """One printed number. difference: measured less published. allowed: how far off it may be, by our own tolerance.

    comparable: equal protocols, as far as the paper states them. inferred: what of them it does not state, with the values
    that were taken. provisional: why it may be another model's. like: other published rows that it cannot be told from.
    """

    metric: str
    published: float
    verdict: Verdict
    measured: float | None = None
    std_err: float | None = None
    difference: float | None = None
    allowed: float | None = None
    comparable: bool = False
    inferred: tuple[str, ...] = ()
    provisional: str = ""
    like: tuple[str, ...] = ()
    note: str = ""
    file: str = ""


@dataclass(frozen=True)
class Line:
    """A method of the table, as one model was sampled: a method whose sampling the paper does not state may have several.

    weights: whose they are, in words; "" where nothing was measured.
    """

    printed: PrintedRow
    model: str
    cells: tuple[Cell, ...]
    weights: str = ""


@dataclass(frozen=True)
class Reproduction:
    """A table at paper scale. differing: by suite, protocol fields of the results that are not as declared."""

    name: str
    table: Table
    suites: tuple[str, ...]  # "coco2014-30k@v1"
    lines: tuple[Line, ...]
    differing: dict[str, tuple[str, ...]]

    def cells(self) -> list[tuple[Line, Cell]]:
        """Every cell with its line."""
        return [(line, cell) for line in self.lines for cell in line.cells]

    def any_measured(self) -> bool:
        """Whether anything of the table was measured."""
        return any(cell.measured is not None for _, cell in self.cells())

    def require_tolerance(self) -> None:
        """Raises ToleranceError if a number is outside although the protocols are equal, and no twin of its model is within.

        An own retraining is shown and not held to it: it has other weights than the paper's.
        """
        judged = [(line, cell) for line, cell in self.cells() if cell.comparable and line.weights != RETRAINED]
        within = {(line.printed.method, cell.metric) for line, cell in judged if cell.verdict == WITHIN}
        outside = [
            (line, cell)
            for line, cell in judged
            if cell.verdict == "outside" and (line.printed.method, cell.metric) not in within
        ]
        if outside:
            line, cell = outside[0]
            unstated = ", ".join(dict.fromkeys(field for _, cell in outside for field in cell.inferred))
            under = f"a protocol of which the paper does not state {unstated}" if unstated else "the paper's protocol"
            raise ToleranceError(
                f"{self.name}: {len(outside)} of {len(self.cells())} numbers are outside under {under}\n"
                f"the first: {line.printed.method}, {cell.metric}: found {cell.measured:.5g}, expected {cell.published:g} within "
                f"{cell.allowed:.3g} (our tolerance)" + (f"; provisional: {cell.provisional}" if cell.provisional else ""),
                f"sbv2bench show {line.model}",
            )

    def document(self) -> dict[str, object]:
        """JSON-ready."""
        rows = [
            {
                "method": line.printed.method,
                "nfe": line.printed.nfe,
                "model": line.model,
                "weights": line.weights,
                "cells": [vars(cell) for cell in line.cells],
            }
            for line in self.lines
        ]
        return {
            "target": self.name,
            "title": self.table.title,
            "note": self.table.note,
            "tolerance": OURS,
            "suites": list(self.suites),
            "protocol_differences": {suite: list(fields) for suite, fields in self.differing.items()},
            "rows": rows,
        }


def target_names() -> list[str]:
    """Everything that can be reproduced."""
    return [*declared().tables, *declared().figures]


def check_target(name: str) -> None:
    """Raises InputError with a suggestion where there is no such table or figure."""
    if name not in target_names():
        close = suggestion(name, target_names())
        raise InputError(
            f"reproduce: found {name!r}, expected {', '.join(target_names())}" + (f"; did you mean {close!r}?" if close else ""),
            f"sbv2bench reproduce {close or 'table3'}",
        )


def suites_of_table(name: str, suites: Sequence[SuiteSpec]) -> tuple[SuiteSpec, ...]:
    """Of some suites at paper scale, those that a column of the table is of. Raises InputError if none is."""
    has = {declared().metrics[metric].suite for row in rows_of_table(name.removeprefix("table")) for metric in row.numbers}
    own = tuple(suite for suite in suites if suite.id in has)
    if not own:
        asked, expected = ", ".join(suite.id for suite in suites), sorted(has)
        raise InputError(
            f"{name}: found no column that suite {asked} measures, expected {' or '.join(expected)}",
            f"sbv2bench reproduce {name} --suite {expected[0]}",
        )
    return own


def rows_on(name: str, suites: Sequence[SuiteSpec]) -> list[tuple[PrintedRow, list[str]]]:
    """A table's rows that have metrics of some suites, each with these."""
    metrics, ids = declared().metrics, [suite.id for suite in suites]
    rows = rows_of_table(name.removeprefix("table"))
    found = [(row, [metric for metric in row.numbers if metrics[metric].suite in ids]) for row in rows]
    return [(row, own) for row, own in found if own]


def reproduce_table(
    name: str, suites: Sequence[SuiteSpec], found: Search, registry: Registry, used: Mapping[str, Used] | None = None
) -> Reproduction:
    """A table at paper scale, from results on suites that its columns are of. used: by a model's id, other weights of it."""
    lines = []
    for row, metrics in rows_on(name, suites):
        lines += _lines(row, metrics, found, registry, (used or {}).get(published_models()[row.name].id))
    return Reproduction(
        name,
        declared().tables[name],
        tuple(f"{suite.id}@v{suite.version}" for suite in suites),
        tuple(lines),
        {suite: one.differing for suite, one in found.found.items() if one.differing},
    )


def _lines(row: PrintedRow, metrics: Sequence[str], search: Search, registry: Registry, used: Used | None = None) -> list[Line]:
    """A line for the model as it is declared and for each of its twins, of those that were measured; else the first by itself.

    Then one for the weights that are used in its place, measured or not.
    """
    model = published_models()[row.name]
    model = registry.models.get(model.id, model)
    own, others = _parted(search, used)
    lines = []
    for twin in twins(model, [found.board for found in own.found.values()]):
        sampled = model.model_copy(update={name: getattr(twin, name) for name in model.inferred})
        name = model.id if twin is model else twin.id
        lines.append(_line(row, metrics, sampled, name, own, whose=sampled))
    measured = [line for line in lines if line.weights]
    if used is not None:
        line = _line(row, metrics, used.model, used.model.id, others, whose=None)
        return [*measured, replace(line, weights=used.weights)]
    return measured or lines[:1]


def _parted(search: Search, used: Used | None) -> tuple[Search, Search]:
    """The results that are not of a used folder's weights, and those that are."""
    parts: list[dict[str, Found]] = [{}, {}]
    for suite, found in search.found.items():
        for place in (0, 1):
            rows = tuple(row for row in found.board.rows if (used is not None and used.is_of(row[1])) == bool(place))
            parts[place][suite] = replace(found, board=replace(found.board, rows=rows))
    return replace(search, found=parts[0]), replace(search, found=parts[1])


def _line(
    row: PrintedRow, metrics: Sequence[str], model: ModelSpec, name: str, search: Search, *, whose: ModelSpec | None
) -> Line:
    """whose: the model that a result must be of, sampled as declared; None: all of the search's are."""
    cells = tuple(_cell(row, metric, model, search, whose) for metric in metrics)
    files = {cell.file for cell in cells if cell.measured is not None}
    results = [result for found in search.found.values() for file, result in found.board.rows if file in files]
    return Line(row, name, cells, ", ".join(dict.fromkeys(map(weights_of, results))))


def _cell(row: PrintedRow, metric: str, model: ModelSpec, search: Search, whose: ModelSpec | None) -> Cell:
    printed, value = declared().metrics[metric], row.numbers[metric]
    if row.suspect:
        return Cell(metric, value, "suspect", note=row.suspect)
    if not printed.key or model.images == "none":
        return Cell(metric, value, "published only", note=model.origin if printed.key else "")
    found = search.found.get(printed.suite)
    best = None if found is None else result_of(whose, found.board, printed.dtypes)
    measured = None if best is None else _measured(best[1], printed)
    if found is None or best is None or measured is None:
        return Cell(metric, value, "not run")
    number, std_err = measured
    allowed = printed.allowed(row.decimals(metric))
    verdict: Verdict = WITHIN if abs(number - value) <= allowed + EDGE else "outside"
    apart = _apart(best[1], printed)
    dtype = dtype_of(best[1])
    other = f"measured in {dtype}, the paper's is {' or '.join(printed.dtypes)}" if dtype not in {"", *printed.dtypes} else ""
    taken = [f"{name} {getattr(model, name)}" for name in model.inferred]
    taken += [f"dtype {dtype}"] if dtype and not printed.dtype and not other else []
    return Cell(
        metric,
        value,
        "published only" if apart else verdict,
        measured=number,
        std_err=std_err,
        difference=number - value,
        allowed=allowed,
        comparable=not found.differing and not apart and not other,
        inferred=(*taken, *printed.inferred),
        provisional=model.provisional,
        like=rows_like(metric, number, row),
        note="; ".join(filter(None, [apart, other])),
        file=best[0],
    )


def _measured(result: EvalResult, printed: PrintedMetric) -> tuple[float, float | None] | None:
    """The number that stands for a printed one, in the paper's unit, with its standard error if it has one."""
    if printed.hardware:
        latency = latency_of(result)
        return None if latency is None else (latency.milliseconds * printed.scale, None)
    metric = result.metrics.get(printed.key)
    if metric is None:
        return None
    number, error = metric.value, metric.std_err
    if printed.style:
        own = (metric.styles or {}).get(printed.style)
        if own is None:
            return None
        number, error = own["value"], own.get("std_err")
    return number * printed.scale, None if error is None else error * printed.scale


def _apart(result: EvalResult, printed: PrintedMetric) -> str:
    """Why a latency cannot be judged by the paper's; "" for one that can, and for all that no clock measures."""
    latency = latency_of(result) if printed.hardware else None
    if latency is None or (latency.protocol == printed.protocol and printed.hardware in latency.hardware):
        return ""
    return (
        f"measured by protocol {latency.protocol} on {latency.hardware or 'unknown hardware'}, "
        f"the paper's is {printed.protocol} on {printed.hardware}"
    )

"""The table of attained coverage: its rows, as CSV and as a page."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from benchmarks.populations import Cell

MANIFOLD = ("precision", "recall", "density", "coverage")
TRIALS = 1000


@dataclass(frozen=True)
class Row:
    """One line of the table. error_ratio: root mean square of the standard errors over the deviation of the values."""

    metric: str
    method: str
    scenario: str
    separation: float
    dimension: int
    n: int
    trials: int
    truth: float
    truth_std_err: float
    deviation: float
    error_ratio: float
    coverage: float
    coverage_low: float
    coverage_high: float
    cpu_seconds: float


def belongs(row: Row, cell: Cell) -> bool:
    """Whether the row is of this cell; precision, recall, density and coverage are one."""
    metric = "pr" if row.metric in MANIFOLD else row.metric
    return Cell(metric, row.scenario, row.separation, row.dimension, row.n) == cell


def read(path: Path) -> list[Row]:
    """The rows of a CSV that to_csv wrote; none where there is no file."""
    if not path.is_file():
        return []
    kinds = {"str": str, "int": int, "float": float}
    with path.open(newline="") as file:
        return [
            Row(**{field.name: kinds[str(field.type)](line[field.name]) for field in fields(Row)})
            for line in csv.DictReader(file)
        ]


def to_csv(rows: list[Row]) -> str:
    """With a header line; numbers to six digits."""
    out = io.StringIO()
    writer = csv.DictWriter(out, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: f"{value:.6g}" if isinstance(value, float) else value for name, value in asdict(row).items()})
    return out.getvalue()


def to_markdown(rows: list[Row], cells: Sequence[Cell]) -> str:
    """The table as a page: one line a row. cells: all that a whole table has."""
    whole = len([cell for cell in cells if any(belongs(row, cell) and row.trials >= TRIALS for row in rows)])
    lines = [
        "# How often nominal 95 % intervals hold the truth",
        "",
        "Made by `tests/benchmarks/interval_coverage.py`, which says what is drawn and what the truth is; the numbers are in",
        f"[coverage.csv](coverage.csv). {whole} of {len(cells)} cells have {TRIALS:,} trials or more; a line with fewer is",
        "provisional, and the command replaces it. Precision, recall, density and coverage count as one cell.",
        "Separation 0 (equal distributions) stands apart: there the error is of second order. \\*: outside 92 to 98 %.",
        "`error` is the mean standard error over the deviation of the values: 1 is right, more is on the safe side.",
        "",
        "| metric | method | scenario | separation | D | N | trials | coverage | its 95 % interval | error | CPU s |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    metrics = ("mean", "share", "ratio", "fid", "fid_infinity", "kid", "cmmd", *MANIFOLD)
    order = {name: place for place, name in enumerate(metrics)}
    for row in sorted(rows, key=lambda row: (order[row.metric], row.method, row.scenario, row.separation, row.dimension, row.n)):
        shown = f"{100 * row.coverage:.1f} %" + ("" if 0.92 <= row.coverage <= 0.98 else " \\*")
        span = f"{100 * row.coverage_low:.1f} to {100 * row.coverage_high:.1f} %"
        where = f"{row.scenario} | {row.separation:g} | {row.dimension or ''} | {row.n:,}"
        numbers = f"{row.trials:,} | {shown} | {span} | {row.error_ratio:.2f} | {row.cpu_seconds:.0f}"
        lines.append(f"| {row.metric} | {row.method} | {where} | {numbers} |")
    return "\n".join(lines) + "\n"

"""A comparison as people read it: values with the best in bold and the second underlined, then every difference."""

from __future__ import annotations

import json
from collections.abc import Callable

from rich.console import Console

from sbv2bench.compare.differences import LEVEL, Comparison, Contestant, MetricDifference
from sbv2bench.report.columns import Column, csv_text, latex_lines, markdown_lines, markdown_plain, terminal_table
from sbv2bench.report.terminal import say
from sbv2bench.report.values import ARROWS, NOT_HELD_OUT, NOT_HELD_OUT_MEANS, marked, value_cell
from sbv2bench.results.records import MetricValue


def _metric(comparison: Comparison, key: str) -> MetricValue:
    return comparison.contestants[0].result.metrics[key]


def ranks(comparison: Comparison, key: str) -> list[int]:
    """The place of each contestant in a metric, 1 the best; equal values share a place."""
    values = [contestant.result.metrics[key].value for contestant in comparison.contestants]
    sign = 1 if _metric(comparison, key).direction == "lower" else -1
    return [1 + sum(sign * other < sign * value for other in set(values)) for value in values]


def value_columns(comparison: Comparison) -> list[Column[Contestant]]:
    """The table of values: a row a contestant."""

    def column(key: str) -> Column[Contestant]:
        metric = _metric(comparison, key)
        places = dict(zip(map(id, comparison.contestants), ranks(comparison, key), strict=True))
        return Column(
            key, f"{metric.label} {ARROWS[metric.direction]}", lambda row: row.result.metrics[key].value,
            lambda row: value_cell(row.result, key), place=lambda row: places[id(row)],
        )  # fmt: skip

    return [
        Column("model", "model", lambda row: row.name, left=True),
        Column("nfe", "NFE", lambda row: row.result.model.nfe),
        *map(column, comparison.keys),
    ]


def _interval(row: MetricDifference) -> str:
    return "" if row.ci95 is None else f"[{row.ci95[0]:+.3g}, {row.ci95[1]:+.3g}]"


def _p(row: MetricDifference) -> str:
    return "" if row.p_corrected is None else "< 0.0001" if row.p_corrected < 1e-4 else f"{row.p_corrected:.4f}"


DIFFERENCES: tuple[Column[MetricDifference], ...] = (
    Column("metric", "", lambda row: row.metric),
    Column("label", "metric", lambda row: row.label, left=True),
    Column("model", "model", lambda row: row.model, left=True),
    Column("against", "against", lambda row: row.against, left=True),
    Column("value", "", lambda row: row.value),
    Column("value_against", "", lambda row: row.value_against),
    Column("difference", "difference", lambda row: row.difference, lambda row: f"{row.difference:+.4g}"),
    Column("", "95 % interval", _interval, left=True),
    Column("ci95_low", "", lambda row: None if row.ci95 is None else row.ci95[0]),
    Column("ci95_high", "", lambda row: None if row.ci95 is None else row.ci95[1]),
    Column("p_value", "", lambda row: row.p_value),
    Column("p_corrected", "p (Holm)", lambda row: row.p_corrected, _p),
    Column("verdict", "verdict", lambda row: row.verdict, left=True),
    Column("method", "method", lambda row: row.method, left=True, narrow=False),
)


def notes(comparison: Comparison) -> list[str]:
    """What a reader must know beside the tables."""
    suite = comparison.contestants[0].result.suite
    document = comparison.document()
    return [
        f"{suite.id}@v{suite.version}, {suite.num_generated:,} images, protocols {comparison.fingerprint[:8]}",
        f"verdicts at {LEVEL:.0%} after {document['correction']}; the intervals are of single comparisons",
        *comparison.notes,
        *([f"{NOT_HELD_OUT} {NOT_HELD_OUT_MEANS}"] if marked(row.result for row in comparison.contestants) else []),
    ]


def to_markdown(comparison: Comparison) -> str:
    """Both tables and the notes."""
    lines = markdown_lines(value_columns(comparison), comparison.contestants, foreign=True)
    lines += ["", "Best in bold, second underlined.", ""]
    lines += [*markdown_lines(DIFFERENCES, comparison.differences, foreign=True), ""]
    return "\n".join([*lines, *(f"- {markdown_plain(note)}" for note in notes(comparison))]) + "\n"


def to_csv(comparison: Comparison) -> str:
    """Every difference, numbers in full."""
    return csv_text((DIFFERENCES, comparison.differences))


def to_latex(comparison: Comparison) -> str:
    """The table of values as the paper sets it: booktabs, the best bold, the second underlined. Needs no other package."""
    lines = [f"% {note}" for note in notes(comparison)]
    return "\n".join([*lines, *latex_lines(value_columns(comparison), comparison.contestants)]) + "\n"


def to_json(comparison: Comparison) -> str:
    """The whole comparison as one JSON document."""
    return json.dumps(comparison.document(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def print_comparison(console: Console, comparison: Comparison) -> None:
    """Both tables and the notes, in a terminal."""
    console.print(terminal_table(value_columns(comparison), comparison.contestants, "values"))
    colours = {"better": "green", "worse": "red"}
    shown = [column for column in DIFFERENCES if column.narrow]
    console.print(terminal_table(shown, comparison.differences, "differences", style=lambda row: colours.get(row.verdict)))
    for method in dict.fromkeys(difference.method for difference in comparison.differences):
        own = ", ".join(dict.fromkeys(row.label for row in comparison.differences if row.method == method))
        say(console, f"{own}: {method}")
    for note in notes(comparison):
        say(console, note)


FORMATS: dict[str, Callable[[Comparison], str]] = {"md": to_markdown, "csv": to_csv, "latex": to_latex, "json": to_json}

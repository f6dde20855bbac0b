"""A comparison as people read it: values, of which the best are set off, then every difference."""

from __future__ import annotations

import json
from collections.abc import Callable

from rich.console import Console

from sbv2bench.compare.differences import LEVEL, Comparison, Contestant, MetricDifference, leading
from sbv2bench.compare.frontier import Frontier, Setting, columns
from sbv2bench.report.columns import Column, csv_text, latex_lines, markdown_lines, markdown_plain
from sbv2bench.report.layout import print_table, print_words
from sbv2bench.report.values import ARROWS, LEADERS_MEAN, NOT_HELD_OUT, NOT_HELD_OUT_MEANS, marked, p_cell, value_cell
from sbv2bench.results.records import MetricValue


def _metric(comparison: Comparison, key: str) -> MetricValue:
    return comparison.contestants[0].result.metrics[key]


def value_columns(comparison: Comparison) -> list[Column[Contestant]]:
    """The table of values: a row a contestant."""

    def column(key: str) -> Column[Contestant]:
        metric = _metric(comparison, key)
        lead = {id(comparison.contestants[place]) for place in leading(comparison.contestants, key)}
        return Column(
            key, f"{metric.label} {ARROWS[metric.direction]}", lambda row: row.result.metrics[key].value,
            lambda row: value_cell(row.result, key), strong=lambda row: id(row) in lead,
        )  # fmt: skip

    return [
        Column("model", "model", lambda row: row.name, left=True, names=True),
        Column("nfe", "NFE", lambda row: row.result.model.nfe),
        *map(column, comparison.keys),
    ]


def _turned(comparison: Comparison) -> list[Column[str]]:
    """The same table with a row a metric."""

    def column(place: int, contestant: Contestant) -> Column[str]:
        return Column(
            "", contestant.name, lambda key: value_cell(contestant.result, key),
            strong=lambda key: place in leading(comparison.contestants, key),
        )  # fmt: skip

    def label(key: str) -> str:
        metric = _metric(comparison, key)
        return f"{metric.label} {ARROWS[metric.direction]}"

    metric: Column[str] = Column("", "metric", label, left=True, names=True)
    return [metric, *(column(place, one) for place, one in enumerate(comparison.contestants))]


def _interval(row: MetricDifference) -> str:
    return "" if row.ci95 is None else f"[{row.ci95[0]:+.3g}, {row.ci95[1]:+.3g}]"


DIFFERENCES: tuple[Column[MetricDifference], ...] = (
    Column("metric", "", lambda row: row.metric),
    Column("label", "metric", lambda row: row.label, left=True, names=True),
    Column("model", "model", lambda row: row.model, left=True, names=True),
    Column("against", "against", lambda row: row.against, left=True, names=True),
    Column("value", "", lambda row: row.value),
    Column("value_against", "", lambda row: row.value_against),
    Column("difference", "difference", lambda row: row.difference, lambda row: f"{row.difference:+.4g}"),
    Column("", "95 % interval", _interval, left=True, room=1),
    Column("ci95_low", "", lambda row: None if row.ci95 is None else row.ci95[0]),
    Column("ci95_high", "", lambda row: None if row.ci95 is None else row.ci95[1]),
    Column("p_value", "", lambda row: row.p_value),
    Column("p_corrected", "p (Holm)", lambda row: row.p_corrected, lambda row: p_cell(row.p_corrected), room=2),
    Column("verdict", "verdict", lambda row: row.verdict, left=True),
    Column("method", "method", lambda row: row.method, left=True),
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
    lines += ["", f"In bold: {LEADERS_MEAN}.", ""]
    lines += [*markdown_lines(DIFFERENCES, comparison.differences, foreign=True), ""]
    return "\n".join([*lines, *(f"- {markdown_plain(note)}" for note in notes(comparison))]) + "\n"


def to_csv(comparison: Comparison) -> str:
    """Every difference, numbers in full."""
    return csv_text((DIFFERENCES, comparison.differences))


def to_latex(comparison: Comparison) -> str:
    """The table of values as the paper sets it: booktabs, the best bold. Needs no other package."""
    lines = [f"% {note}" for note in notes(comparison)]
    return "\n".join([*lines, *latex_lines(value_columns(comparison), comparison.contestants)]) + "\n"


def to_json(comparison: Comparison) -> str:
    """The whole comparison as one JSON document."""
    return json.dumps(comparison.document(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def print_comparison(console: Console, comparison: Comparison) -> None:
    """Both tables and the notes, in a terminal."""
    if len(comparison.contestants) < len(comparison.keys):  # narrower with a column a model
        print_table(console, _turned(comparison), comparison.keys, "values")
    else:
        print_table(console, value_columns(comparison), comparison.contestants, "values")
    print_words(console, f"* {LEADERS_MEAN}", indent=2)
    console.print()
    rows, colours = comparison.differences, {"better": "green", "worse": "red"}
    alike = {key: value for key in ("model", "against") if len(value := {getattr(row, key) for row in rows}) == 1}
    shown = [column for column in DIFFERENCES if column.key not in {*alike, "method"}]
    names = {key: value.pop() for key, value in alike.items()}
    title = f"{names.get('model', 'each model')} less {names.get('against', 'each other')}"
    print_table(console, shown, rows, title, style=lambda row: colours.get(row.verdict))
    for method in dict.fromkeys(row.method for row in rows):
        own = ", ".join(dict.fromkeys(row.label for row in rows if row.method == method))
        print_words(console, f"{own}: {method}", indent=2)
    for note in notes(comparison):
        print_words(console, note, indent=2)


FORMATS: dict[str, Callable[[Comparison], str]] = {"md": to_markdown, "csv": to_csv, "latex": to_latex, "json": to_json}


def print_frontier(console: Console, found: Frontier) -> None:
    """The other's settings, the verdict and the notes, in a terminal."""
    rows = columns(found)
    print_table(console, rows, found.settings, f"settings beside {found.student.name}", style=_reached)
    for words in (found.verdict(), *found.notes):
        print_words(console, words, indent=2)


def _reached(row: Setting) -> str | None:
    return None if row.reaches else "dim"


def _frontier_markdown(found: Frontier) -> str:
    lines = [found.verdict(), "", *markdown_lines(columns(found), found.settings, foreign=True), ""]
    return "\n".join([*lines, *(f"- {markdown_plain(note)}" for note in found.notes)]) + "\n"


FRONTIER_FORMATS: dict[str, Callable[[Frontier], str]] = {
    "md": _frontier_markdown,
    "csv": lambda found: csv_text((columns(found), found.settings)),
    "latex": lambda found: "\n".join(latex_lines(columns(found), found.settings)) + "\n",
    "json": lambda found: json.dumps(found.document(), indent=1, ensure_ascii=False, allow_nan=False) + "\n",
}

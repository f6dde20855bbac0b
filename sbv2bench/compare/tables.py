"""A comparison as people read it: values with the best in bold and the second underlined, then every difference."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Sequence

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sbv2bench.boards.tables import ARROWS, NOT_HELD_OUT, NOT_HELD_OUT_MEANS, marked, value_cell
from sbv2bench.compare.differences import LEVEL, Comparison, MetricDifference
from sbv2bench.report.terminal import say
from sbv2bench.results.records import MetricValue

_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "†": r"\dag{}", "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
}  # fmt: skip

DIFFERENCE_HEADS = ("metric", "model", "against", "difference", "95 % interval", "p (Holm)", "verdict", "method")


def _metric(comparison: Comparison, key: str) -> MetricValue:
    return comparison.contestants[0].result.metrics[key]


def _heads(comparison: Comparison) -> list[str]:
    metrics = [_metric(comparison, key) for key in comparison.keys]
    return ["model", "NFE", *(f"{metric.label} {ARROWS[metric.direction]}" for metric in metrics)]


def ranks(comparison: Comparison, key: str) -> list[int]:
    """The place of each contestant in a metric, 1 the best; equal values share a place."""
    values = [contestant.result.metrics[key].value for contestant in comparison.contestants]
    sign = 1 if _metric(comparison, key).direction == "lower" else -1
    return [1 + sum(sign * other < sign * value for other in set(values)) for value in values]


def _value_rows(
    comparison: Comparison, plain: Callable[[str], str], best: Callable[[str], str], second: Callable[[str], str]
) -> list[list[str]]:
    """A row a contestant; plain, best and second dress a cell for the format."""
    places = {key: ranks(comparison, key) for key in comparison.keys}
    rows = []
    for number, contestant in enumerate(comparison.contestants):
        row = [plain(contestant.name), plain(str(contestant.result.model.nfe))]
        for key in comparison.keys:
            cell = plain(value_cell(contestant.result, key))
            row.append({1: best, 2: second}.get(places[key][number], str)(cell))
        rows.append(row)
    return rows


def difference_cells(row: MetricDifference) -> list[str]:
    """One difference, rounded, in the order of DIFFERENCE_HEADS."""
    interval = "" if row.ci95 is None else f"[{row.ci95[0]:+.3g}, {row.ci95[1]:+.3g}]"
    p = "" if row.p_corrected is None else "< 0.0001" if row.p_corrected < 1e-4 else f"{row.p_corrected:.4f}"
    return [row.label, row.model, row.against, f"{row.difference:+.4g}", interval, p, row.verdict, row.method]


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

    def plain(text: str) -> str:
        return re.sub(r"([\\`*_<>|\[\]])", r"\\\1", text).replace("\n", " ")

    values = _value_rows(comparison, plain, lambda cell: f"**{cell}**", lambda cell: f"<u>{cell}</u>")
    lines = _markdown_table([plain(head) for head in _heads(comparison)], values)
    lines += ["", "Best in bold, second underlined.", ""]
    rows = [[plain(cell) for cell in difference_cells(row)] for row in comparison.differences]
    lines += [*_markdown_table(DIFFERENCE_HEADS, rows), "", *(f"- {plain(note)}" for note in notes(comparison))]
    return "\n".join(lines) + "\n"


def _markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *rows)]


def to_csv(comparison: Comparison) -> str:
    """Every difference, numbers in full."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["metric", "label", "model", "against", "value", "value_against", "difference", "ci95_low", "ci95_high", "p_value",
         "p_corrected", "verdict", "method"]
    )  # fmt: skip
    for row in comparison.differences:
        low, high = row.ci95 or (None, None)
        numbers = (row.value, row.value_against, row.difference, low, high, row.p_value, row.p_corrected)
        cells = ["" if number is None else repr(number) for number in numbers]
        writer.writerow([row.metric, row.label, row.model, row.against, *cells, row.verdict, row.method])
    return out.getvalue()


def to_latex(comparison: Comparison) -> str:
    """The table of values as the paper sets it: booktabs, the best bold, the second underlined. Needs no other package."""

    def plain(text: str) -> str:
        return "".join(_LATEX.get(character, character) for character in text)

    heads = [plain(head) for head in _heads(comparison)]
    rows = _value_rows(comparison, plain, lambda cell: rf"\textbf{{{cell}}}", lambda cell: rf"\underline{{{cell}}}")
    lines = [f"% {note}" for note in notes(comparison)]
    lines += [rf"\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}", r"\toprule", " & ".join(heads) + r" \\", r"\midrule"]
    lines += [" & ".join(row) + r" \\" for row in rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def to_json(comparison: Comparison) -> str:
    """The whole comparison as one JSON document."""
    return json.dumps(comparison.document(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def to_html(comparison: Comparison) -> str:
    """A page that needs nothing else. Raises PrerequisiteError where the [report] extra is not installed."""
    from sbv2bench.boards import page as board_page

    rows = [(contestant.name, contestant.result) for contestant in comparison.contestants]
    return board_page.comparison(rows, [difference_cells(row) for row in comparison.differences], notes(comparison))


def print_comparison(console: Console, comparison: Comparison) -> None:
    """Both tables and the notes, in a terminal."""
    values = Table(title="values", title_justify="left", box=SIMPLE, padding=(0, 1))
    for head in _heads(comparison):
        values.add_column(head, overflow="fold", justify="left" if head == "model" else "right")
    for row in _value_rows(
        comparison, escape, lambda cell: f"[bold]{cell}[/bold]", lambda cell: f"[underline]{cell}[/underline]"
    ):
        values.add_row(*row)
    console.print(values)
    shown = Table(title="differences", title_justify="left", box=SIMPLE, padding=(0, 1))
    for head in DIFFERENCE_HEADS[:-1]:
        shown.add_column(head, overflow="fold", justify="right" if head in {"difference", "p (Holm)"} else "left")
    colours = {"better": "green", "worse": "red"}
    for difference in comparison.differences:
        cells = [escape(cell) for cell in difference_cells(difference)[:-1]]
        shown.add_row(*cells, style=colours.get(difference.verdict))
    console.print(shown)
    for method in dict.fromkeys(difference.method for difference in comparison.differences):
        own = ", ".join(dict.fromkeys(row.label for row in comparison.differences if row.method == method))
        say(console, f"{own}: {method}")
    for note in notes(comparison):
        say(console, note)


FORMATS: dict[str, Callable[[Comparison], str]] = {
    "md": to_markdown, "csv": to_csv, "latex": to_latex, "json": to_json, "html": to_html
}  # fmt: skip

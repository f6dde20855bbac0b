"""What `reproduce` found, in the terminal: the paper's layout, our numbers in it, verdicts, and what they rest on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console

from sbv2bench.boards import claims
from sbv2bench.boards.claims import Verdict
from sbv2bench.report.columns import Column
from sbv2bench.report.layout import print_table, print_words
from sbv2bench.report.terminal import number, say
from sbv2bench.report.values import ARROWS, LEADERS_MEAN, with_error
from sbv2bench.reproduce.figure import Curve, FigureCurves
from sbv2bench.reproduce.miniature import VERDICTS, Measured, Miniature, MiniLine
from sbv2bench.reproduce.table import OURS, WITHIN, Cell, Line, Reproduction
from sbv2bench.results.published import PrintedMetric, declared

_SHORT: dict[str, str] = {WITHIN: "within"}
_JUDGED = ("the paper", "verdict")
_LISTED = 12  # orders that are not agreed with, shown one by one


def print_found(console: Console, found: Reproduction | Miniature | FigureCurves) -> None:
    """Whatever was reproduced."""
    if isinstance(found, Reproduction):
        print_reproduction(console, found)
    elif isinstance(found, Miniature):
        print_miniature(console, found)
    else:
        print_figure(console, found)


def print_reproduction(console: Console, found: Reproduction) -> None:
    """A line for each printed number."""
    title = f"{found.name}: {found.table.title}, on {', '.join(found.suites)}"
    print_table(console, NUMBERS, found.cells(), title)
    for suite, fields in found.differing.items():
        what = f"no verdict counts; it differs in {', '.join(fields)}"
        print_words(console, f"{suite}: the results' protocol is not the declared one and {what}")
    for remark in remarks(found):
        print_words(console, remark, indent=2)
    if found.table.note:
        print_words(console, f"note: {found.table.note}", indent=2)
    print_words(console, f"{WITHIN}: off by at most {OURS}", indent=2)


def _title(metric: PrintedMetric | Measured) -> str:
    return f"{metric.title} {ARROWS[metric.direction]}"


def _at_first(text: Callable[[Line], object]) -> Callable[[tuple[Line, Cell]], object]:
    """What is said of a method, beside the first of its numbers alone."""
    return lambda row: text(row[0]) if row[1] is row[0].cells[0] else None


def _measured(cell: Cell) -> str:
    if cell.measured is None:
        return ""
    return with_error(cell.measured, cell.std_err) if cell.std_err else number(cell.measured)


NUMBERS: tuple[Column[tuple[Line, Cell]], ...] = (
    Column("", "method", _at_first(lambda line: line.printed.method), left=True, names=True),
    Column("", "NFE", _at_first(lambda line: line.printed.nfe)),
    Column("", "weights", _at_first(lambda line: line.weights), left=True, room=1),
    Column("", "metric", lambda row: _title(declared().metrics[row[1].metric]), left=True, names=True),
    Column("", "published", lambda row: row[0].printed.text(row[1].metric)),
    Column("", "measured", lambda row: _measured(row[1])),
    Column("", "difference", lambda row: "" if row[1].difference is None else f"{row[1].difference:+.4g}", room=1),
    Column("", "allowed (ours)", lambda row: "" if row[1].allowed is None else f"± {row[1].allowed:.4g}", room=2),
    Column("", "verdict", lambda row: _SHORT.get(row[1].verdict, row[1].verdict), left=True),
    Column("", "note", lambda row: row[1].note, left=True, prose=True),
)


def remarks(found: Reproduction) -> list[str]:
    """What a reader must know of the measured numbers: protocol, model, and the other rows that a number might be of."""
    said: dict[str, list[str]] = {}
    alike = []
    for line, cell in found.cells():
        if cell.measured is None:
            continue
        stated = "under the paper's protocol"
        if cell.inferred:
            stated = f"the paper does not state {', '.join(cell.inferred)}, so these are inferred"
        if not cell.comparable:
            stated = "not under the paper's protocol" + (f"; also, {stated}" if cell.inferred else "")
        stated += f"; provisional: {cell.provisional}" if cell.provisional else ""
        said.setdefault(f"{line.printed.method} ({line.model}): {stated}", []).append(cell.metric)
        if cell.like:
            title = declared().metrics[cell.metric].title
            alike.append(f"{line.printed.method}, {title} {number(cell.measured)}: cannot be told from {', '.join(cell.like)}")
    return [f"{text} ({', '.join(metrics)})" for text, metrics in said.items()] + alike


def print_miniature(console: Console, found: Miniature) -> None:
    """The paper's layout with our numbers beside its own, then how far the orders of rows agree."""
    title = f"{found.name} in miniature: {found.table.title}, on {found.suite}, protocol {found.fingerprint[:8]}"
    print_table(console, mini_columns(found.columns), found.lines, title)

    def count(verdict: Verdict) -> Column[Measured]:
        return Column("", verdict, lambda column: found.counts(column.key)[verdict])

    metric: Column[Measured] = Column("", "metric", lambda column: column.title, left=True, names=True)
    print_table(console, [metric, *map(count, VERDICTS)], found.columns, "orders of two rows, each as the paper prints it")
    against = [order for order in found.orders if order.verdict == "disagrees"]
    for order in against[:_LISTED]:
        difference = 0.0 if order.difference is None else order.difference.value
        print_words(
            console,
            f"disagrees: {order.key}: {order.better} before {order.worse}, measured difference {difference:+.4g}",
            indent=2,
        )
    if len(against) > _LISTED:
        say(console, f"and {len(against) - _LISTED} more, all of them in --json")
    print_words(
        console, "± is one standard error over what `over` says; orders by Welch, corrected within a column by Holm at 5 %"
    )


def _method(line: MiniLine) -> str:
    return line.printed.method + (" (suspect)" if line.printed.suspect else "")


def mini_columns(measured: Sequence[Measured]) -> list[Column[MiniLine]]:
    def pair(one: Measured) -> list[Column[MiniLine]]:
        def published(line: MiniLine) -> str:
            printed = one.published(line.printed)
            return "" if printed is None else f"{printed:.4g}"

        theirs: Column[MiniLine] = Column("", f"{_title(one)}\nthe paper", published)
        return [theirs, Column("", f"{one.key}\nmini", lambda line: claims.cell(line.measured[one.key]))]

    def over(line: MiniLine) -> str:
        found = (value.over for value in line.measured.values() if value is not None)
        return next(found, "" if line.stand_in is None else "not run")

    return [
        Column(
            "", "method", lambda line: line.printed.method + (" (suspect)" if line.printed.suspect else ""), left=True, names=True
        ),
        Column("", "NFE", lambda line: line.printed.nfe, names=True),
        Column("", "model", lambda line: line.stand_in and claims.named(line.stand_in, line.stand_in.model), left=True, room=1),
        Column("", "over", over, left=True, room=2),
        Column("", "weights", lambda line: line.weights, left=True, room=1),
        *(column for one in measured for column in pair(one)),
    ]


def print_figure(console: Console, found: FigureCurves) -> None:
    """Each sweep as a table of weights, with the shape that the paper claims and whether it is there."""
    for panel in found.panels:
        title = f"{found.name} on {found.suite}: weight of {panel.a} (0 is {panel.b})"
        if not panel.curves:
            say(console, f"{title}: not run; {panel.command}")
            continue
        weight: Column[float | str] = Column(
            "", "weight", lambda row: row if isinstance(row, str) else f"{row:g}", left=True, names=True
        )
        rows: list[float | str] = [*sorted({weight for curve in panel.curves for weight in curve.points}), *_JUDGED]
        print_table(console, [weight, *map(_curve, panel.curves)], rows, title)
        print_words(console, f"from {panel.file}, seeds {', '.join(map(str, panel.seeds))}; * {LEADERS_MEAN}", indent=2)
    print_words(
        console, "between: better at some weight than at both ends; end: the contrary; monotone: never turns back", indent=2
    )


def _curve(curve: Curve) -> Column[float | str]:
    """The values by weight; in the rows of _JUDGED the shape that the paper claims, and whether it is there."""
    lead = curve.leading()

    def text(row: float | str) -> str:
        if isinstance(row, str):
            return curve.shape if row == _JUDGED[0] else curve.verdict
        value = curve.points.get(row)
        if value is None:
            return ""
        return with_error(value.value, value.std_err) if value.std_err else number(value.value)

    return Column("", f"{curve.label} {ARROWS[curve.direction]}", text, strong=lambda row: row in lead)


def print_plan(console: Console, plan: Mapping[str, Any]) -> None:
    """A line for each method of a plan: what it is, what is there, what is missing, what it costs on each suite."""
    title = f"{plan['target']}: {plan['title']}, on {', '.join(plan['suites'])}"
    print_table(console, PLAN, plan["methods"], title)
    for suite, missing in plan["suite_files_missing"].items():
        say(console, f"suite {suite} lacks {', '.join(missing)}; sbv2bench download {suite}")
    for method in plan["methods"]:
        if method["command"] and method["at_hand"] and not method["measured"]:
            say(console, f"to run: {method['command']}")


def _sum(method: Mapping[str, Any], count: Callable[[Mapping[str, Any]], int]) -> str:
    """Over the suites, where any costs something."""
    costs = method["costs"].values()
    return f"{sum(map(count, costs)):,}" if costs else ""


def _tflop(method: Mapping[str, Any]) -> str:
    """What is known of the arithmetic: all of it, or that of the extractors alone."""
    costs = [cost["tflop"] for cost in method["costs"].values()]
    total = sum(sum(cost.values()) for cost in costs)
    if not total:
        return "unknown" if costs else ""
    return f"{total:,.0f}" + ("" if all("denoise" in cost for cost in costs) else " without the model's own")


PLAN: tuple[Column[Mapping[str, Any]], ...] = (
    Column("", "method", lambda row: row["method"], left=True, names=True),
    Column("", "model", lambda row: row["model"], left=True, room=1),
    Column("", "here", lambda row: "yes" if row["at_hand"] else "no", left=True),
    Column("", "lacking", lambda row: row["lacking"], left=True, prose=True, room=2),
    Column("", "measured", lambda row: ", ".join(row["measured"]) or "no", left=True),
    Column("", "images", lambda row: _sum(row, lambda cost: cost["images"])),
    Column("", "denoiser passes", lambda row: _sum(row, lambda cost: cost["forward_passes"].get("denoise", 0))),
    Column("", "TFLOP known", _tflop),
)

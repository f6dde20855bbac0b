"""What `reproduce` found, in the terminal: the paper's layout, our numbers in it, verdicts, and what they rest on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sbv2bench.report.terminal import number, say
from sbv2bench.report.values import ARROWS, with_error
from sbv2bench.reproduce.figure import Curve, FigureCurves
from sbv2bench.reproduce.miniature import Column, Line, Miniature
from sbv2bench.reproduce.table import OURS, WITHIN, Cell, Reproduction
from sbv2bench.results.published import declared

_SHORT: dict[str, str] = {WITHIN: "within"}
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
    shown = _table(f"{found.name}: {found.table.title}, on {', '.join(found.suites)}")
    for heading in ("method", "NFE", "metric", "published", "measured", "difference", "allowed (ours)", "verdict", "note"):
        shown.add_column(heading, overflow="fold")
    for line in found.lines:
        for place, cell in enumerate(line.cells):
            head = [line.printed.method, str(line.printed.nfe)] if place == 0 else ["", ""]
            shown.add_row(*map(escape, [*head, *_cell(cell, line.printed.text(cell.metric))]))
    console.print(shown)
    for suite, fields in found.differing.items():
        say(
            console,
            f"{suite}: the results' protocol is not the declared one and no verdict counts; it differs in {', '.join(fields)}",
        )
    for remark in _remarks(found):
        say(console, remark)
    if found.table.note:
        say(console, f"note: {found.table.note}")
    say(console, f"{WITHIN}: off by at most {OURS}")


def _remarks(found: Reproduction) -> list[str]:
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


def _cell(cell: Cell, printed: str) -> list[str]:
    metric = declared().metrics[cell.metric]
    title = f"{metric.title} {ARROWS[metric.direction]}"
    if cell.measured is None:
        return [title, printed, "", "", "", cell.verdict, cell.note]
    measured = with_error(cell.measured, cell.std_err) if cell.std_err else number(cell.measured)
    difference = "" if cell.difference is None else f"{cell.difference:+.4g}"
    allowed = "" if cell.allowed is None else f"± {cell.allowed:.4g}"
    return [title, printed, measured, difference, allowed, _SHORT.get(cell.verdict, cell.verdict), cell.note]


def print_miniature(console: Console, found: Miniature) -> None:
    """The paper's layout with our numbers beside its own, then how far the orders of rows agree."""
    shown = _table(f"{found.name} in miniature: {found.table.title}, on {found.suite}, protocol {found.fingerprint[:8]}")
    for heading in ("method", "NFE", "model", "over"):
        shown.add_column(heading, overflow="fold")
    for column in found.columns:
        shown.add_column(f"{column.title} {ARROWS[column.direction]}\nthe paper", justify="right")
        shown.add_column(f"{column.key}\nmini", justify="right")
    for line in found.lines:
        shown.add_row(*map(escape, _mini_cells(line, found.columns)))
    console.print(shown)
    orders = _table("orders of two rows, each as the paper prints it")
    for heading in ("metric", "agrees", "disagrees", "not separated", "not run"):
        orders.add_column(heading)
    for column in found.columns:
        orders.add_row(column.title, *map(str, found.counts(column.key).values()))
    console.print(orders)
    against = [order for order in found.orders if order.verdict == "disagrees"]
    for order in against[:_LISTED]:
        difference = 0.0 if order.difference is None else order.difference.value
        say(console, f"disagrees: {order.key}: {order.better} before {order.worse}, measured difference {difference:+.4g}")
    if len(against) > _LISTED:
        say(console, f"and {len(against) - _LISTED} more, all of them in --json")
    say(console, "± is one standard error over what `over` says; orders by Welch, corrected within a column by Holm at 5 %")


def _mini_cells(line: Line, columns: Sequence[Column]) -> list[str]:
    estimates = [line.measured[column.key] for column in columns]
    own = line.stand_in
    over = next((value.over for value in estimates if value is not None), "" if own is None else "not run")
    model = "" if own is None else own.model + ("" if own.guidance_scale is None else f" at {own.guidance_scale:g}")
    method = line.printed.method + (" (suspect)" if line.printed.suspect else "")
    cells = [method, str(line.printed.nfe), model, over]
    for column, value in zip(columns, estimates, strict=True):
        printed = column.published(line.printed)
        cells.append("" if printed is None else f"{printed:.4g}")
        cells.append("" if value is None else with_error(value.mean.value, value.mean.std_err))
    return cells


def print_figure(console: Console, found: FigureCurves) -> None:
    """Each sweep as a table of weights, with the shape that the paper claims and whether it is there."""
    for panel in found.panels:
        title = f"{found.name} on {found.suite}: weight of {panel.a} (0 is {panel.b})"
        if not panel.curves:
            say(console, f"{title}: not run; {panel.command}")
            continue
        shown = _table(title)
        shown.add_column("weight")
        for curve in panel.curves:
            shown.add_column(f"{curve.label} {ARROWS[curve.direction]}", justify="right")
        weights = sorted({weight for curve in panel.curves for weight in curve.points})
        for weight in weights:
            shown.add_row(f"{weight:g}", *(_point(curve, weight) for curve in panel.curves))
        shown.add_section()
        shown.add_row("the paper", *(curve.shape for curve in panel.curves))
        shown.add_row("verdict", *(curve.verdict for curve in panel.curves))
        console.print(shown)
        say(console, f"from {panel.file}, seeds {', '.join(map(str, panel.seeds))}; the best of a column is marked")
    say(console, "between: better at some weight than at both ends; end: the contrary; monotone: never turns back")


def _point(curve: Curve, weight: float) -> str:
    value = curve.points.get(weight)
    if value is None:
        return ""
    text = with_error(value.value, value.std_err) if value.std_err else number(value.value)
    return f"* {text}" if weight == curve.best else text


def print_plan(console: Console, plan: Mapping[str, Any]) -> None:
    """A line for each method of a plan: what it is, what is there, what is missing, what it costs on each suite."""
    shown = _table(f"{plan['target']}: {plan['title']}, on {', '.join(plan['suites'])}")
    for heading in ("method", "model", "weights", "measured", "images", "denoiser passes", "TFLOP known"):
        shown.add_column(heading, overflow="fold")
    for method in plan["methods"]:
        costs = method["costs"].values()
        images = sum(cost["images"] for cost in costs)
        passes = sum(cost["forward_passes"].get("denoise", 0) for cost in costs)
        cells = [f"{images:,}", f"{passes:,}", _tflop([cost["tflop"] for cost in costs])] if costs else ["", "", ""]
        weights = "available" if method["at_hand"] else method["lacking"]
        measured = ", ".join(method["measured"]) or "no"
        shown.add_row(*map(escape, [method["method"], method["model"], weights, measured, *cells]))
    console.print(shown)
    for suite, missing in plan["suite_files_missing"].items():
        say(console, f"suite {suite} lacks {', '.join(missing)}; sbv2bench download {suite}")
    for method in plan["methods"]:
        if method["command"] and method["at_hand"] and not method["measured"]:
            say(console, f"to run: {method['command']}")


def _tflop(costs: Sequence[Mapping[str, float]]) -> str:
    """What is known of the arithmetic: all of it, or that of the extractors alone."""
    total = sum(sum(cost.values()) for cost in costs)
    if not total:
        return "unknown"
    return f"{total:,.0f}" + ("" if all("denoise" in cost for cost in costs) else " without the model's own")


def _table(title: str) -> Table:
    return Table(title=escape(title), title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))

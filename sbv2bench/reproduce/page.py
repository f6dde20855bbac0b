"""What `reproduce` found, as a page: the same tables as in the terminal, and of a figure its curves."""

from __future__ import annotations

from sbv2bench.report.page_content import Content, Curve, Direction, Sweep, Table
from sbv2bench.reproduce.figure import FigureCurves
from sbv2bench.reproduce.miniature import Miniature
from sbv2bench.reproduce.report import NUMBERS, mini_columns, remarks
from sbv2bench.reproduce.table import Reproduction


def content(found: Reproduction | Miniature | FigureCurves) -> Content:
    """A page of one table, or of a sweep for each panel that was run."""
    if isinstance(found, FigureCurves):
        return Content(f"{found.name}: {found.figure.title}", (f"On {found.suite}.",), (), sweeps=tuple(_sweeps(found)))
    table: Table
    note = [f"Note: {found.table.note}"] if found.table.note else []
    if isinstance(found, Miniature):
        table, title = (mini_columns(found.columns), found.lines), f"{found.name} in miniature: {found.table.title}"
        about = [
            f"On {found.suite}, protocol {found.fingerprint[:8]}: the paper's layout with our numbers beside its own.",
            "± is one standard error over what `over` says; orders of rows are judged by Welch's test, corrected by Holm at 5 %.",
        ]
    else:
        table, title = (NUMBERS, found.cells()), f"{found.name}: {found.table.title}"
        about = [f"On {', '.join(found.suites)}.", *remarks(found)]
    return Content(title, (), (), comparisons=table, comparisons_title="Numbers", comparisons_about=(*about, *note))


def _sweeps(found: FigureCurves) -> list[Sweep]:
    shown = []
    for panel in found.panels:
        curves = []
        for curve in panel.curves:
            direction: Direction = "lower" if curve.direction == "lower" else "higher"
            points = tuple((weight, value.value, value.ci95) for weight, value in sorted(curve.points.items()))
            curves.append(Curve(f"{curve.label}, {curve.shape}: {curve.verdict}", direction, points))
        if curves:
            about = f"From {panel.file}, seeds {', '.join(map(str, panel.seeds))}; each metric with the paper's shape."
            shown.append(Sweep(f"{panel.a} and {panel.b}", about, f"weight of {panel.a} (0 is {panel.b})", tuple(curves)))
    return shown

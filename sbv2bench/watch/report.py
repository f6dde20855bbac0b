"""A run's curve for people: in the terminal, as CSV, as a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console

from sbv2bench.compare.differences import Contestant, leading
from sbv2bench.report.columns import Column, csv_text
from sbv2bench.report.layout import print_table, print_words
from sbv2bench.report.page import page
from sbv2bench.report.page_content import Content, Curve, Sweep
from sbv2bench.report.terminal import number
from sbv2bench.report.values import ARROWS, LEADERS_MEAN, mark, value_cell
from sbv2bench.results import prompt_values
from sbv2bench.results.records import MetricValue
from sbv2bench.watch.watch import Point

_BARS = "▁▂▃▄▅▆▇█"
_WIDEST = 32  # characters of a curve


@dataclass(frozen=True)
class Line:
    """A metric along the run. points: (step, value), steps rising."""

    key: str
    points: tuple[tuple[int, MetricValue], ...]

    @property
    def metric(self) -> MetricValue:
        """The last value, for its label and direction."""
        return self.points[-1][1]

    @property
    def best(self) -> tuple[int, MetricValue]:
        """The best value with its step, the first of equal ones."""
        sign = 1 if self.metric.direction == "lower" else -1
        return min(self.points, key=lambda point: sign * point[1].value)


def lines(curve: Sequence[Point]) -> list[Line]:
    """Every metric of any point."""
    keys = dict.fromkeys(key for point in curve for key in point.result.metrics)
    return [
        Line(key, tuple((point.step, point.result.metrics[key]) for point in curve if key in point.result.metrics))
        for key in keys
    ]


def line_of(point: Point) -> str:
    """A scored export in one line."""
    result = point.result
    numbers = (f"{value.label} {number(value.value)}{mark(result.model, key)}" for key, value in result.metrics.items())
    return f"step {point.step:,}: {', '.join(numbers)}"


def drawn(values: Sequence[float]) -> str:
    """A curve of blocks, the highest value a full one; of more values than have room those at even distances, and the last."""
    if len(values) > _WIDEST:
        values = [values[round(place * (len(values) - 1) / (_WIDEST - 1))] for place in range(_WIDEST)]
    low, high = min(values), max(values)
    top = len(_BARS) - 1
    return "".join(_BARS[round(top * (value - low) / (high - low)) if high > low else 0] for value in values)


CURVES: tuple[Column[Line], ...] = (
    Column("", "metric", lambda line: f"{line.metric.label} {ARROWS[line.metric.direction]}", left=True, names=True),
    Column("", "curve", lambda line: drawn([value.value for _, value in line.points]), left=True),
    Column("", "lowest", lambda line: number(min(value.value for _, value in line.points)), room=1),
    Column("", "highest", lambda line: number(max(value.value for _, value in line.points)), room=1),
    Column("", "last", lambda line: number(line.metric.value)),
    Column("", "best", lambda line: number(line.best[1].value)),
    Column("", "at step", lambda line: f"{line.best[0]:,}"),
)


def columns(curve: Sequence[Point]) -> list[Column[Point]]:
    """A row an export: the steps and every metric, with those set off that lead."""
    contestants = [Contestant(str(one.step), one.result, prompt_values.read(one.result, one.path)) for one in curve]

    def column(key: str) -> Column[Point]:
        first = next(point.result.metrics[key] for point in curve if key in point.result.metrics)
        lead = leading(contestants, key)
        return Column(
            key, f"{first.label} {ARROWS[first.direction]}",
            lambda point: point.result.metrics[key].value if key in point.result.metrics else None,
            lambda point: value_cell(point.result, key) if key in point.result.metrics else "",
            strong=lambda point: curve.index(point) in lead,
        )  # fmt: skip

    step: Column[Point] = Column("step", "step", lambda point: point.step, lambda point: f"{point.step:,}", names=True)
    return [step, *(column(line.key) for line in lines(curve)), Column("result", "", lambda point: point.path.name)]


def print_curve(console: Console, curve: Sequence[Point], title: str) -> None:
    """A curve a metric, then a row an export."""
    print_table(console, CURVES, lines(curve), title)
    print_table(console, columns(curve), curve)
    if len(curve) > 1:
        print_words(console, f"* {LEADERS_MEAN}", indent=2)


def to_csv(curve: Sequence[Point]) -> str:
    """Every number in full, a row an export."""
    return csv_text((columns(curve), curve))


def to_page(curve: Sequence[Point], name: str) -> str:
    """A panel for each metric. Raises PrerequisiteError where the [report] extra is not installed."""
    suite = curve[0].result.suite
    curves = tuple(
        Curve(line.metric.label, line.metric.direction, tuple((step, value.value, value.ci95) for step, value in line.points))
        for line in lines(curve)
    )
    about = f"{suite.id}@v{suite.version}, {suite.num_generated:,} images an export, seeds {', '.join(map(str, suite.seeds))}."
    return page(Content(f"watch {name}", (), (), sweeps=(Sweep(name, about, "training steps", curves, across="step"),)))

"""The paper's curves over the merge weight, from sweep files. It prints no values of them, so only their shapes are judged.

Each verdict takes Welch's p-values over generation seeds, corrected by Holm for the number of weights that are looked at; with
one seed nothing is separated.
between: at some weight the metric is better than at both ends (disagrees: one end is better than every weight between).
end: the contrary of between. monotone: the ends differ, and no step goes back (a step that does shows against it).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from sbv2bench.boards.claims import LEVEL, Verdict
from sbv2bench.compare.differences import leading_values
from sbv2bench.metrics.comparison import Mean, holm, spread_of, welch
from sbv2bench.registry import Registry
from sbv2bench.results import sweeps
from sbv2bench.results.published import Figure, Shape, declared
from sbv2bench.results.records import MetricValue
from sbv2bench.results.sweeps import SweepFile
from sbv2bench.specs import SuiteSpec


@dataclass(frozen=True)
class Curve:
    """A metric by the weight of the panel's a. direction: what is better."""

    key: str
    label: str
    direction: str
    points: dict[float, MetricValue]
    shape: Shape
    verdict: Verdict

    @property
    def best(self) -> float:
        """The weight of the best value; the smallest of several."""
        sign = 1 if self.direction == "lower" else -1
        return min(self.points, key=lambda weight: sign * self.points[weight].value)

    def leading(self) -> set[float]:
        """The weights whose values lead, by `leading_values`."""
        weights = list(self.points)
        return {weights[place] for place in leading_values(list(self.points.values()))}


@dataclass(frozen=True)
class PanelCurves:
    """One sweep of a figure. curves: none where it was not run. command: what makes its sweep file."""

    a: str
    b: str
    file: str
    seeds: tuple[int, ...]
    curves: tuple[Curve, ...]
    command: str


@dataclass(frozen=True)
class FigureCurves:
    """A figure on a suite."""

    name: str
    figure: Figure
    suite: str
    panels: tuple[PanelCurves, ...]

    def any_measured(self) -> bool:
        """Whether any of its sweeps was run."""
        return any(panel.curves for panel in self.panels)

    def document(self) -> dict[str, object]:
        """JSON-ready."""
        return {
            "target": self.name,
            "title": self.figure.title,
            "suites": [self.suite],
            "correction": f"Holm within a curve, at {LEVEL}",
            "panels": [_panel(panel) for panel in self.panels],
        }


def _panel(panel: PanelCurves) -> dict[str, object]:
    curves = [
        vars(curve)
        | {
            "best_weight": curve.best,
            "points": [
                {"weight": weight, "value": value.value, "std_err": value.std_err, "repeats": list(value.repeats)}
                for weight, value in curve.points.items()
            ],
        }
        for curve in panel.curves
    ]
    axis = f"weight of a = {panel.a} (0 is b = {panel.b})"
    return vars(panel) | {"axis": axis, "verdict": None if curves else "not run", "curves": curves}


def reproduce_figure(name: str, suite: SuiteSpec, folders: Sequence[Path], registry: Registry) -> FigureCurves:
    """A figure by the sweep files below some folders. Raises what `sweeps.find` raises."""
    figure = declared().figures[name]
    panels = []
    for panel in figure.panels:
        ends = (f"{suite.family}/{panel.a}", f"{suite.family}/{panel.b}")
        found = sweeps.find(folders, ends, suite)
        command = sweep_command(ends, suite)
        if found is None:
            panels.append(PanelCurves(*ends, "", (), (), command))
        else:
            path, sweep = found
            panels.append(
                PanelCurves(*ends, str(path), sweep.suite.seeds, _curves(sweep, ends[0], figure, suite.family), command)
            )
    return FigureCurves(name, figure, f"{suite.id}@v{suite.version}", tuple(panels))


def sweep_command(ends: tuple[str, str], suite: SuiteSpec) -> str:
    """What makes the sweep file of a panel, where it is looked for."""
    folder = "+".join(end.rpartition("/")[2] for end in ends)
    options = f"--suite {suite.id} --seeds 3 --output leaderboards/sweeps/{folder}"
    return f"python -m reference_trainer sweep {ends[0]} {ends[1]} {options}"


def _curves(sweep: SweepFile, a: str, figure: Figure, family: str) -> tuple[Curve, ...]:
    """The figure's curves that a sweep has, over the weight of a, whichever end that was in the file."""
    points = {row.weight if sweep.a.id == a else 1.0 - row.weight: row.metrics for row in sweep.rows}
    curves = []
    for metric, shape in figure.shapes.items():
        key = declared().metrics[metric].mini if family == "mini" else declared().metrics[metric].key
        own = {weight: points[weight][key] for weight in sorted(points) if key in points[weight]}
        if own:
            first = next(iter(own.values()))
            curves.append(Curve(key, first.label, first.direction, own, shape, _verdict(shape, own, first.direction == "lower")))
    return tuple(curves)


def _verdict(shape: Shape, points: dict[float, MetricValue], lower_is_better: bool) -> Verdict:
    """Of one seed, or of repeats that do not scatter, nothing is separated: they leave no error."""
    if any(len(value.repeats) < 2 for value in points.values()):
        return "not separated"
    means = {weight: spread_of(value.repeats) or Mean(value.value, 0.0, 1) for weight, value in points.items()}
    return judge(shape, means, lower_is_better)


def judge(shape: Shape, points: dict[float, Mean], lower_is_better: bool) -> Verdict:
    """Whether a curve has a shape. points: by weight, rising; without both ends and something between it is not run."""
    inner = [weight for weight in points if 0.0 < weight < 1.0]
    if not {0.0, 1.0} <= set(points) or not inner:
        return "not run"
    ends = (points[0.0], points[1.0])
    if shape == "monotone":
        return _monotone(list(points.values()))
    within = [points[weight] for weight in inner]
    between = min(holm([max(_p_better(one, end, lower_is_better) for end in ends) for one in within])) < LEVEL
    beyond = min(holm([max(_p_better(end, one, lower_is_better) for one in within) for end in ends])) < LEVEL
    if not between and not beyond:
        return "not separated"
    return "agrees" if between == (shape == "between") else "disagrees"


def _p_better(first: Mean, second: Mean, lower_is_better: bool) -> float:
    """Welch's two-sided p-value where the first is the better one, else 1."""
    difference = welch(first, second)
    if difference is None or difference.value == 0 or (difference.value < 0) != lower_is_better:
        return 1.0
    return difference.p_value


def _monotone(means: list[Mean]) -> Verdict:
    falls = means[-1].value < means[0].value
    back = holm([_p_better(first, second, falls) for first, second in pairwise(means)])
    if min(back) < LEVEL:
        return "disagrees"
    ends = welch(means[0], means[-1])
    return "agrees" if ends is not None and ends.p_value < LEVEL else "not separated"

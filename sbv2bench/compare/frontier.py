"""A student against a teacher's whole frontier: the best that the other reaches with at least as much recall, or CLIP score.

Only settings that were measured count: no interpolation, no extrapolation, since a curve of FID over recall may turn back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sbv2bench.compare.differences import Contestant, MetricDifference, compare_results
from sbv2bench.errors import InputError
from sbv2bench.report.columns import Column
from sbv2bench.report.values import ARROWS, value_cell

HELD = ("recall", "clip_score")  # what the other must have at least
DOMINANCE = ("fid", "recall", "clip_score", "latency_ms")
_DRAWS = 20_000


@dataclass(frozen=True)
class Setting:
    """One measured setting of the other. reaches: whether it has what is asked for. dominates: the probability that it is no
    worse than the student in any metric of `DOMINANCE` that both have; None where one of them has no standard error."""

    contestant: Contestant
    reaches: bool
    dominates: float | None


@dataclass(frozen=True)
class Frontier:
    """The student, the other's settings by FID, the best of those that reach, and the student's FID less that one's.

    chosen_on: the suite by whose captions the best was chosen, "mini-choosing@v1"; "" where it was by the reported ones.
    """

    student: Contestant
    held: str
    settings: tuple[Setting, ...]
    best: Setting | None
    difference: MetricDifference | None
    notes: tuple[str, ...]
    chosen_on: str = ""

    def verdict(self) -> str:
        """One sentence."""
        metrics = self.student.result.metrics
        wanted = f"{metrics[self.held].label} of at least {metrics[self.held].value:.4g}"
        other = self.settings[0].contestant.result.model.id
        if self.best is None or self.difference is None:
            where = f" on {self.chosen_on}" if self.chosen_on else ""
            wanted = f"{metrics[self.held].label} of at least the student's" if self.chosen_on else wanted
            return f"none reaches it: no measured setting of {other}{where} has a {wanted}, that of {self.student.name}"
        row = self.difference
        interval = "" if row.ci95 is None else f", 95 % [{row.ci95[0]:+.3g}, {row.ci95[1]:+.3g}]"
        setting = self.best.contestant.name
        if self.chosen_on:
            setting += f", chosen on {self.chosen_on}"
            if not self.best.reaches:  # as chance has it, or other captions
                own = self.best.contestant.result.metrics[self.held]
                wanted = f"{own.label} of {own.value:.4g}, here less than the student's {metrics[self.held].value:.4g}"
        return (
            f"with a {wanted}, {other} reaches {row.label} {row.value_against:.4g} ({setting}); "
            f"{self.student.name} has {row.value:.4g}: {row.difference:+.3g}{interval}, {row.verdict}"
        )

    def document(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "student": self.student.name,
            "at_least": {"metric": self.held, "value": self.student.result.metrics[self.held].value},
            "best": None if self.best is None else self.best.contestant.name,
            "chosen_on": self.chosen_on or None,
            "difference": None if self.difference is None else vars(self.difference),
            "settings": [
                {column.key: column.value(setting) for column in columns(self) if column.key} for setting in self.settings
            ],
            "verdict": self.verdict(),
            "notes": list(self.notes),
        }


def frontier(
    student: Contestant, others: Sequence[Contestant], held: str, chosen: Contestant | None = None, chosen_on: str = ""
) -> Frontier:
    """Compare a result with every measured setting of another model, of the same suite, protocol and number of images.

    chosen: of the others, that of the setting which was best on another suite, chosen_on; None where none reached it there.
    Without chosen_on the best is chosen here. Raises InputError for a metric that is not in `HELD` or not in all of the results,
    and as `compare_results`.
    """
    if held not in HELD:
        raise InputError(f"--at-least: found {held!r}, expected one of {', '.join(HELD)}", f"--at-least {HELD[0]}")
    comparison = compare_results([student, *others])
    if missing := [key for key in ("fid", held) if key not in comparison.keys]:
        fix = f"sbv2bench eval --metrics fid,{'pr' if held == 'recall' else 'clip'}"
        raise InputError(f"--at-least {held}: {missing[0]} is not in every result", fix)
    own = student.result.metrics
    settings = [
        Setting(other, other.result.metrics[held].value >= own[held].value, _dominates(other, student)) for other in others
    ]
    settings.sort(key=lambda setting: setting.contestant.result.metrics["fid"].value)
    best = next((one for one in settings if (one.contestant is chosen if chosen_on else one.reaches)), None)
    difference = None
    if best is not None:
        difference = next(row for row in compare_results([best.contestant, student]).differences if row.metric == "fid")
    shared = ", ".join(key for key in DOMINANCE if key in comparison.keys)
    notes = (
        f"{len(settings)} measured settings; nothing between them is assumed",
        f"the setting was chosen on {chosen_on}, whose captions are others than the reported ones"
        if chosen_on
        else "settings were chosen on the very captions that are reported, in favour of the model that has several of them",
        f"dominates: probability of being no worse in all of {shared}, by {_DRAWS:,} draws from both results' standard errors",
        *comparison.notes,
    )
    return Frontier(student, held, tuple(settings), best, difference, notes, chosen_on)


def _dominates(other: Contestant, student: Contestant) -> float | None:
    """By draws of normal errors, taken as independent."""
    first, second = other.result.metrics, student.result.metrics
    random, holds = np.random.default_rng(0), np.ones(_DRAWS, dtype=bool)
    for key in (key for key in DOMINANCE if key in first and key in second):
        drawn = []
        for metric in (first[key], second[key]):
            error = 0.0 if key == "latency_ms" else metric.std_err  # a median of single runs has none
            if error is None:
                return None
            drawn.append(metric.value + error * random.standard_normal(_DRAWS))
        holds &= drawn[0] <= drawn[1] if first[key].direction == "lower" else drawn[0] >= drawn[1]
    return float(holds.mean())


def columns(found: Frontier) -> list[Column[Setting]]:
    """A row a setting of the other, best FID first."""

    def column(key: str) -> Column[Setting]:
        metric = found.student.result.metrics[key]
        return Column(
            key, f"{metric.label} {ARROWS[metric.direction]}", lambda row: row.contestant.result.metrics[key].value,
            lambda row: value_cell(row.contestant.result, key),
        )  # fmt: skip

    shared = [
        key for key in DOMINANCE
        if key in found.student.result.metrics and all(key in one.contestant.result.metrics for one in found.settings)
    ]  # fmt: skip
    return [
        Column("setting", "setting", lambda row: row.contestant.name, left=True, names=True),
        Column("steps", "steps", lambda row: row.contestant.result.model.steps, room=1),
        Column("guidance_scale", "guidance", lambda row: row.contestant.result.model.guidance_scale, room=1),
        *map(column, shared),
        Column("reaches", f"has the student's {found.held}", lambda row: "yes" if row.reaches else "no", left=True),
        Column("dominates", "dominates", lambda row: row.dominates, _share),
    ]


def _share(row: Setting) -> str:
    return "" if row.dominates is None else f"{row.dominates:.2f}"

"""Every combination of guidance scale and steps, evaluated one after another; what is stored already is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

from sbv2bench.compare.differences import leading_values
from sbv2bench.errors import InputError
from sbv2bench.evaluation.evaluate import evaluate_and_store, stored_result
from sbv2bench.evaluation.options import EvalOptions
from sbv2bench.evaluation.plan import plan
from sbv2bench.machine.choices import Progress
from sbv2bench.registry import Registry
from sbv2bench.report.columns import Column
from sbv2bench.report.values import ARROWS, value_cell
from sbv2bench.results.records import EvalResult

Point = tuple[EvalResult, Path]
FULL_LIMIT = 10_000  # images of a setting where a model of the full family is swept and nobody says how many


def sweep(
    model: str,
    suite: str,
    options: EvalOptions,
    registry: Registry,
    *,
    guidance_scales: Sequence[float] = (),
    steps: Sequence[int] = (),
    progress: Progress | None = None,
    said: Callable[[str], None] = lambda _: None,
) -> list[Point]:
    """A result of every setting, in the order of steps, then of guidance scale; a sweep that is run again goes on.

    guidance_scales, steps: none keeps the model's own. said: told of each setting before it is evaluated. Every setting is
    planned before the first image. Raises what planning and evaluating raise, and InputError where nothing is varied.
    """
    if not guidance_scales and not steps:
        raise InputError("sweep: found nothing to vary, expected guidance scales or steps", "--guidance-scale 1,1.5,2,3")
    declared = registry.suite(suite)
    if declared.family == "full" and options.limit is None and declared.num_generated > FULL_LIMIT:
        options = replace(options, limit=FULL_LIMIT)
    settings = product(dict.fromkeys(steps) or (None,), dict.fromkeys(guidance_scales) or (None,))
    plans = [plan(model, suite, replace(options, steps=n, guidance_scale=scale), registry) for n, scale in settings]
    points: list[Point] = []
    for number, planned in enumerate(plans, 1):
        spec = planned.model
        stored = stored_result(planned)
        how = "stored already" if stored else "evaluated now"
        said(f"setting {number} of {len(plans)}: {spec.network_evaluations()} steps, guidance {spec.guidance_scale:g}, {how}")
        if stored is None:
            result, path = evaluate_and_store(planned, registry, progress)
            assert path is not None  # one process
            stored = (result, path)
        points.append(stored)
    return points


def columns(points: Sequence[Point]) -> list[Column[Point]]:
    """The table of a sweep: a row a setting, a column a metric; the best of each is marked."""

    def column(key: str) -> Column[Point]:
        metric = points[0][0].metrics[key]
        lead = leading_values([result.metrics[key] for result, _ in points])
        return Column(
            key, f"{metric.label} {ARROWS[metric.direction]}", lambda row: row[0].metrics[key].value,
            lambda row: value_cell(row[0], key), strong=lambda row: points.index(row) in lead,
        )  # fmt: skip

    return [
        Column("steps", "steps", lambda row: row[0].model.steps, names=True),
        Column("nfe", "NFE", lambda row: row[0].model.nfe),
        Column("guidance_scale", "guidance", lambda row: row[0].model.guidance_scale, names=True),
        *map(column, points[0][0].metrics),
        Column("result", "", lambda row: row[1]),
    ]

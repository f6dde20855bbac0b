"""Merge weights from all of B to all of A, each evaluated (SwiftBrush v2, figures 7 and 8): tables, and a page of curves.

Merged models are made on load, so nothing but the tables is written. What was measured is in sbv2bench's cache: a sweep
that was stopped, or that asks for more weights, goes on from there.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reference_trainer.merge import End, check_weight, find_ends, merged_spec
from sbv2bench import provenance
from sbv2bench.atomic import write_whole
from sbv2bench.boards.page import suite_measured, sweep_shown
from sbv2bench.compare.differences import leading_values
from sbv2bench.errors import InputError, IntegrityError, PrerequisiteError
from sbv2bench.evaluation.evaluate import evaluate
from sbv2bench.registry import Registry
from sbv2bench.report.columns import Column, csv_text, markdown_lines
from sbv2bench.report.page import page
from sbv2bench.report.page_content import Content
from sbv2bench.report.values import ARROWS, LEADERS_MEAN
from sbv2bench.results import sweeps
from sbv2bench.results.records import EvalResult, MetricValue
from sbv2bench.results.store import result_fingerprint
from sbv2bench.results.sweeps import SweepEnd, SweepFile, SweepSuite
from sbv2bench.specs import fingerprint


@dataclass(frozen=True)
class Sweep:
    """Results by weight of A, rising, all of one suite."""

    a: End
    b: End
    results: dict[float, EvalResult]

    @property
    def axis(self) -> str:
        """What the weight means, for every table and picture."""
        return f"weight of A = {self.a.name} (B = {self.b.name})"

    @property
    def first(self) -> EvalResult:
        """Any of the results, for what they have in common."""
        return next(iter(self.results.values()))

    def file(self) -> SweepFile:
        """As it is stored."""
        suite, metrics = self.first.suite, self.first.metrics.values()
        named = {
            "fingerprint": fingerprint(sorted({metric.fingerprint for metric in metrics})),
            "reference_fingerprint": (suite.reference or {}).get("fingerprint"),
        }
        content = {
            "axis": self.axis,
            "formula": "weight * a + (1 - weight) * b",
            "a": self.a.record(),
            "b": self.b.record(),
            "suite": suite.model_dump(include={*SweepSuite.model_fields}) | named,
            "rows": [
                {"weight": weight, "result_fingerprint": result_fingerprint(result), "metrics": result.metrics}
                for weight, result in self.results.items()
            ],
            "provenance": provenance.environment(self.first.provenance.get("device")),
        }
        return SweepFile.model_validate(content)


def sweep(
    a: str,
    b: str,
    weights: Sequence[float],
    suite: str,
    output: Path,
    *,
    seeds: int = 1,
    registry: Registry | None = None,
    say: Callable[[str], None] = lambda line: None,
    **options: Any,
) -> Sweep:
    """Evaluate w A + (1 - w) B for every weight and write sweep.json, .csv, .md and .html to output, anew after each weight.

    a, b: model ids or folders. seeds: generation seeds 0, 1, ... of each weight. say: is told each result as it comes.
    options: those of `sbv2bench.evaluate`. Raises InputError (names, weights, output, which may hold a sweep of the same
    ends on the same suite and nothing else of that name), and what merging and evaluating raise.
    """
    if not weights:
        raise InputError("--weights: found no weight, expected at least one")
    for weight in weights:
        check_weight(weight)
    registry = registry or Registry.load()
    ends = find_ends(a, b, registry, registry.suite(suite))
    _check_output(output, ends, suite)
    models = {weight: merged_spec(*ends, weight) for weight in sorted({float(weight) for weight in weights})}
    registry = dataclasses.replace(registry, models=dict(registry.models), sources=dict(registry.sources))
    for model in models.values():
        registry.add("model", model, replaces=True)
    found = Sweep(*ends, {})
    for weight, model in models.items():
        found.results[weight] = evaluate(model.id, suite, registry=registry, repeats=seeds, **options)
        _write(found, output)
        say(f"{weight:g}: " + ", ".join(f"{m.label} {_cell(m)}" for m in found.results[weight].metrics.values()))
    return found


def parse_weights(text: str) -> tuple[float, ...]:
    """ "0,0.5,1" as numbers. Raises InputError for what is no list of numbers from 0 to 1."""
    try:
        weights = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"--weights: found {text!r}, expected numbers with commas between, like 0,0.5,1") from error
    for weight in weights:
        check_weight(weight)
    return weights


def _check_output(output: Path, ends: tuple[End, End], suite: str) -> None:
    """Makes the folder; another sweep's tables are not written over."""
    path = output / "sweep.json"
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output {output}: cannot be made a folder ({error.strerror or error})") from error
    if not path.is_file():
        return
    try:
        old = sweeps.load(path)
        same = [old.a, old.b, old.suite.id] == [*(SweepEnd.model_validate(end.record()) for end in ends), suite]
    except IntegrityError:
        same = False
    if not same:
        raise InputError(
            f"--output {output}: holds a sweep of other models, other weights files or another suite", "--output NEW"
        )


def _write(found: Sweep, output: Path) -> None:
    written = json.dumps(found.file().model_dump(mode="json"), indent=1, allow_nan=False) + "\n"
    table = csv_text((_columns(found), list(found.results)))
    texts = {"sweep.json": written, "sweep.csv": table, "sweep.md": _as_markdown(found)}
    with suppress(PrerequisiteError):  # no page without the [report] extra
        texts["sweep.html"] = _as_page(found)
    try:
        for name, text in texts.items():
            write_whole(output / name, text)
    except OSError as error:
        raise IntegrityError(f"--output {output}: cannot be written ({error.strerror or error})", "free some space") from error


def _columns(found: Sweep) -> list[Column[float]]:
    """The table, a row for each weight, with both ends' names in its file."""

    def metric(key: str) -> list[Column[float]]:
        first = found.first.metrics[key]
        heading = f"{first.label} {ARROWS[first.direction]}"
        values = {weight: result.metrics[key] for weight, result in found.results.items()}
        lead = leading_values(list(values.values()))
        return [
            Column(key, heading, lambda weight: values[weight].value, lambda weight: _cell(values[weight]),
                   strong=lambda weight: list(values).index(weight) in lead),
            Column(f"{key}_std_err", "", lambda weight: values[weight].std_err),
        ]  # fmt: skip

    return [
        Column("a", "", lambda weight: found.a.name),
        Column("b", "", lambda weight: found.b.name),
        Column("weight_of_a", found.axis, lambda weight: weight, lambda weight: f"{weight:g}"),
        Column("suite", "", lambda weight: found.first.suite.id),
        *(column for key in found.first.metrics for column in metric(key)),
    ]


def _as_markdown(found: Sweep) -> str:
    lines = [
        f"# {found.a.name} merged with {found.b.name}",
        "",
        f"w A + (1 - w) B on {suite_measured(found.first.suite)} ± is one standard error. In bold: {LEADERS_MEAN}.",
        "",
        *markdown_lines(_columns(found), list(found.results)),
    ]
    return "\n".join(lines) + "\n"


def _as_page(found: Sweep) -> str:
    """A panel for each metric. Raises PrerequisiteError where the [report] extra is not installed."""
    name = f"{found.a.name} merged with {found.b.name}"
    return page(Content(name, (), (), sweeps=(sweep_shown(found.file(), name, found.first.metrics),)))


def _cell(metric: MetricValue) -> str:
    if metric.std_err is None or not math.isfinite(metric.std_err):
        return f"{metric.value:.5g}"
    return f"{metric.value:.5g} ± {metric.std_err:.2g}"

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
from sbv2bench.errors import InputError, IntegrityError, PrerequisiteError
from sbv2bench.evaluation.evaluate import evaluate
from sbv2bench.registry import Registry
from sbv2bench.report import page_content as pages
from sbv2bench.report.columns import Column, csv_text, markdown_lines
from sbv2bench.report.page import page
from sbv2bench.report.page_content import Content, Curve
from sbv2bench.report.values import ARROWS
from sbv2bench.results.records import EvalResult, MetricValue
from sbv2bench.results.store import result_fingerprint
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

    def curve(self, key: str) -> dict[float, MetricValue]:
        """One metric by weight."""
        return {weight: result.metrics[key] for weight, result in self.results.items()}

    def best(self, key: str) -> float:
        """The weight of a metric's best value; the smallest of several."""
        sign = 1 if self.first.metrics[key].direction == "lower" else -1
        return min(self.results, key=lambda weight: sign * self.results[weight].metrics[key].value)


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
        old = json.loads(path.read_text("utf-8"))
        same = [old["a"], old["b"], old["suite"]["id"]] == [ends[0].record(), ends[1].record(), suite]
    except (ValueError, KeyError, TypeError):
        same = False
    if not same:
        raise InputError(
            f"--output {output}: holds a sweep of other models, other weights files or another suite", "--output NEW"
        )


def _write(found: Sweep, output: Path) -> None:
    texts = {"sweep.json": _as_json(found), "sweep.csv": _as_csv(found), "sweep.md": _as_markdown(found)}
    with suppress(PrerequisiteError):  # no page without the [report] extra
        texts["sweep.html"] = _as_page(found)
    try:
        for name, text in texts.items():
            write_whole(output / name, text)
    except OSError as error:
        raise IntegrityError(f"--output {output}: cannot be written ({error.strerror or error})", "free some space") from error


def _as_json(found: Sweep) -> str:
    suite = found.first.suite
    kept = {"id", "version", "prompts_sha256", "num_generated", "num_reference", "seeds"}
    named = {
        "fingerprint": fingerprint(sorted({metric.fingerprint for metric in found.first.metrics.values()})),
        "reference_fingerprint": (suite.reference or {}).get("fingerprint"),
    }
    rows = [
        {
            "weight": weight,
            "result_fingerprint": result_fingerprint(result),
            "metrics": {key: metric.model_dump(mode="json") for key, metric in result.metrics.items()},
        }
        for weight, result in found.results.items()
    ]
    content = {
        "axis": found.axis,
        "formula": "weight * a + (1 - weight) * b",
        "a": found.a.record(),
        "b": found.b.record(),
        "suite": suite.model_dump(mode="json", include=kept) | named,
        "rows": rows,
        "provenance": provenance.environment(found.first.provenance.get("device")),
    }
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def _columns(found: Sweep) -> list[Column[float]]:
    """The table, a row for each weight, with both ends' names in its file."""

    def metric(key: str) -> list[Column[float]]:
        first = found.first.metrics[key]
        heading = f"{first.label} {ARROWS[first.direction]}"
        values = {weight: result.metrics[key] for weight, result in found.results.items()}
        best = found.best(key)
        return [
            Column(key, heading, lambda weight: values[weight].value, lambda weight: _cell(values[weight]),
                   place=lambda weight: int(weight == best)),
            Column(f"{key}_std_err", "", lambda weight: values[weight].std_err),
        ]  # fmt: skip

    return [
        Column("a", "", lambda weight: found.a.name),
        Column("b", "", lambda weight: found.b.name),
        Column("weight_of_a", found.axis, lambda weight: weight, lambda weight: f"{weight:g}"),
        Column("suite", "", lambda weight: found.first.suite.id),
        *(column for key in found.first.metrics for column in metric(key)),
    ]


def _as_csv(found: Sweep) -> str:
    return csv_text((_columns(found), list(found.results)))


def _as_markdown(found: Sweep) -> str:
    lines = [
        f"# {found.a.name} merged with {found.b.name}",
        "",
        f"w A + (1 - w) B on {_about(found)}, ± one standard error where there is one. Bold is the best of a column.",
        "",
        *markdown_lines(_columns(found), list(found.results)),
    ]
    return "\n".join(lines) + "\n"


def _about(found: Sweep) -> str:
    suite = found.first.suite
    return f"{suite.id}@v{suite.version}: {suite.num_generated:,} images a seed, {len(suite.seeds)} seed(s)"


def _as_page(found: Sweep) -> str:
    """A panel for each metric. Raises PrerequisiteError where the [report] extra is not installed."""
    curves = []
    for key, first in found.first.metrics.items():
        points = tuple((weight, metric.value, metric.ci95) for weight, metric in found.curve(key).items())
        curves.append(Curve(first.label, first.direction, points))
    name = f"{found.a.name} merged with {found.b.name}"
    return page(Content(name, (), (), sweeps=(pages.Sweep(name, f"{_about(found)}.", found.axis, tuple(curves)),)))


def _cell(metric: MetricValue) -> str:
    if metric.std_err is None or not math.isfinite(metric.std_err):
        return f"{metric.value:.5g}"
    return f"{metric.value:.5g} ± {metric.std_err:.2g}"

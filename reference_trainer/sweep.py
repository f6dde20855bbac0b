"""Merge weights from all of B to all of A, each evaluated (SwiftBrush v2, figures 7 and 8): tables, and a page of curves.

Merged models are made on load, so nothing but the tables is written. What was measured is in sbv2bench's cache: a sweep
that was stopped, or that asks for more weights, goes on from there.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reference_trainer.curves import curves_page
from reference_trainer.merge import End, check_weight, find_ends, merged_spec
from sbv2bench import provenance
from sbv2bench.atomic import write_whole
from sbv2bench.errors import InputError, IntegrityError
from sbv2bench.evaluation.evaluate import evaluate
from sbv2bench.registry import Registry
from sbv2bench.report.values import ARROWS
from sbv2bench.results.records import EvalResult, MetricValue
from sbv2bench.results.store import result_fingerprint
from sbv2bench.specs import fingerprint

FILES = ("sweep.json", "sweep.csv", "sweep.md", "sweep.html")


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
    """Evaluate w A + (1 - w) B for every weight and write FILES to output, anew after each weight.

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
    path = output / FILES[0]
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
    contents = (_as_json(found), _as_csv(found), _as_markdown(found), curves_page(found))
    try:
        for name, text in zip(FILES, contents, strict=True):
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


def _as_csv(found: Sweep) -> str:
    """A row for each weight, with both ends' names in it; floats in full."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    keys = list(found.first.metrics)
    writer.writerow(["a", "b", "weight_of_a", "suite", *(name for key in keys for name in (key, f"{key}_std_err"))])
    for weight, result in found.results.items():
        numbers = [number for key in keys for number in (result.metrics[key].value, result.metrics[key].std_err)]
        writer.writerow([found.a.name, found.b.name, repr(weight), result.suite.id, *(_full(number) for number in numbers)])
    return text.getvalue()


def _full(number: float | None) -> str:
    return "" if number is None else repr(number)


def _as_markdown(found: Sweep) -> str:
    suite, keys = found.first.suite, list(found.first.metrics)
    best = {key: found.best(key) for key in keys}
    lines = [
        f"# {found.a.name} merged with {found.b.name}",
        "",
        f"w A + (1 - w) B on {suite.id}@v{suite.version}: {suite.num_generated:,} images a seed, {len(suite.seeds)} seed(s),"
        " ± one standard error where there is one. Bold is the best of a column.",
        "",
        f"| {found.axis} | " + " | ".join(f"{m.label} {ARROWS[m.direction]}" for m in found.first.metrics.values()) + " |",
        "| ---: |" + " ---: |" * len(keys),
    ]
    for weight, result in found.results.items():
        cells = [f"**{_cell(result.metrics[key])}**" if best[key] == weight else _cell(result.metrics[key]) for key in keys]
        lines.append(f"| {weight:g} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(metric: MetricValue) -> str:
    if metric.std_err is None or not math.isfinite(metric.std_err):
        return f"{metric.value:.5g}"
    return f"{metric.value:.5g} ± {metric.std_err:.2g}"

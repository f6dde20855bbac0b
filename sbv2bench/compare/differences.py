"""Results of the same protocol, compared: every difference with its interval, its p-value and its verdict in words.

Metrics of single captions (CLIP, HPS, attributes) are compared caption by caption where both results have their values: the
captions and the noise are the same, so what the captions have in common drops out. Metrics of whole sets (FID, KID, precision,
recall) are compared as independent numbers, which the same captions, noise and reference make wider than need be, not narrower.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from sbv2bench.data.training import united
from sbv2bench.errors import InputError
from sbv2bench.metrics.blocks import BLOCKS
from sbv2bench.metrics.comparison import Difference, Mean, holm, leaders, paired, spread_of, welch
from sbv2bench.registry import Registry
from sbv2bench.results import conditions
from sbv2bench.results.commands import eval_command
from sbv2bench.results.prompt_values import Values
from sbv2bench.results.records import EvalResult, MetricValue
from sbv2bench.specs import fingerprint

Verdict = Literal["better", "worse", "within noise", "no interval"]
LEVEL = 0.95

BY_CAPTION = "paired t over captions (same captions and noise; seeds averaged)"
OVER_SEEDS = "Welch's t over generation seeds (captions and reference held fixed)"
ONE_RUN = "normal, from each run's standard error (taken as independent; the shared reference makes it wider)"
NONE = "no interval: this metric has no standard error of one run; evaluate with --repeats 3"
NO_SEEDS = "no interval: this metric has no standard error of one run, and images that exist already have no other seeds"
NO_SPREAD = "no interval: every caption differs by the same amount, which tells nothing of its error"


@dataclass(frozen=True)
class Contestant:
    """A result that takes part. name: as it is shown, the model's id unless two results have the same one."""

    name: str
    result: EvalResult
    values: Values


def with_training(result: EvalResult, registry: Registry) -> EvalResult:
    """A result that does not say what trained its model, with what the catalog says of that, or of the ends of its merge."""
    models, model = registry.models, result.model
    if model.trained_with is not None:
        return result
    ends = (model.merge.a, model.merge.b) if model.merge is not None else (model.id,)
    said = united(models[end].trained_with for end in ends if end in models)
    return result if said is None else result.model_copy(update={"model": model.model_copy(update={"trained_with": said})})


@dataclass(frozen=True)
class MetricDifference:
    """`model` less `against` in one metric. verdict: of `model`, by the p-value corrected for the number of comparisons."""

    metric: str
    label: str
    model: str
    against: str
    value: float
    value_against: float
    difference: float
    ci95: tuple[float, float] | None
    p_value: float | None
    p_corrected: float | None
    verdict: Verdict
    method: str


@dataclass(frozen=True)
class Comparison:
    """Contestants on one suite, the differences of each from those it is compared with, and what is to be said of it."""

    contestants: tuple[Contestant, ...]
    differences: tuple[MetricDifference, ...]
    notes: tuple[str, ...]

    @property
    def keys(self) -> list[str]:
        """Metrics that every contestant has by one protocol, in the first one's order."""
        first, *others = (contestant.result.metrics for contestant in self.contestants)
        return [key for key, own in first.items() if all(_is_same(own, metrics.get(key)) for metrics in others)]

    @property
    def fingerprint(self) -> str:
        """SHA-256 (64 hex digits) of the fingerprints of what is compared."""
        return fingerprint([self.contestants[0].result.metrics[key].fingerprint for key in self.keys])

    def document(self) -> dict[str, object]:
        """JSON-ready: the suite, the contestants with their values, and a row for every difference."""
        suite = self.contestants[0].result.suite
        return {
            "suite": {"id": suite.id, "version": suite.version, "n": suite.num_generated},
            "protocols": {key: self.contestants[0].result.metrics[key].fingerprint for key in self.keys},
            "level": LEVEL,
            "correction": f"Holm over {sum(row.p_value is not None for row in self.differences)} comparisons",
            "models": [
                {
                    "name": contestant.name,
                    "id": contestant.result.model.id,
                    "dtype": conditions.dtype_of(contestant.result),
                    "seeds": list(contestant.result.suite.seeds),
                    "metrics": {key: contestant.result.metrics[key].value for key in self.keys},
                }
                for contestant in self.contestants
            ],
            "differences": [vars(row) | {"ci95": None if row.ci95 is None else list(row.ci95)} for row in self.differences],
            "notes": list(self.notes),
        }


def compare_results(contestants: Sequence[Contestant], *, all_pairs: bool = False) -> Comparison:
    """Compare every contestant with the first, or with all_pairs every two of them, in every metric that all have.

    Raises InputError for fewer than two, for results of different protocols (naming the fields that differ) or of different
    numbers of images, and where no metric is in all of them.
    """
    if len(contestants) < 2:
        raise InputError(f"compare: found {len(contestants)} result, expected at least two", "sbv2bench compare sd21 sbv2-merged")
    for other in contestants[1:]:
        _same_protocol(contestants[0], other)
    comparison = Comparison(tuple(contestants), (), tuple(_notes(contestants)))
    if not comparison.keys:
        had = "; ".join(f"{contestant.name} has {', '.join(contestant.result.metrics)}" for contestant in contestants)
        raise InputError(f"compare: no metric is in every result ({had})", "evaluate them with the same --metrics")
    count = len(contestants)
    pairs = [(second, first) for first in range(count if all_pairs else 1) for second in range(first + 1, count)]
    rows = [_difference(key, contestants[model], contestants[against]) for key in comparison.keys for model, against in pairs]
    return replace(comparison, differences=tuple(_judged(rows, contestants[0].result)))


def _same_protocol(first: Contestant, other: Contestant) -> None:
    suites = first.result.suite, other.result.suite
    if suites[0].num_generated != suites[1].num_generated:
        raise InputError(
            f"compare: {first.name} has {suites[0].num_generated} images, {other.name} {suites[1].num_generated}; "
            "metrics of different N are different metrics",
            eval_command(
                first.result, other.result.model, limit=suites[0].num_generated if first.result.status == "partial" else None
            ),
        )
    both = [key for key in first.result.metrics if key in other.result.metrics]
    if both and not any(_is_same(first.result.metrics[key], other.result.metrics[key]) for key in both):
        raise InputError(
            f"compare: {first.name} and {other.name} were measured by different protocols: {_differing(both[0], first, other)}",
            eval_command(first.result, other.result.model),
        )


def _is_same(own: MetricValue, other: MetricValue | None) -> bool:
    return other is not None and own.fingerprint == other.fingerprint


def _differing(key: str, first: Contestant, other: Contestant) -> str:
    """The fields in which the protocols of a metric differ, with their values, in words."""
    own, theirs = ({"suite": c.result.suite.id, **c.result.protocol(key)} for c in (first, other))
    return ", ".join(f"{name} ({a!r:.40} / {b!r:.40})" for name, a, b in differing(own, theirs)[:6])


def differing(first: object, second: object, path: str = "") -> list[tuple[str, object, object]]:
    """(dotted name, one value, the other) of every field in which two nests of dictionaries differ."""
    if isinstance(first, dict) and isinstance(second, dict):
        names = [*first, *(name for name in second if name not in first)]
        return [
            row for name in names for row in differing(first.get(name), second.get(name), f"{path}.{name}" if path else str(name))
        ]
    return [] if first == second else [(path, first, second)]


def _notes(contestants: Sequence[Contestant]) -> list[str]:
    suite = contestants[0].result.suite
    notes = []
    if contestants[0].result.status == "partial":
        notes.append(f"partial results: the first {suite.num_generated} images of {suite.id} only")
    if len({contestant.result.suite.seeds for contestant in contestants}) > 1:
        seeds = "; ".join(f"{c.name}: {', '.join(map(str, c.result.suite.seeds))}" for c in contestants)
        notes.append(f"generation seeds differ ({seeds}), so nothing is compared caption by caption")
    notes += conditions.notes([contestant.result for contestant in contestants])
    others = [(key, other) for other in contestants[1:] for key in contestants[0].result.metrics if key in other.result.metrics]
    for key, other in others:
        if not _is_same(contestants[0].result.metrics[key], other.result.metrics[key]):
            notes.append(f"{key} is not compared with {other.name}'s: {_differing(key, contestants[0], other)}")
    without = [c.name for c in contestants if not c.values]
    if without:
        notes.append(f"no values per caption beside the result of {', '.join(without)}: means are compared as independent")
    return notes


def _difference(key: str, model: Contestant, against: Contestant) -> MetricDifference:
    own, other = model.result.metrics[key], against.result.metrics[key]
    found, method = _tested(key, model, against)
    return MetricDifference(
        metric=key,
        label=own.label,
        model=model.name,
        against=against.name,
        value=own.value,
        value_against=other.value,
        difference=own.value - other.value,
        ci95=None if found is None else found.interval,
        p_value=None if found is None else found.p_value,
        p_corrected=None,
        verdict="no interval",
        method=method,
    )


def _tested(key: str, model: Contestant, against: Contestant) -> tuple[Difference | None, str]:
    """The difference with its interval by the sharpest method that the two results allow, and the method's name."""
    same_seeds = model.result.suite.seeds == against.result.suite.seeds
    if same_seeds and key in model.values and key in against.values:
        found = paired(model.values[key], against.values[key], LEVEL)
        return found, NO_SPREAD if found is None else BY_CAPTION
    values = model.result.metrics[key], against.result.metrics[key]
    same_model = model.result.model.fingerprint() == against.result.model.fingerprint()
    if same_seeds and same_model and values[0].value == values[1].value:
        return Difference(0.0, (0.0, 0.0), 1.0), "the same model, seeds and numbers"
    found, method = _independent(*values)
    if found is not None:
        return found, method
    seeded = model.result.model.has_seeds() and against.result.model.has_seeds()
    return None, NONE if seeded else NO_SEEDS


def _independent(own: MetricValue, other: MetricValue) -> tuple[Difference | None, str]:
    """The difference of two values as independent numbers: over seeds where both have several, else by each run's own error."""
    spreads = [spread_of(value.repeats) for value in (own, other)]
    if spreads[0] is not None and spreads[1] is not None:
        return welch(spreads[0], spreads[1], LEVEL), OVER_SEEDS
    errors = [spread or one_run(value) for spread, value in zip(spreads, (own, other), strict=True)]
    return (None if errors[0] is None or errors[1] is None else welch(errors[0], errors[1], LEVEL)), ONE_RUN


def leading_values(values: Sequence[MetricValue | None]) -> frozenset[int]:
    """Places of the values that lead, by `leaders`, taken as independent numbers; None takes no part."""
    first = next((value for value in values if value is not None), None)

    def p_value(place: int, best: int) -> float | None:
        own, other = values[place], values[best]
        found = None if own is None or other is None else _independent(own, other)[0]
        return None if found is None else found.p_value

    numbers = [None if value is None else value.value for value in values]
    return frozenset() if first is None else leaders(numbers, first.direction, p_value, LEVEL)


def leading(contestants: Sequence[Contestant], key: str) -> frozenset[int]:
    """Places of the contestants that lead a metric, by `leaders`; what has not got it, and real pictures, take no part."""
    own = [contestant.result.metrics.get(key) for contestant in contestants]
    first = next((metric for metric in own if metric is not None), None)
    if first is None:
        return frozenset()
    real = [contestant.result.model.images == "world" for contestant in contestants]
    values = [None if metric is None or is_real else metric.value for metric, is_real in zip(own, real, strict=True)]

    def p_value(place: int, best: int) -> float | None:
        found, _ = _tested(key, contestants[place], contestants[best])
        return None if found is None else found.p_value

    return leaders(values, first.direction, p_value, LEVEL)


def one_run(value: MetricValue) -> Mean | None:
    """A single run's value with its own standard error. It comes of thousands of images, or of a few blocks of them.

    Of repeats that are all the same it is the error that one of them gives by itself.
    """
    details = value.details or {}
    error = details.get("one_run_std_err", value.std_err)
    freedom = BLOCKS - 1 if "disjoint blocks" in details.get("one_run_method", value.uncertainty) else float("inf")
    return Mean(value.value, error, freedom) if error else None


def _judged(rows: list[MetricDifference], result: EvalResult) -> list[MetricDifference]:
    """The rows with p-values corrected for how many there are, and their verdicts."""
    tested = [row for row in rows if row.p_value is not None]
    corrected = iter(holm([row.p_value for row in tested if row.p_value is not None]))
    judged = []
    for row in rows:
        if row.p_value is None:
            judged.append(row)
            continue
        p = next(corrected)
        lower = result.metrics[row.metric].direction == "lower"
        verdict: Verdict = "within noise" if p >= 1 - LEVEL else "better" if (row.difference < 0) == lower else "worse"
        judged.append(replace(row, p_corrected=p, verdict=verdict))
    return judged

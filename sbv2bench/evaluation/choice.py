"""Which metrics a run computes, and whether there are images enough for each: known before the first of them is made."""

from __future__ import annotations

from collections.abc import Sequence

from sbv2bench.data.needs import rows_of
from sbv2bench.errors import InputError
from sbv2bench.evaluation.options import EvalOptions
from sbv2bench.evaluation.score import target_of
from sbv2bench.registry import Registry
from sbv2bench.specs import MetricSpec, ModelSpec, SuiteSpec


def chosen_metrics(suite: SuiteSpec, model: ModelSpec, options: EvalOptions, registry: Registry) -> tuple[MetricSpec, ...]:
    """The metrics asked for. Raises InputError for an unknown one, or one that the suite or the model cannot give."""
    chosen = tuple(registry.metric(flag) for flag in options.metrics or suite.metrics)
    if options.metrics is None and not model.has_network():  # "all" is all that can be had
        chosen = tuple(metric for metric in chosen if "latency" not in metric.needs)
    have = {*suite.roles()} | ({"reference"} if suite.num_reference else set())
    have |= {"attributes"} if suite.prompts.kind == "world" else set()
    have |= {"latency"} if model.has_network() else set()
    lacking = {metric.id: sorted({*metric.needs} - have) for metric in chosen}
    for metric in chosen:
        if lacking[metric.id]:
            who = f"model {model.id}, which no network generates," if lacking[metric.id] == ["latency"] else f"suite {suite.id}"
            raise InputError(
                f"--metrics {metric.id}: it needs {', '.join(lacking[metric.id])}, which {who} does not have",
                without(chosen, [name for name, parts in lacking.items() if parts]) or _others(suite, have, registry),
            )
    if not chosen:
        raise InputError(f"suite {suite.id}: no metric is left of those that it names", "sbv2bench list metrics")
    for metric in chosen:
        target_of(metric)  # raises where it cannot be imported
    return chosen


def _others(suite: SuiteSpec, have: set[str], registry: Registry) -> str | None:
    left = [flag for flag in suite.metrics if have >= {*registry.metric(flag).needs}]
    return f"--metrics {','.join(left)}" if left else None


def check_enough(metrics: Sequence[MetricSpec], suite: SuiteSpec, limit: int | None, registry: Registry) -> None:
    """Raises InputError unless every metric has the images that it needs at least. suite: with the images really generated."""
    few: dict[str, str] = {}
    least_of_all = 2
    for metric in metrics:
        least = least_images(metric, suite, registry)
        least_of_all = max(least_of_all, least)
        if suite.num_generated < least:
            few[metric.id] = f"{suite.num_generated:,} images, expected at least {least:,}"
        elif "reference" in metric.needs and suite.num_reference < least:
            few[metric.id] = f"{suite.num_reference:,} images in the reference, expected at least {least:,}"
    if few:
        name, found = next(iter(few.items()))
        enough = limit is not None and "reference" not in found and least_of_all <= suite.num_reference
        fix = f"--limit {least_of_all}" if enough else without(metrics, [*few])
        where = f"--limit {limit}" if limit is not None and "reference" not in found else f"suite {suite.id}"
        raise InputError(f"{where}: metric {name} has {found}", fix)


def least_images(metric: MetricSpec, suite: SuiteSpec, registry: Registry) -> int:
    """Images of either set that a metric needs at least; by its features' number as far as their extractor says it."""
    if not metric.least_a_feature:
        return metric.least
    from sbv2bench.features.base import extractor_class  # imports torch, which a wrong name must not wait for

    roles = suite.roles()
    networks = [extractor_class(registry.extractor(roles[row])) for row in rows_of(metric, suite) if row in roles]
    widths = [width for network in networks if isinstance(width := getattr(network, "dimension", None), int)]
    return max(metric.least, metric.least_a_feature * max(widths, default=0))


def without(metrics: Sequence[MetricSpec], names: Sequence[str]) -> str | None:
    """`--metrics` with all of them but some; None where none is left."""
    left = [metric.id for metric in metrics if metric.id not in names]
    return f"--metrics {','.join(left)}" if left else None

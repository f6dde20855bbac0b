"""Rows to numbers: each metric's function on every seed's rows, its values named and marked by what made them, seeds averaged."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from sbv2bench.errors import InputError
from sbv2bench.evaluation.foreign_code import blamed, checked_values, copied, is_foreign
from sbv2bench.evaluation.rows import Array, Rows
from sbv2bench.metrics import uncertainty
from sbv2bench.metrics.comparison import spread_of
from sbv2bench.results.prompt_values import Values
from sbv2bench.results.records import MetricValue, count_word
from sbv2bench.specs import MetricSpec

_ALIKE = 1e-3  # of a row's largest value: what a GPU may differ by over the same images, and never two seeds' images
_COUNT_IN_SUFFIX = re.compile(r"-\d+k?(?=-|$)", re.IGNORECASE)
_NO_SPREAD = "none: what it is a mean of does not scatter"
_OVER_SEEDS = "t interval over generation seeds (generation noise only)"

Target = Callable[[Rows], Mapping[str, MetricValue]]


@dataclass(frozen=True)
class Labels:
    """How metrics are named in a run: suffix, the suite's own; n, captions that were measured; partial, cut by --limit."""

    suffix: str
    n: int
    partial: bool = False

    def label(self, name: str) -> str:
        """The metric's name as people see it: "FID-mini", and "FID-mini@200" of the first 200 images of a suite.

        A count in the suite's suffix ("-30k", and "-48") is that of the images that were measured, whatever the suite declares.
        """
        suffix = _COUNT_IN_SUFFIX.sub("" if self.partial else f"-{count_word(self.n)}", self.suffix)
        return f"{name}{suffix}" + (f"@{self.n}" if self.partial else "")


@dataclass(frozen=True)
class MetricRows:
    """A metric with what it is computed from. seeds: the rows of each generation seed, one only of what does not depend on it.

    floor: rows of two draws of one model; what the metric is between them stands in its details under "floor".
    """

    metric: MetricSpec
    fingerprint: str
    seeds: Sequence[Rows]
    floor: Rows | None = None


def score(measured: Sequence[MetricRows], labels: Labels) -> tuple[dict[str, MetricValue], Values]:
    """The metrics block of a result, in the order given, the mean over seeds; and what each caption scored, [S, N] by key.

    Raises InputError where a target does not give the keys it declares, or foreign code raises anything.
    """
    block: dict[str, MetricValue] = {}
    values: Values = {}
    for one in measured:
        metric = one.metric
        found = [_computed(metric, rows) for rows in one.seeds]
        for key in metric.keys:
            each = [value[key].each for value in found]
            if all(scores is not None for scores in each):
                values[key] = np.stack([np.asarray(scores) for scores in each])
            block[key] = _over_seeds(
                [_marked(one, value[key], rows, labels) for value, rows in zip(found, one.seeds, strict=True)]
            )
        for key, value in _computed(metric, one.floor).items() if one.floor is not None else ():
            floor = {"floor": {"value": value.value, "std_err": value.std_err}}
            block[key] = block[key].model_copy(update={"details": (block[key].details or {}) | floor})
    for key in ("precision", "recall"):  # what the paper's two departures come to, on the same images
        paper = block.get(f"{key}_paper")
        if paper is not None and key in block:
            details = {**(paper.details or {}), "minus_fixed": paper.value - block[key].value}
            block[f"{key}_paper"] = paper.model_copy(update={"details": details})
    return block, values


def _computed(metric: MetricSpec, rows: Rows) -> Mapping[str, MetricValue]:
    """What a metric's function gives of one seed's rows, as it is declared."""
    target = target_of(metric)
    with blamed(f"metric {metric.id}", metric.target):
        found = target(copied(rows) if is_foreign(metric.target) else rows)
    return checked_values(metric, found, rows)


def _marked(one: MetricRows, value: MetricValue, rows: Rows, labels: Labels) -> MetricValue:
    """A value with what all of them say; an interval of +- 1.96 standard errors where its function gives none."""
    metric, extractor = one.metric, rows.extractor
    name = value.label or metric.title or metric.id
    update: dict[str, object] = {
        "label": name if metric.reads == "latency" else labels.label(name),
        "direction": metric.direction,
        "n_generated": value.n_generated or (labels.n if rows.generated is None else len(rows.generated)),
        "extractor": None if extractor is None else extractor.id,
        "fingerprint": one.fingerprint,
        "each": None,
    }
    if rows.reference is not None:
        update["n_reference"] = len(rows.reference)
    if value.ci95 is None and value.std_err is not None:
        if value.std_err == 0:
            update |= {"std_err": None, "uncertainty": _NO_SPREAD}
        else:
            update["ci95"] = uncertainty.normal_interval(value.value, value.std_err)
    return MetricValue.model_validate({**value.model_dump(), **update})


def target_of(metric: MetricSpec) -> Target:
    """The function that computes a metric, for imported scores their mean. Raises InputError where it cannot be imported."""
    if metric.reads == "scores" and not metric.target:
        return lambda rows: {metric.keys[0]: _mean_score(rows)}
    module, _, name = metric.target.partition(":")
    try:
        found: Target = getattr(import_module(module), name)
    except Exception as error:  # a plugin's module may raise anything
        raise InputError(f"metric {metric.id}: {metric.target} cannot be imported ({error})") from error
    return found


def _mean_score(rows: Rows) -> MetricValue:
    """The mean over captions of the mean score of each one's images; over tasks first, where the metric's parameters say so."""
    assert rows.generated is not None
    scores = np.asarray(rows.generated, dtype=np.float64).reshape(-1, rows.images_per_prompt).mean(axis=1)
    value, std_err = uncertainty.mean_and_std_err(scores)
    styles = None
    if rows.styles is not None and rows.parameters.get("mean_over") == "tasks":
        of_style = {style: scores[np.array(rows.styles) == style] for style in sorted(set(rows.styles))}
        means = {style: (*uncertainty.mean_and_std_err(own), float(len(own))) for style, own in of_style.items()}
        value = float(np.mean([mean for mean, _, _ in means.values()]))
        errors = [error for _, error, _ in means.values()]
        std_err = None if None in errors else float(np.linalg.norm(np.array(errors, dtype=np.float64))) / len(errors)
        styles = {
            style: {"value": mean, "n": n} | ({} if error is None else {"std_err": error})
            for style, (mean, error, n) in means.items()
        }
    return MetricValue(
        value=value,
        std_err=std_err,
        uncertainty="standard error over captions",
        styles=styles,
        each=scores.astype(np.float32),
    )


def are_alike(seeds: Sequence[Mapping[str, Array]]) -> bool:
    """Whether several seeds' rows are one seed's over again, but for rounding: a model that ignores seeds was counted twice."""
    first, *others = seeds
    if not others or not first:
        return False
    return all(
        np.allclose(rows[name], first[name], rtol=_ALIKE, atol=_ALIKE * float(np.abs(first[name]).max(initial=0.0)))
        for rows in others
        for name in first
    )


def _over_seeds(values: list[MetricValue]) -> MetricValue:
    """One seed's value as it is; of more, their mean with the spread between them, unless that is none.

    That spread has neither the choice of captions nor the reference in it, so the error that one run gives by itself (root
    mean square over the seeds) stays in `details` under "one_run_std_err", with its method.
    """
    if len(values) == 1:
        return values[0]
    numbers = [value.value for value in values]
    details = _mean([value.details for value in values])
    if spread_of(numbers) is None:  # as a share at its limit, whose one run has an error all the same
        styles = _mean([value.styles for value in values])
        return values[0].model_copy(update={"repeats": tuple(numbers), "styles": styles, "details": details})
    mean, std_err = uncertainty.mean_and_std_err(numbers)
    errors = [value.std_err for value in values if value.std_err is not None]
    if len(errors) == len(values):
        one_run = float(np.sqrt(np.mean(np.square(errors))))
        details = {**(details or {}), "one_run_std_err": one_run, "one_run_method": values[0].uncertainty}
    return values[0].model_copy(
        update={
            "value": mean,
            "std_err": std_err,
            "ci95": uncertainty.t_interval(numbers, 0.95),
            "uncertainty": _OVER_SEEDS,
            "repeats": tuple(numbers),
            "styles": _mean([value.styles for value in values]),
            "details": details,
        }
    )


def _mean(values: list[Any]) -> Any:
    """Mean of equal nests of dictionaries over their numbers; beside a "value", "std_err" is that of its mean over seeds."""
    first = values[0]
    if isinstance(first, dict):
        found = {key: _mean([value[key] for value in values]) for key in first}
        if "std_err" in first:
            found["std_err"] = uncertainty.mean_and_std_err([value["value"] for value in values])[1]
        return found
    if isinstance(first, int | float):
        return float(np.mean(values)) if len(set(values)) > 1 else first
    return first

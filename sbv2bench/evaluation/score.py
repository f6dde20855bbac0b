"""Rows to numbers: one function for each metric, from what was measured of the images to values that say what they are.

Each takes FeatureSets and returns {key of the result's metrics block: MetricValue}; catalogs name them as a metric's target.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from importlib import import_module
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sbv2bench.data.prompts import Prompts
from sbv2bench.errors import InputError
from sbv2bench.metrics import kernel, uncertainty
from sbv2bench.metrics.base import Features
from sbv2bench.metrics.blocks import BLOCKS, Statistic, errors_by_blocks
from sbv2bench.metrics.comparison import spread_of
from sbv2bench.metrics.frechet_infinity import frechet_infinity
from sbv2bench.metrics.paper_precision_recall import paper_precision_recall
from sbv2bench.metrics.precision_recall import precision_recall
from sbv2bench.mini.world import ATTRIBUTES
from sbv2bench.results.records import MetricValue, count_word
from sbv2bench.specs import ExtractorSpec, MetricSpec, SuiteSpec

NEIGHBOURS = 3  # k of precision and recall (Kynkäänniemi et al. 2019, section 3)
_GROUPS = 10  # HPSv2 prints the deviation of ten group means
_LEAST_IN_BLOCK = 100  # images of a set in each block: with fewer the blocks' coverage was not simulated
_OVER_PROMPTS = "standard error over prompts"
_OVER_IMAGES = "influence function over images of both sets"
_OVER_BLOCKS = f"{BLOCKS} disjoint blocks of both sets, t interval"
_ALIKE = 1e-3  # of a row's largest value: what a GPU may differ by over the same images, and never two seeds' images
_ALL_ALIKE = f"none: all {BLOCKS} blocks have the same value"
_COUNT_IN_SUFFIX = re.compile(r"-\d+k?(?=-|$)", re.IGNORECASE)
_NO_SPREAD = "none: what it is a mean of does not scatter"
_OVER_SEEDS = "t interval over generation seeds (generation noise only)"

Rows = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class FeatureSets:
    """What the metrics of one seed are computed from.

    generated: rows of N images as `measure_block` gives them. reference: "features" [M, D] float32 and "radii" [M] float64.
    latency: what `quick_latency` returned. extractors: by role. partial: the run was cut by --limit.
    """

    suite: SuiteSpec
    extractors: Mapping[str, ExtractorSpec]
    prompts: Prompts
    generated: Rows
    reference: Rows | None = None
    latency: dict[str, Any] | None = None
    partial: bool = False

    def label(self, name: str) -> str:
        """The metric's name as people see it: "FID-mini", and "FID-mini@200" of the first 200 images of a suite.

        A count in the suite's suffix ("-30k", and "-48") is that of the images that were measured, whatever the suite declares.
        """
        n = len(self.prompts)
        suffix = _COUNT_IN_SUFFIX.sub("" if self.partial else f"-{count_word(n)}", self.suite.label_suffix)
        return f"{name}{suffix}" + (f"@{n}" if self.partial else "")

    def value(self, name: str, value: float, direction: Literal["lower", "higher"], role: str, **more: Any) -> MetricValue:
        """A MetricValue with what all of them say. role: whose extractor measured; more: its other fields.

        Where more has a std_err and no ci95, the interval is the normal one: value +- 1.96 std_err.
        """
        known: dict[str, Any] = {
            "label": self.label(name),
            "n_generated": len(self.prompts),
            "extractor": self.extractors[role].id,
        }
        if more.get("std_err") == 0 and "ci95" not in more:
            more |= {"std_err": None, "uncertainty": _NO_SPREAD}
        if more.get("std_err") is not None:
            known["ci95"] = uncertainty.normal_interval(value, more["std_err"])
        return MetricValue.model_validate({"value": value, "direction": direction, **known, **more})

    def compared(
        self, name: str, value: float, direction: Literal["lower", "higher"], role: str = "features", **more: Any
    ) -> MetricValue:
        """The same for a metric of generated and reference features."""
        n_reference = 0 if self.reference is None else len(self.reference[role])
        return self.value(name, value, direction, role, n_reference=n_reference, **more)


def _pair(sets: FeatureSets, role: str = "features") -> tuple[NDArray[Any], NDArray[Any]]:
    if sets.reference is None:
        raise InputError(f"suite {sets.suite.id} has no reference images to compare with")
    return sets.generated[role], sets.reference[role]


def fid(sets: FeatureSets) -> dict[str, MetricValue]:
    """Fréchet distance, in the features' unit squared, biased by order 1/N. Its error needs more images than features."""
    value, std_err = uncertainty.frechet_statistics(*_pair(sets))
    few = f"none: influence functions need more than D = {sets.generated['features'].shape[1]} images of either set"
    return {"fid": sets.compared("FID", value, "lower", std_err=std_err, uncertainty=few if std_err is None else _OVER_IMAGES)}


def fid_infinity(sets: FeatureSets) -> dict[str, MetricValue]:
    """Fréchet distance extrapolated to ever more images (metrics/frechet_infinity.py has the protocol).

    details: "slope" of the line in 1/N, and "distances", of parts by the number of generated images in them.
    """
    found = frechet_infinity(*_pair(sets))
    details = {"slope": found.slope, "distances": {str(n): distance for n, distance in found.distances.items()}}
    more: dict[str, Any] = {"std_err": found.std_err, "uncertainty": _OVER_IMAGES, "details": details}
    return {"fid_infinity": sets.compared("FID-infinity", found.value, "lower", **more)}


def pr(sets: FeatureSets) -> dict[str, MetricValue]:
    """Improved precision and recall, density and coverage, k = 3; by the suite's own extractor for them, if it has one."""
    role = "features" if sets.suite.pr is None else "pr"
    generated, reference = _pair(sets, role)
    radii = None if sets.reference is None else sets.reference.get("radii" if role == "features" else "pr_radii")
    found = precision_recall(generated, reference, NEIGHBOURS, reference_radii=radii)
    n, m = len(generated), len(reference)
    shares = {"precision": n, "recall": m, "density": None, "coverage": m}

    def statistic(generated: Features, reference: Features) -> tuple[float, ...]:
        return astuple(precision_recall(generated, reference, NEIGHBOURS))

    errors = _errors_by_blocks(statistic, (generated, reference), astuple(found), tuple(shares.values()))
    return {
        name: sets.compared(name, value, "higher", role, **error)
        for name, value, error in zip(shares, astuple(found), errors, strict=True)
    }


def pr_paper(sets: FeatureSets) -> dict[str, MetricValue]:
    """Precision and recall as the paper's script computes them: BGR features, float16 distances."""

    def statistic(generated: Features, reference: Features) -> tuple[float, float]:
        found = paper_precision_recall(generated, reference, NEIGHBOURS)
        return found.precision, found.recall

    generated, reference = _pair(sets, "pr_paper")
    values = statistic(generated, reference)
    errors = _errors_by_blocks(statistic, (generated, reference), values, (len(generated), len(reference)))
    return {
        f"{name}_paper": sets.compared(f"{name} (paper)", value, "higher", "pr_paper", **error)
        for name, value, error in zip(("precision", "recall"), values, errors, strict=True)
    }


def _errors_by_blocks(
    statistic: Statistic,
    pair: tuple[NDArray[Any], NDArray[Any]],
    values: tuple[float, ...],
    counts: tuple[int | None, ...],
) -> list[dict[str, Any]]:
    """The fields of MetricValue that errors_by_blocks gives for each value, or why it gives none."""
    least = BLOCKS * _LEAST_IN_BLOCK
    if min(map(len, pair)) < least:
        return [{"uncertainty": f"none: {BLOCKS} blocks need {least:,} images of either set"} for _ in values]
    found = errors_by_blocks(statistic, *pair, values, counts)
    return [
        # A density of 0 in every block: its interval would be that one point, which held the truth in 9 % of simulations.
        {"std_err": std_err, "ci95": interval, "uncertainty": _OVER_BLOCKS} if std_err > 0 else {"uncertainty": _ALL_ALIKE}
        for std_err, interval in found
    ]


def kid(sets: FeatureSets) -> dict[str, MetricValue]:
    """Kernel distance, the full unbiased U-statistic, with its standard error."""
    value, std_err = kernel.kernel_statistics(*_pair(sets))
    more: dict[str, Any] = {"std_err": std_err, "uncertainty": "U-statistic over images of both sets"}
    return {"kid": sets.compared("KID", value, "lower", **more)}


def clip(sets: FeatureSets) -> dict[str, MetricValue]:
    """CLIP score: the mean cosine, neither scaled nor clipped at zero.

    details, where captions have hard negatives: "margin", the mean cosine with the caption less that with its negative.
    """
    cosines = sets.generated["clip"]
    value, std_err = uncertainty.mean_and_std_err(cosines)
    more: dict[str, Any] = {"std_err": std_err, "uncertainty": _OVER_PROMPTS, "unit": "cosine"}
    if "clip_false" in sets.generated:
        margin, error = uncertainty.mean_and_std_err(cosines - sets.generated["clip_false"])
        more["details"] = {"margin": {"value": margin, "std_err": error, "n": len(cosines)}}
    return {"clip_score": sets.value("CLIP", value, "higher", "clip", **more)}


def hps(sets: FeatureSets) -> dict[str, MetricValue]:
    """Human preference score: 100 times the mean cosine over all images, and by style.

    group_deviation of a style: population deviation of the means of ten consecutive groups of its images.
    """
    return {"hps": _preference(sets, "hps")}


def hps_v21(sets: FeatureSets) -> dict[str, MetricValue]:
    """The same by the v2.1 weights, whose scale is another."""
    return {"hps_v21": _preference(sets, "hps_v21")}


def _preference(sets: FeatureSets, role: str) -> MetricValue:
    scores = sets.generated[role]
    value, std_err = uncertainty.mean_and_std_err(scores)
    more = {"std_err": std_err, "uncertainty": _OVER_PROMPTS, "unit": "100 x cosine", "styles": _by_style(scores, sets.prompts)}
    name = "HPS" if sets.suite.label_suffix else sets.extractors[role].label or "HPS"  # which weights, where there are two
    return sets.value(name, value, "higher", role, **more)


def _by_style(scores: NDArray[np.float64], prompts: Prompts) -> dict[str, dict[str, float]] | None:
    if prompts.styles is None:
        return None
    styles = np.array(prompts.styles)
    found = {}
    for style in sorted(set(prompts.styles)):
        own = scores[styles == style]
        value, std_err = uncertainty.mean_and_std_err(own)
        spread = uncertainty.group_deviation(own, max(1, -(-len(own) // _GROUPS)))[1]
        found[style] = {"value": value, "n": float(len(own)), "group_deviation": spread}
        if std_err is not None:
            found[style]["std_err"] = std_err
    return found


def attributes(sets: FeatureSets) -> dict[str, MetricValue]:
    """Share of images in which the extractor reads every attribute that the caption names; by attribute in `details`."""
    right = sets.generated["attributes"]  # int8 [N, 9]: 1 right, 0 wrong, -1 not named
    n, share = len(right), float((right != 0).all(axis=1).mean())
    details = {}
    for name in dict.fromkeys(attribute.partition("_")[0] for attribute in ATTRIBUTES):
        columns = [column for column, attribute in enumerate(ATTRIBUTES) if attribute.partition("_")[0] == name]
        named = right[:, columns][right[:, columns] >= 0]
        if len(named):
            details[name] = {"value": float((named == 1).mean()), "n": len(named)}
    std_err = float(np.sqrt(share * (1 - share) / n))
    more: dict[str, Any] = {"std_err": std_err, "ci95": uncertainty.wilson_interval(share, n)}
    more["uncertainty"] = "binomial over prompts, Wilson interval"
    return {"attribute_accuracy": sets.value("attributes", share, "higher", "features", unit="share", details=details, **more)}


def latency(sets: FeatureSets) -> dict[str, MetricValue]:
    """Median wall time of one image, in milliseconds; by stage in `details`. The one metric that differs between runs."""
    if sets.latency is None:
        raise InputError("latency was not measured in this run")
    found = dict(sets.latency)
    median, n = found.pop("median_ms"), found["runs"]
    quick = MetricValue(value=median, label="latency (quick)", direction="lower", unit="ms", n_generated=n, details=found)
    return {"latency_ms": quick.model_copy(update={"uncertainty": "median of single runs; p5 and p95 in details"})}


def score(metrics: Sequence[MetricSpec], seeds: Sequence[FeatureSets]) -> dict[str, MetricValue]:
    """The metrics block of a result: each metric on every seed's sets, in the order given, and the mean over seeds.

    Latency is measured once and says so by its n. Where every seed gave the same images, they count once.
    Raises InputError where a target does not give the keys it declares.
    """
    block: dict[str, MetricValue] = {}
    seeds = seeds[:1] if are_alike([sets.generated for sets in seeds]) else seeds
    for metric in metrics:
        target = target_of(metric)
        once = "latency" in metric.needs
        values = [target(sets) for sets in (seeds[:1] if once else seeds)]
        if set(values[0]) != set(metric.keys):
            found, expected = ", ".join(values[0]), ", ".join(metric.keys)
            raise InputError(f"metric {metric.id}: {metric.target} gave {found}, expected {expected}")
        block |= {key: _over_seeds([value[key] for value in values]) for key in metric.keys}
    for key in ("precision", "recall"):  # what the paper's two departures come to, on the same images
        paper = block.get(f"{key}_paper")
        if paper is not None and key in block:
            details = {**(paper.details or {}), "minus_fixed": paper.value - block[key].value}
            block[f"{key}_paper"] = paper.model_copy(update={"details": details})
    return block


def target_of(metric: MetricSpec) -> Callable[[FeatureSets], dict[str, MetricValue]]:
    """The function that computes a metric. Raises InputError where it cannot be imported."""
    module, _, name = metric.target.partition(":")
    try:
        found: Callable[[FeatureSets], dict[str, MetricValue]] = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"metric {metric.id}: {metric.target} cannot be imported ({error})") from error
    return found


def are_alike(seeds: Sequence[Rows]) -> bool:
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

"""Metrics of two sets of features, generated and reference: Rows to values, with their errors where there is a formula."""

from __future__ import annotations

from dataclasses import astuple

from sbv2bench.evaluation.rows import Array, Rows
from sbv2bench.metrics import kernel, uncertainty
from sbv2bench.metrics.base import Features
from sbv2bench.metrics.blocks import BLOCKS, Statistic, errors_by_blocks
from sbv2bench.metrics.frechet_infinity import frechet_infinity
from sbv2bench.metrics.paper_precision_recall import paper_precision_recall
from sbv2bench.metrics.precision_recall import precision_recall, radii
from sbv2bench.results.records import MetricValue

_LEAST_IN_BLOCK = 100  # images of a set in each block: with fewer the blocks' coverage was not simulated
_OVER_IMAGES = "influence function over images of both sets"
_OVER_BLOCKS = f"{BLOCKS} disjoint blocks of both sets, t interval"
_ALL_ALIKE = f"none: all {BLOCKS} blocks have the same value"


def fid(rows: Rows) -> dict[str, MetricValue]:
    """Fréchet distance, in the features' unit squared, biased by order 1/N. Its error needs more images than features."""
    generated, reference = rows.pair()
    value, std_err = uncertainty.frechet_statistics(generated, reference)
    few = f"none: influence functions need more than D = {generated.shape[1]} images of either set"
    return {"fid": MetricValue(value=value, label="FID", std_err=std_err, uncertainty=few if std_err is None else _OVER_IMAGES)}


def fid_infinity(rows: Rows) -> dict[str, MetricValue]:
    """Fréchet distance extrapolated to ever more images (metrics/frechet_infinity.py says how).

    details: "slope" of the line in 1/N, and "distances", of parts by the number of generated images in them.
    """
    found = frechet_infinity(*rows.pair())
    details = {"slope": found.slope, "distances": {str(n): distance for n, distance in found.distances.items()}}
    value = MetricValue(value=found.value, label="FID-infinity", std_err=found.std_err, uncertainty=_OVER_IMAGES, details=details)
    return {"fid_infinity": value}


def pr(rows: Rows) -> dict[str, MetricValue]:
    """Improved precision and recall, density and coverage; parameter k, 3 in Kynkäänniemi et al. 2019, section 3."""
    generated, reference = rows.pair()
    k = rows.parameters["k"]
    reference_radii = rows.kept(f"radii-{k}", lambda: radii(reference, k))
    found = precision_recall(generated, reference, k, reference_radii=reference_radii)
    shares = {"precision": len(generated), "recall": len(reference), "density": None, "coverage": len(reference)}

    def statistic(generated: Features, reference: Features) -> tuple[float, ...]:
        return astuple(precision_recall(generated, reference, k))

    errors = _errors_by_blocks(statistic, (generated, reference), astuple(found), tuple(shares.values()))
    return {
        name: MetricValue.model_validate({"value": value, "label": name, **error})
        for name, value, error in zip(shares, astuple(found), errors, strict=True)
    }


def pr_paper(rows: Rows) -> dict[str, MetricValue]:
    """Precision and recall as the paper's script computes them: BGR features, float16 distances."""

    def statistic(generated: Array, reference: Array) -> tuple[float, float]:
        found = paper_precision_recall(generated, reference, rows.parameters["k"])
        return found.precision, found.recall

    generated, reference = rows.pair()
    values = statistic(generated, reference)
    errors = _errors_by_blocks(statistic, (generated, reference), values, (len(generated), len(reference)))
    return {
        f"{name}_paper": MetricValue.model_validate({"value": value, "label": f"{name} (paper)", **error})
        for name, value, error in zip(("precision", "recall"), values, errors, strict=True)
    }


def kid(rows: Rows) -> dict[str, MetricValue]:
    """Kernel distance, the full unbiased U-statistic, with its standard error."""
    value, std_err = kernel.kernel_statistics(*rows.pair())
    return {"kid": MetricValue(value=value, label="KID", std_err=std_err, uncertainty="U-statistic over images of both sets")}


def _errors_by_blocks(
    statistic: Statistic, pair: tuple[Array, Array], values: tuple[float, ...], counts: tuple[int | None, ...]
) -> list[dict[str, object]]:
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

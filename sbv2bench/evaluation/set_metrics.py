"""Metrics of two sets of features, generated and reference: Rows to values, with their errors where there is a formula."""

from __future__ import annotations

from dataclasses import astuple

import numpy as np

from sbv2bench.evaluation.rows import Array, Rows
from sbv2bench.metrics import kernel, uncertainty
from sbv2bench.metrics.base import Features
from sbv2bench.metrics.blocks import BLOCKS, Statistic, errors_by_blocks
from sbv2bench.metrics.cmmd import cmmd_statistics
from sbv2bench.metrics.frechet_infinity import frechet_infinity
from sbv2bench.metrics.paper_precision_recall import paper_precision_recall
from sbv2bench.metrics.precision_recall import precision_recall, radii
from sbv2bench.results.records import MetricValue

_LEAST_IN_BLOCK = 100  # images of a set in each block: with fewer the blocks' coverage was not simulated
_OVER_IMAGES = "influence function over images of both sets"
_U_STATISTIC = "U-statistic over images of both sets"
_OVER_BLOCKS = f"{BLOCKS} disjoint blocks of both sets, t interval"
_ALL_ALIKE = f"none: all {BLOCKS} blocks have the same value"


def fid(rows: Rows) -> dict[str, MetricValue]:
    """Fréchet distance, in the features' unit squared, biased by order 1/N. Its error needs more images than features.

    By style too, where every caption's is a folder of the reference: the distance between those images of either set.
    """
    found = _frechet(rows, "FID")
    if rows.styles is not None and rows.folders is not None and {*rows.styles} <= {*rows.folders}:
        found = found.model_copy(update={"styles": _frechet_by_style(rows, np.array(rows.styles), np.array(rows.folders))})
    return {"fid": found}


def _frechet_by_style(rows: Rows, styles: Array, folders: Array) -> dict[str, dict[str, float]]:
    """Of each style that has two images in either set, from its smaller number of images and thus with a larger bias."""
    generated, reference = rows.pair()
    found: dict[str, dict[str, float]] = {}
    for style in sorted(set(styles.tolist())):
        own, real = generated[styles == style], reference[folders == style]
        if min(len(own), len(real)) > 1:
            value, std_err = uncertainty.frechet_statistics(own, real)
            found[style] = {"value": value, "n": float(len(own))} | ({} if std_err is None else {"std_err": std_err})
    return found


def patch_fid(rows: Rows) -> dict[str, MetricValue]:
    """The same of a patch of each image, whose side in pixels the label says, after the extractor's preparation ("patch299")."""
    return {"patch_fid": _frechet(rows, f"patch-FID{_side(rows)}")}


def patch_fid_t(rows: Rows) -> dict[str, MetricValue]:
    """The same to the images of the model's teacher, of the same captions."""
    return {"patch_fid_t": _frechet(rows, f"patch-FID-T{_side(rows)}")}


def _side(rows: Rows) -> str:
    """ "-299px" of an extractor whose preparation is "patch299"."""
    side = "" if rows.extractor is None else rows.extractor.preparation.removeprefix("patch")
    return f"-{side}px" if side else ""


def fd_dinov2(rows: Rows) -> dict[str, MetricValue]:
    """The same of DINOv2's features; its scale is another than FID's."""
    return {"fd_dinov2": _frechet(rows, "FD-DINOv2")}


def _frechet(rows: Rows, label: str) -> MetricValue:
    generated, reference = rows.pair()
    value, std_err = uncertainty.frechet_statistics(generated, reference)
    few = f"none: influence functions need more than D = {generated.shape[1]} images of either set"
    return MetricValue(value=value, label=label, std_err=std_err, uncertainty=few if std_err is None else _OVER_IMAGES)


def fid_t(rows: Rows) -> dict[str, MetricValue]:
    """The same to the images of the model's teacher, of the same captions."""
    return {"fid_t": _frechet(rows, "FID-T")}


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
    reference_radii = rows.kept(f"radii-{k}", lambda: radii(reference, k, device=rows.device))
    found = precision_recall(generated, reference, k, reference_radii=reference_radii, device=rows.device)
    shares = {"precision": len(generated), "recall": len(reference), "density": None, "coverage": len(reference)}

    def statistic(generated: Features, reference: Features) -> tuple[float, ...]:
        return astuple(precision_recall(generated, reference, k, device=rows.device))

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
    return {"kid": MetricValue(value=value, label="KID", std_err=std_err, uncertainty=_U_STATISTIC)}


def cmmd(rows: Rows) -> dict[str, MetricValue]:
    """CLIP maximum mean discrepancy, biased, times 1,000, with its standard error to first order."""
    value, std_err = cmmd_statistics(*rows.pair())
    return {"cmmd": MetricValue(value=value, label="CMMD", std_err=std_err, uncertainty=_U_STATISTIC)}


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

"""Metrics of several images of a caption: how different they are, and how good. Rows to values, with intervals over captions."""

from __future__ import annotations

import math

import numpy as np

from sbv2bench.evaluation.rows import Rows
from sbv2bench.metrics import uncertainty
from sbv2bench.metrics.base import Float64
from sbv2bench.metrics.diversity import pairwise_distances, vendi_scores
from sbv2bench.metrics.paired_cosine import paired_cosine
from sbv2bench.results.records import MetricValue

_OVER_CAPTIONS = "standard error over captions"


def diversity(rows: Rows) -> dict[str, MetricValue]:
    """Mean pairwise cosine distance of a caption's images, and their Vendi score, each a mean over captions."""
    assert rows.generated is not None
    images = rows.images_per_prompt
    return {
        "pairwise_distance": _mean(
            pairwise_distances(rows.generated, images), f"pairwise distance K={images}", "cosine distance"
        ),
        "vendi": _mean(vendi_scores(rows.generated, images), f"Vendi K={images}", "images"),
    }


def diversity_ratio(rows: Rows) -> dict[str, MetricValue]:
    """The pairwise distance and the Vendi score as shares of the teacher's, of as many images of the same captions.

    A ratio of means over captions; its error is that of the linearised ratio, captions paired. details: both means.
    """
    generated, reference = rows.pair()
    images = rows.images_per_prompt
    found = {}
    for key, of, label in (
        ("pairwise_distance_ratio", pairwise_distances, "pairwise distance / teacher's"),
        ("vendi_ratio", vendi_scores, "Vendi / teacher's"),
    ):
        student, teacher = of(generated, images), of(reference, images)
        value, std_err = ratio_of_means(student, teacher)
        details = {"student": float(student.mean()), "teacher": float(teacher.mean())}
        found[key] = MetricValue(
            value=value,
            label=f"{label} K={images}",
            std_err=std_err,
            uncertainty=_OVER_CAPTIONS,
            unit="ratio",
            details=details,
        )
    return found


def clip_of_all(rows: Rows) -> dict[str, MetricValue]:
    """CLIP score of all images of a caption, to stand beside their diversity: noise is diverse, and scores low here."""
    assert rows.generated is not None and rows.text is not None and rows.extractor is not None
    images = rows.images_per_prompt
    cosines = rows.extractor.scale * paired_cosine(rows.generated, np.repeat(rows.text, images, axis=0))
    return {"clip_score_all": _mean(cosines.reshape(-1, images).mean(axis=1), f"CLIP of all images K={images}", "cosine")}


def ratio_of_means(values: Float64, others: Float64) -> tuple[float, float | None]:
    """(mean of values / mean of others, standard error) of pairs [N]: the deviation of values - ratio x others over sqrt N."""
    below = float(others.mean())
    ratio = float(values.mean()) / below if below else math.inf
    if len(values) < 2 or not math.isfinite(ratio):
        return ratio, None
    return ratio, float((values - ratio * others).std(ddof=1)) / (abs(below) * math.sqrt(len(values)))


def _mean(values: Float64, label: str, unit: str) -> MetricValue:
    value, std_err = uncertainty.mean_and_std_err(values)
    return MetricValue(
        value=value, label=label, std_err=std_err, uncertainty=_OVER_CAPTIONS, unit=unit, each=values.astype(np.float32)
    )

"""Metrics of single captions, a mean each of what every caption's image scored; and the quick latency. Rows to values."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sbv2bench.evaluation.rows import Array, Rows
from sbv2bench.metrics import uncertainty
from sbv2bench.metrics.paired_cosine import paired_cosine
from sbv2bench.mini.world import ATTRIBUTES, FREE
from sbv2bench.results.records import MetricValue

_GROUPS = 10  # HPSv2 prints the deviation of ten group means
_OVER_PROMPTS = "standard error over prompts"


def clip(rows: Rows) -> dict[str, MetricValue]:
    """CLIP score: the mean cosine, neither scaled nor clipped at zero.

    details, where captions have hard negatives: "margin", the mean cosine with the caption less that with its negative.
    """
    return {"clip_score": _clip(rows, "CLIP")}


def clip_l14(rows: Rows) -> dict[str, MetricValue]:
    """The same by OpenAI's ViT-L/14; no model's score is comparable with another's."""
    return {"clip_score_l14": _clip(rows, "CLIP-L14")}


def clip_l14_336(rows: Rows) -> dict[str, MetricValue]:
    """The same by OpenAI's ViT-L/14 at 336 px."""
    return {"clip_score_l14_336": _clip(rows, "CLIP-L14-336")}


def _clip(rows: Rows, label: str) -> MetricValue:
    cosines = _scaled_cosines(rows, rows.text)
    value, std_err = uncertainty.mean_and_std_err(cosines)
    details = None
    if rows.false_text is not None:
        margin, error = uncertainty.mean_and_std_err(cosines - _scaled_cosines(rows, rows.false_text))
        details = {"margin": {"value": margin, "std_err": error, "n": len(cosines)}}
    return MetricValue(
        value=value,
        label=label,
        std_err=std_err,
        uncertainty=_OVER_PROMPTS,
        unit="cosine",
        details=details,
        each=cosines.astype(np.float32),
    )


def hps(rows: Rows) -> dict[str, MetricValue]:
    """Human preference score: 100 times the mean cosine over all images, and by style.

    group_deviation of a style: population deviation of the means of ten consecutive groups of its images.
    """
    return {"hps": _preference(rows)}


def hps_v21(rows: Rows) -> dict[str, MetricValue]:
    """The same by the v2.1 weights, whose scale is another."""
    return {"hps_v21": _preference(rows)}


def pickscore(rows: Rows) -> dict[str, MetricValue]:
    """PickScore: the mean logit over all images, and by style."""
    return {"pickscore": _mean(rows, _scores(rows), "PickScore", "logit")}


def image_reward(rows: Rows) -> dict[str, MetricValue]:
    """ImageReward: the mean reward over all images, and by style."""
    return {"image_reward": _mean(rows, _scores(rows), "ImageReward", "reward")}


def _preference(rows: Rows) -> MetricValue:
    own = rows.extractor.label if rows.extractor is not None and rows.extractor.family != "mini" else ""
    return _mean(rows, _scaled_cosines(rows, rows.text), own or "HPS", "100 x cosine")  # which weights, where there are two


def _mean(rows: Rows, scores: NDArray[np.float64], label: str, unit: str) -> MetricValue:
    value, std_err = uncertainty.mean_and_std_err(scores)
    return MetricValue(
        value=value,
        label=label,
        std_err=std_err,
        uncertainty=_OVER_PROMPTS,
        unit=unit,
        styles=_by_style(scores, rows.styles),
        each=scores.astype(np.float32),
    )


def _scaled_cosines(rows: Rows, text: Array | None) -> NDArray[np.float64]:
    """float64 [N]: the cosine of each image with its text, times the extractor's scale."""
    assert rows.generated is not None and text is not None and rows.extractor is not None
    return rows.extractor.scale * paired_cosine(rows.generated, text)


def _scores(rows: Rows) -> NDArray[np.float64]:
    assert rows.generated is not None
    return rows.generated.astype(np.float64)


def _by_style(scores: NDArray[np.float64], of_captions: tuple[str, ...] | None) -> dict[str, dict[str, float]] | None:
    if of_captions is None:
        return None
    styles = np.array(of_captions)
    found = {}
    for style in sorted(set(of_captions)):
        own = scores[styles == style]
        value, std_err = uncertainty.mean_and_std_err(own)
        spread = uncertainty.group_deviation(own, max(1, -(-len(own) // _GROUPS)))[1]
        found[style] = {"value": value, "n": float(len(own)), "group_deviation": spread}
        if std_err is not None:
            found[style]["std_err"] = std_err
    return found


def attributes(rows: Rows) -> dict[str, MetricValue]:
    """Share of images in which the extractor reads every attribute that the caption names; by attribute in `details`."""
    assert rows.generated is not None and rows.attributes is not None
    right = attributes_right(rows.generated, rows.attributes)
    whole = (right != 0).all(axis=1)
    n, share = len(right), float(whole.mean())
    details = {}
    for name in dict.fromkeys(attribute.partition("_")[0] for attribute in ATTRIBUTES):
        columns = [column for column, attribute in enumerate(ATTRIBUTES) if attribute.partition("_")[0] == name]
        named = right[:, columns][right[:, columns] >= 0]
        if len(named):
            details[name] = {"value": float((named == 1).mean()), "n": len(named)}
    value = MetricValue(
        value=share,
        label="attributes",
        std_err=float(np.sqrt(share * (1 - share) / n)),
        ci95=uncertainty.wilson_interval(share, n),
        uncertainty="binomial over prompts, Wilson interval",
        unit="share",
        details=details,
        each=whole.astype(np.uint8),
    )
    return {"attribute_accuracy": value}


def attributes_right(read: Array, named: Array) -> NDArray[np.int8]:
    """int8 [N, A]: 1 where the attribute that a caption names was read, 0 where another was, -1 where it names none.

    read, named: integers [N, A], columns of `world.ATTRIBUTES`; named has `world.FREE` where the caption names nothing.
    """
    return np.where(named == FREE, -1, read == named).astype(np.int8)


def latency(rows: Rows) -> dict[str, MetricValue]:
    """Median wall time of one image, in milliseconds; by stage in `details`. The one metric that differs between runs."""
    assert rows.latency is not None
    found = dict(rows.latency)
    median, n = found.pop("median_ms"), found["runs"]
    said = "median of single runs; p5 and p95 in details"
    if found.get("busy"):
        said = "MACHINE WAS BUSY, on no board; " + said
    quick = MetricValue(value=median, label="latency (quick)", unit="ms", n_generated=n, uncertainty=said, details=found)
    return {"latency_ms": quick}

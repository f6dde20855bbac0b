"""What `sbv2bench show METRIC` says beside a metric's declaration: its networks, their cost, and numbers that others print."""

from __future__ import annotations

import csv
import io
from importlib.resources import files

from sbv2bench.evaluation.costs import SHARE_OF_CEILING
from sbv2bench.registry import Registry

# TFLOP/s of float32 matrix products by their makers' data: 8 cores of 2.5 GHz with two AVX2 units each; an A100 without TF32.
CPU, GPU = 0.64, 19.5
_IMAGES = 1000
BASIS = (
    f"FLOPs counted from the architecture; {SHARE_OF_CEILING:.0%} of a device's rate in float32 matrix products, which is {CPU} "
    f"TFLOP/s of 8 CPU cores and {GPU} TFLOP/s of an A100: an estimate, not measured. Reference images cost as much, once."
)


def metric_card(name: str, registry: Registry) -> dict[str, object]:
    """direction; extractors, by id: where each is used and what 1,000 images cost by it; cost_basis; published, lines of
    catalog/published-elsewhere.csv. JSON-ready, without what there is nothing of.

    Raises InputError where there is no such metric.
    """
    metric = registry.metric(name)
    used: dict[str, list[str]] = {} if metric.extractor is None else {metric.extractor: ["unless a suite names another"]}
    for suite in registry.suites.values():
        own = suite.changed(metric).extractor
        if own is not None and suite.names_extractor(name):
            used.setdefault(own, []).append(f"suite {suite.id}")
    found: dict[str, object] = {"direction": f"{metric.direction} is better"}
    if used:
        found["extractors"] = {one: {"used": where, **_of_a_thousand(one, registry)} for one, where in used.items()}
        found["cost_basis"] = BASIS
    if published := [row for row in _published_elsewhere() if row["metric"] in metric.keys]:
        found["published"] = published
    return found


def _published_elsewhere() -> list[dict[str, object]]:
    """Numbers of other papers than SwiftBrush v2's, each with its protocol as far as it is stated, and where it is printed."""
    text = (files("sbv2bench.catalog") / "published-elsewhere.csv").read_text("utf-8")
    return [
        {**row, "value": float(row["value"]), "nfe": int(row["nfe"]) if row["nfe"] else None}
        for row in csv.DictReader(io.StringIO(text))
    ]


def _of_a_thousand(extractor: str, registry: Registry) -> dict[str, object]:
    spec = registry.extractor(extractor)
    found: dict[str, object] = {"description": spec.description}
    if spec.gflop_image is None:
        return found | {"tflop_1000_images": None}
    teraflop = (spec.gflop_image + spec.gflop_text) * _IMAGES / 1000
    seconds = {device: teraflop / (rate * SHARE_OF_CEILING) for device, rate in (("cpu", CPU), ("gpu", GPU))}
    said = {f"seconds_{device}": float(f"{value:.2g}") for device, value in seconds.items()}
    return found | {"tflop_1000_images": float(f"{teraflop:.3g}"), **said}

"""Results as evaluations on the paper's suites would write them, and the table of the paper that `reproduce` makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sample_results import metric, sample_result, with_these

from sbv2bench.registry import Registry
from sbv2bench.reproduce.request import Request, carry_out
from sbv2bench.reproduce.table import Cell, Reproduction
from sbv2bench.results import store
from sbv2bench.results.records import EvalResult, MetricValue, ModelRecord
from sbv2bench.specs import SuiteSpec, WeightsFile

REGISTRY = Registry.built_in()


def paper_result(model: str, metrics: dict[str, MetricValue], suite: str = "coco2014-30k", **changes: Any) -> EvalResult:
    """A result under the protocols that a suite of the paper declares. changes: of that suite, for other protocols."""
    spec, declared = REGISTRY.models[model], REGISTRY.suite(suite).model_copy(update=changes)
    made = sample_result()
    own = made.suite.model_copy(
        update={"id": suite, "version": declared.version, "num_generated": declared.num_generated, "seeds": (0,)}
    )
    record = ModelRecord(**spec.model_dump(), nfe=spec.network_evaluations())
    result = made.model_copy(update={"model": record, "suite": own, "metrics": metrics})
    return with_these(result, {key: declared_protocol(key, declared) for key in metrics})


def declared_protocol(key: str, suite: SuiteSpec, **of_extractor: Any) -> dict[str, Any]:
    """The protocol of a metric's key on a suite, with weights that have the hash of the asset. of_extractor: its fields."""
    spec = next((suite.changed(one) for one in REGISTRY.metrics.values() if key in one.keys), None)
    if spec is None:
        return {"metric": {"id": key}, "num_generated": suite.num_generated}
    extractor = None if spec.extractor is None else REGISTRY.extractor(spec.extractor)
    if extractor is not None:
        asset = REGISTRY.assets.get(extractor.location.removeprefix("asset:"))
        weights = WeightsFile(path="weights", sha256=(asset.sha256 or "ab") if asset is not None else "ab")
        extractor = extractor.model_copy(update={"weights": (weights,), **of_extractor})
    return suite.metric_protocol(spec, extractor, suite.prompts.captions_sha256 or "ab", "cd")


def fid_of(value: float) -> dict[str, MetricValue]:
    return {"fid": metric(value, "FID-30k")}


def table(name: str, folder: Path, *results: EvalResult, suite: str = "paper") -> Reproduction:
    for result in results:
        store.write(result, folder)
    found = carry_out(Request.checked(name, suite, folder, REGISTRY))
    assert isinstance(found, Reproduction)
    return found


def cell(found: Reproduction, method: str, name: str = "fid") -> Cell:
    return next(one for line, one in found.cells() if line.printed.method == method and one.metric == name)

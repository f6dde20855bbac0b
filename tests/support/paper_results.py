"""Results as evaluations on the paper's suites would write them, and the table of the paper that `reproduce` makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sample_results import metric, sample_result

from sbv2bench.registry import Registry
from sbv2bench.reproduce.request import Request, carry_out
from sbv2bench.reproduce.table import Cell, Reproduction
from sbv2bench.results import store
from sbv2bench.results.records import EvalResult, MetricValue, ModelRecord
from sbv2bench.specs import fingerprint

REGISTRY = Registry.built_in()


def paper_result(model: str, metrics: dict[str, MetricValue], suite: str = "coco2014-30k", **changes: Any) -> EvalResult:
    """A result under the protocol that a suite of the paper declares. changes: of that suite, for another protocol."""
    spec, declared = REGISTRY.models[model], REGISTRY.suite(suite).model_copy(update=changes)
    extractors = {}
    for role, name in declared.roles().items():
        extractor = REGISTRY.extractor(name)
        asset = REGISTRY.assets.get(extractor.location.removeprefix("asset:"))
        weights = [{"path": "weights", "sha256": "ab" if asset is None else asset.sha256}]
        extractors[role] = extractor.protocol() | {"weights": weights}
    protocol = {
        "suite": declared.protocol(),
        "prompts_sha256": declared.prompts.captions_sha256 or "ab",
        "extractors": extractors,
        "metrics": {flag: REGISTRY.metric(flag).protocol() for flag in declared.metrics},
    }
    made = sample_result()
    own = made.suite.model_copy(
        update={
            "id": suite,
            "version": declared.version,
            "fingerprint": fingerprint(protocol),
            "protocol": protocol,
            "num_generated": declared.num_generated,
            "seeds": (0,),
        }
    )
    record = ModelRecord(**spec.model_dump(), nfe=spec.network_evaluations())
    return made.model_copy(update={"model": record, "suite": own, "metrics": metrics})


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

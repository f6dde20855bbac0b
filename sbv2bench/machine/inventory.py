"""Everything that has an id, with what a person chooses it by: what it is, size, steps, direction, and whether it is here."""

from __future__ import annotations

from sbv2bench.data.assets import resolve_location
from sbv2bench.data.chain import chain, named_links
from sbv2bench.data.hub import nothing_fetched
from sbv2bench.data.needs import suite_needs
from sbv2bench.errors import SBV2BenchError
from sbv2bench.registry import BUILT_IN, Registry
from sbv2bench.results import verifications
from sbv2bench.specs import ModelSpec, SuiteSpec

FEW = 8  # steps at most of a few-step model
_OF_A_UNET = {"StableDiffusionPipeline", "StableDiffusionXLPipeline", "LatentConsistencyModelPipeline"}
# The columns of the table that people read; JSON has these keys and those of every kind.
COLUMNS = {
    "models": ("id", "sampling", "steps", "guidance_scale", "here", "gated", "licence", "what_it_is"),
    "suites": ("id", "what_it_is", "captions", "reference", "metrics", "here"),
    "metrics": ("id", "what_it_is", "better", "reads_captions", "suites"),
    "extractors": ("id", "what_it_is", "here"),
    "plugins": ("id", "kind", "origin", "verified"),
}


def listed(registry: Registry, kind: str) -> list[dict[str, object]]:
    """Everything of a kind, in the order of its declaration. kind: a key of COLUMNS. The network is not asked.

    Every object has `id`, `family`, `kind`, `origin`, `licence` and `verified`, and what `COLUMNS` names of its kind. `here`
    says whether all its files are on this machine.
    """
    if kind == "plugins":
        found = ((p.name, p.error or "entry point", p.distribution, not p.error) for p in registry.plugins)
        return [_row(name, what, origin, verified) for name, what, origin, verified in found]
    table, spec_of = kind.removesuffix("s"), {"models": _model, "suites": _suite, "metrics": _metric, "extractors": _extractor}
    rows = [spec_of[kind](registry, name, registry.sources[table, name]) for name in registry.table(table)]
    groups = registry.groups if kind == "suites" else ()
    return rows + [_suite(registry, name, registry.sources["group", name]) for name in groups]


def _row(name: str, kind: str, origin: str, verified: bool, *, family: str = "", licence: str = "") -> dict[str, object]:
    """What every line has."""
    return {"id": name, "family": family, "kind": kind, "origin": origin, "licence": licence, "verified": verified}


def _model(registry: Registry, name: str, source: str) -> dict[str, object]:
    model = registry.models[name]
    return _row(name, model.sampler, model.origin or source, is_verified(model), family=model.family, licence=model.licence) | {
        "what_it_is": model.description, "steps": model.network_evaluations() if model.images != "none" else None,
        "guidance_scale": model.guidance_scale if model.has_network() else None, "here": not why_lacking(model, registry),
        "sampling": sampling(model), "gated": model.gated,
    }  # fmt: skip


def _suite(registry: Registry, name: str, source: str) -> dict[str, object]:
    """Of a suite, or of a group of suites."""
    group = registry.groups.get(name)
    parts = [registry.suites[part] for part in group.suites] if group else [registry.suites[name]]
    kind = " + ".join(group.suites) if group else parts[0].prompts.kind
    return _row(name, kind, source, source == BUILT_IN, family=(group or parts[0]).family) | {
        "what_it_is": (group or parts[0]).description, "captions": sum(suite.num_generated for suite in parts),
        "reference": max(suite.num_reference for suite in parts),
        "metrics": list(dict.fromkeys(flag for suite in parts for flag in suite.flags)),
        "here": all(_suite_is_here(registry, suite) for suite in parts),
    }  # fmt: skip


def _metric(registry: Registry, name: str, source: str) -> dict[str, object]:
    metric = registry.metrics[name]
    return _row(name, " ".join(metric.keys), source, source == BUILT_IN) | {
        "what_it_is": ": ".join(filter(None, (metric.title, metric.description))),
        "better": "higher" if metric.higher_is_better else "lower",
        "reads_captions": metric.reads_captions,
        "suites": [suite.id for suite in registry.suites.values() if any(metric.id == name for metric in suite.metrics)],
    }  # fmt: skip


def _extractor(registry: Registry, name: str, source: str) -> dict[str, object]:
    extractor = registry.extractors[name]
    here = all(is_here(registry, place) for place in (extractor.location, extractor.tokenizer))
    more = {"what_it_is": extractor.description, "here": here}
    return _row(name, extractor.kind, source, source == BUILT_IN) | more


def sampling(model: ModelSpec) -> str:
    """How a model makes an image, in two words: "one-step UNet", "few-step transformer", "images" of one that has none."""
    if not model.has_network():
        return {"files": "images that exist", "world": "renderings"}.get(model.images, "published numbers only")
    steps = model.network_evaluations()
    pace = "one-step" if steps == 1 else "few-step" if steps <= FEW else "multi-step"
    return f"{pace} {network(model)}".strip()


def network(model: ModelSpec) -> str:
    """What a model's denoiser is: UNet, transformer, or "" where that is only known once it is loaded."""
    if model.sampler == "pipeline":
        return "" if not model.pipeline else "UNet" if model.pipeline in _OF_A_UNET else "transformer"
    return "UNet" if model.sampler in {"one_step", "multi_step", "rectified_flow"} else ""


def is_verified(model: ModelSpec) -> bool:
    """Whether somebody has sampled its weights by these settings: we ourselves, or who sent in a verification."""
    return model.verified or bool(verifications.of_model(model))


def why_lacking(model: ModelSpec, registry: Registry) -> str:
    """Why a model, its bases and the ends of a merge included, cannot be sampled here and now; "" if its files are at hand."""
    if model.images == "none":
        return f"only published numbers exist ({model.origin})"
    try:
        with nothing_fetched():
            if model.merge:
                ends = (model.merge.a, model.merge.b)
                if why := next((f"{end}: {why}" for end in ends if (why := why_lacking(registry.model(end), registry))), ""):
                    return why
            if model.location:
                chain(model)
            elif model.merge:
                named_links(model)
    except SBV2BenchError as error:
        return error.message.splitlines()[0]
    return ""


def _suite_is_here(registry: Registry, suite: SuiteSpec) -> bool:
    try:
        return not any(need.missing for need in suite_needs(registry, suite))
    except SBV2BenchError:
        return False


def is_here(registry: Registry, location: str) -> bool:
    """Whether a location is on this machine; the empty one is."""
    try:
        return not location or resolve_location(location, assets=registry.assets, local_only=True).exists()
    except SBV2BenchError:
        return False

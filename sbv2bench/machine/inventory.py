"""Everything that has an id, with what a person chooses it by: what it is, size, steps, direction, and whether it is here."""

from __future__ import annotations

from sbv2bench.data.assets import resolve_location
from sbv2bench.data.chain import chain
from sbv2bench.data.hub import nothing_fetched
from sbv2bench.data.needs import read_captions, suite_needs
from sbv2bench.errors import SBV2BenchError
from sbv2bench.registry import BUILT_IN, Registry
from sbv2bench.specs import ModelSpec, SuiteSpec

# The columns of the table that people read; JSON has these keys and those of every kind.
COLUMNS = {
    "models": ("id", "what_it_is", "steps", "guidance_scale", "licence", "here"),
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
    return [row | _more(registry, kind, str(row["id"])) for row in _rows(registry, kind)]


def _rows(registry: Registry, what: str) -> list[dict[str, object]]:
    """What every line has: id, family, kind, origin, licence, verified."""
    if what == "plugins":
        found = [(p.name, "", p.error or "entry point", p.distribution, "", not p.error) for p in registry.plugins]
    elif what == "models":
        found = [
            (m.id, m.family, m.sampler, m.origin or registry.sources["model", m.id], m.licence, m.verified)
            for m in registry.models.values()
        ]
    else:
        kind = what.removesuffix("s")
        own = {name: registry.sources[kind, name] for name in registry.table(kind)}
        families = {name: suite.family for name, suite in registry.suites.items()} if kind == "suite" else {}
        kinds: dict[str, str] = {name: suite.prompts.kind for name, suite in registry.suites.items()}
        kinds |= {name: " ".join(metric.keys) for name, metric in registry.metrics.items()} if kind == "metric" else {}
        kinds |= {name: extractor.kind for name, extractor in registry.extractors.items()} if kind == "extractor" else {}
        found = [(name, families.get(name, ""), kinds[name], source, "", source == BUILT_IN) for name, source in own.items()]
        for group in registry.groups.values() if kind == "suite" else ():
            source = registry.sources["group", group.id]
            found.append((group.id, group.family, " + ".join(group.suites), source, "", source == BUILT_IN))
    return [dict(zip(("id", "family", "kind", "origin", "licence", "verified"), row, strict=True)) for row in found]


def _more(registry: Registry, kind: str, name: str) -> dict[str, object]:
    if kind == "models":
        model = registry.models[name]
        return {
            "what_it_is": model.description, "steps": model.network_evaluations() if model.images != "none" else None,
            "guidance_scale": model.guidance_scale if model.has_network() else None, "here": _model_is_here(registry, model),
        }  # fmt: skip
    if kind == "suites":
        group = registry.groups.get(name)
        parts = [registry.suites[part] for part in group.suites] if group else [registry.suites[name]]
        return {
            "what_it_is": (group or parts[0]).description, "captions": sum(suite.num_generated for suite in parts),
            "reference": max(suite.num_reference for suite in parts),
            "metrics": list(dict.fromkeys(flag for suite in parts for flag in suite.flags)),
            "here": all(_suite_is_here(registry, suite) for suite in parts),
        }  # fmt: skip
    if kind == "metrics":
        metric = registry.metrics[name]
        return {
            "what_it_is": ": ".join(filter(None, (metric.title, metric.description))),
            "better": "higher" if metric.higher_is_better else "lower",
            "reads_captions": bool(read_captions([metric])),
            "suites": [suite.id for suite in registry.suites.values() if any(metric.id == name for metric in suite.metrics)],
        }  # fmt: skip
    if kind == "extractors":
        extractor = registry.extractors[name]
        return {"what_it_is": extractor.description, "here": _is_here(registry, extractor.location)}
    return {}


def _model_is_here(registry: Registry, model: ModelSpec) -> bool:
    """Whether all that a model is made of is on this machine, its bases and the ends of a merge included."""
    if model.images == "none":
        return False
    try:
        with nothing_fetched():
            if model.merge:
                return all(_model_is_here(registry, registry.model(end)) for end in (model.merge.a, model.merge.b))
            return not model.location or bool(chain(model))
    except SBV2BenchError:
        return False


def _suite_is_here(registry: Registry, suite: SuiteSpec) -> bool:
    try:
        return not any(need.missing for need in suite_needs(registry, suite))
    except SBV2BenchError:
        return False


def _is_here(registry: Registry, location: str) -> bool:
    try:
        return not location or resolve_location(location, assets=registry.assets, local_only=True).exists()
    except SBV2BenchError:
        return False

"""What it would take to reproduce a table or a figure: every method with its cost, and whether its weights are at hand.

Nothing is loaded, hashed or downloaded, and the hub is not asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sbv2bench.data.assets import HUB
from sbv2bench.data.needs import suite_needs
from sbv2bench.evaluation.costs import whole_work
from sbv2bench.evaluation.options import EvalOptions
from sbv2bench.latency.architecture_flops import stage_gflop
from sbv2bench.machine.inventory import why_lacking
from sbv2bench.registry import Registry
from sbv2bench.reproduce.figure import sweep_command
from sbv2bench.reproduce.miniature import stand_in
from sbv2bench.reproduce.search import Search, result_of
from sbv2bench.reproduce.table import rows_on
from sbv2bench.results.published import declared, published_models, rows_of_table
from sbv2bench.specs import ModelSpec, SuiteSpec

SWEEP_WEIGHTS = 11  # of the trainer's sweep: 0, 0.1, ..., 1


def plan_table(name: str, suites: Sequence[SuiteSpec], found: Search, registry: Registry) -> dict[str, Any]:
    """JSON-ready: a row for each method; costs are of one seed."""
    mini = suites[0].family == "mini"
    rows = rows_of_table(name.removeprefix("table")) if mini else tuple(row for row, _ in rows_on(name, suites))
    methods = []
    for row in rows:
        own = stand_in(row) if mini else None
        model_id = published_models()[row.name].id if not mini else "" if own is None else own.model
        model = registry.models.get(model_id)
        if model is not None and own is not None:
            changes = {"steps": own.nfe, "guidance_scale": own.guidance_scale}
            model = model.model_copy(update={key: value for key, value in changes.items() if value is not None})
        methods.append({"method": row.method, **_method(model_id, model, suites, found, registry)})
    return _document(name, declared().tables[name].title, suites, methods, registry)


def plan_figure(name: str, suites: Sequence[SuiteSpec], registry: Registry) -> dict[str, Any]:
    """JSON-ready: a row for each sweep of the figure, which evaluates 11 weights; costs are of one seed."""
    (suite,), methods = suites[:1], []
    for panel in declared().figures[name].panels:
        ends = (f"{suite.family}/{panel.a}", f"{suite.family}/{panel.b}")
        models = [registry.models.get(end) for end in ends]
        lacking = next(
            (f"{end}: {why}" for end, model in zip(ends, models, strict=True) if (why := _why_lacking(model, registry))), ""
        )
        known = next((model for model in models if model is not None), None)
        cost = _times(cost_of(known, suite, registry), SWEEP_WEIGHTS) if known is not None and known.has_network() else {}
        row = {
            "method": f"{ends[0]} merged with {ends[1]}",
            "model": " + ".join(ends),
            "at_hand": not lacking,
            "lacking": lacking,
        }
        methods.append(row | {"measured": {}, "costs": {suite.id: cost} if cost else {}, "command": sweep_command(ends, suite)})
    return _document(name, declared().figures[name].title, [suite], methods, registry)


def _document(
    name: str, title: str, suites: Sequence[SuiteSpec], methods: list[dict[str, Any]], registry: Registry
) -> dict[str, Any]:
    needs = {suite.id: suite_needs(registry, suite) for suite in suites}
    missing = {
        name: [f"{need.location} ({need.what})" for need in found if need.missing is not None] for name, found in needs.items()
    }
    return {
        "target": name,
        "title": title,
        "suites": [f"{suite.id}@v{suite.version}" for suite in suites],
        "suite_files_missing": {name: found for name, found in missing.items() if found},
        "methods": methods,
    }


def _method(
    model_id: str, model: ModelSpec | None, suites: Sequence[SuiteSpec], search: Search, registry: Registry
) -> dict[str, Any]:
    measured = {}
    for suite in suites if model is not None else ():
        found = search.found.get(suite.id)
        best = None if found is None or model is None else result_of(model, found.board)
        if best is not None:
            measured[suite.id] = best[0]
    samples = model is not None and model.has_network()
    costs = {suite.id: cost_of(model, suite, registry) for suite in suites} if model is not None and samples else {}
    command = ""
    if model is not None and samples:
        declared_as = registry.models[model_id]
        options = [f"--steps {model.steps}"] if model.steps != declared_as.steps else []
        options += [f"--guidance-scale {model.guidance_scale:g}"] if model.guidance_scale != declared_as.guidance_scale else []
        command = " ".join([f"sbv2bench eval --model {model_id}", *options, *(f"--suite {suite.id}" for suite in suites[:1])])
    lacking = _why_lacking(model, registry) if model_id else "the mini family has no such model"
    return {
        "model": model_id,
        "at_hand": not lacking,
        "lacking": lacking,
        "measured": measured,
        "costs": costs,
        "command": command,
    }


def _why_lacking(model: ModelSpec | None, registry: Registry) -> str:
    return "not in the catalog" if model is None else why_lacking(model, registry)


def cost_of(model: ModelSpec, suite: SuiteSpec, registry: Registry) -> dict[str, Any]:
    """What one seed of a model on a suite costs where nothing is in the cache; of no network more than is known of it."""
    work = whole_work(model, suite, EvalOptions(), registry)
    passes = work.forward_passes()
    from_hub = any(location.startswith(HUB) for location in (model.location, *model.named_locations()))
    stages = {} if from_hub or why_lacking(model, registry) else stage_gflop(model, registry)
    return {"images": work.images, "forward_passes": passes, "tflop": work.teraflop(passes, stages)}


def _times(cost: dict[str, Any], count: int) -> dict[str, Any]:
    """A cost as often as it is paid."""
    return {
        key: {name: number * count for name, number in value.items()} if isinstance(value, dict) else value * count
        for key, value in cost.items()
    }

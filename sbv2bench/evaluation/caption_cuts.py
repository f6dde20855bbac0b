"""Captions of which words were dropped, by each text network that read them: counted, stored with the numbers, and said."""

from __future__ import annotations

from collections.abc import Mapping

from sbv2bench.evaluation.plan import EvalPlan
from sbv2bench.features.base import cut_by_extractor
from sbv2bench.registry import Registry
from sbv2bench.results.records import MetricValue
from sbv2bench.samplers.text_lengths import cut_by_model

KEY = "cut_captions"  # in a metric's details: {network: {"captions": how many were cut, "tokens": how many are read}}
_OF_MODEL = "the model's"

Cuts = dict[str, dict[str, int]]


def cut_captions(plan: EvalPlan, registry: Registry) -> Cuts:
    """Of each text network that a run's captions went through: captions that were cut, of how many, and tokens that it reads.

    By the extractor's id, and "the model's text_encoder". A network whose tokenizer cannot be asked is not in it.
    """
    captions = plan.prompts.captions
    found: dict[str, tuple[int, int]] = {}
    for name, extractor in plan.extractors.items():
        cut = cut_by_extractor(extractor, captions) if extractor.gives in ("paired", "scorer") else None
        if cut is not None:
            found[name] = cut
    if plan.extractors:
        found |= {f"{_OF_MODEL} {name}": cut for name, cut in cut_by_model(plan.model, captions, registry).items()}
    return {name: {"captions": cut, "of": len(captions), "tokens": tokens} for name, (cut, tokens) in found.items()}


def with_cuts(metrics: Mapping[str, MetricValue], plan: EvalPlan, cuts: Cuts) -> dict[str, MetricValue]:
    """The metrics with what was cut of the captions that they are of, by the model or by their own network, in their details."""
    marked = dict(metrics)
    for metric in plan.metrics:
        said = {
            name: {"captions": cut["captions"], "tokens": cut["tokens"]}
            for name, cut in cuts.items()
            if cut["captions"] and (name == metric.extractor or name.startswith(_OF_MODEL))
        }
        if said and metric.reads != "latency":
            for key in metric.keys:
                marked[key] = marked[key].model_copy(update={"details": {**(marked[key].details or {}), KEY: said}})
    return marked

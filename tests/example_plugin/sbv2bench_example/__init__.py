"""What sbv2bench calls: `register(registry)`. Nothing heavy is imported until a target is used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sbv2bench.specs import MetricSpec, ModelSpec, SamplerSpec

if TYPE_CHECKING:
    from sbv2bench.registry import Registry


def register(registry: Registry) -> None:
    """One of each kind that needs code: a way to sample, a model that uses it, a metric."""
    registry.add("sampler", SamplerSpec(id="grey", target="sbv2bench_example.grey:GreySampler", description="grey images"))
    registry.add("model", ModelSpec(id="local/grey", sampler="grey", steps=1, description="every image is grey", licence="MIT"))
    registry.add(
        "metric",
        MetricSpec(
            id="named",
            target="sbv2bench_example.grey:named",
            keys=("named_attributes",),
            needs=("attributes",),
            higher_is_better=True,
            title="attributes that a caption names",
        ),
    )

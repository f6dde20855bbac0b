"""A plugin of one file: an extractor, a metric of it, a way to sample and a model. `register(registry)` is what sbv2bench calls.

Nothing heavy is imported before something of it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import numpy as np

from sbv2bench.results.records import MetricValue
from sbv2bench.specs import ExtractorSpec, MetricSpec, ModelSpec, SamplerSpec

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from sbv2bench.evaluation.rows import Rows
    from sbv2bench.registry import Registry
    from sbv2bench.samplers.base import PromptBlock, Stopwatch


def register(registry: Registry) -> None:
    """One of each kind that needs code, and a metric whose scores another tool gives."""
    registry.add("extractor", ExtractorSpec(id="mean-colour", kind="sbv2bench_example:MeanColour", gives="features"))
    registry.add(
        "metric",
        MetricSpec(
            id="mine",
            target="sbv2bench_example:colour_distance",
            reads="features",
            extractor="mean-colour",
            reference="suite",
            parameters={"power": 2},
            keys=("colour_distance",),
            higher_is_better=False,
            title="distance of mean colours",
        ),
    )
    registry.add("metric", MetricSpec(id="votes", reads="scores", keys=("votes",), higher_is_better=True, title="people's votes"))
    registry.add("sampler", SamplerSpec(id="grey", target="sbv2bench_example:GreySampler", description="grey images"))
    registry.add("model", ModelSpec(id="local/grey", sampler="grey", steps=1, description="every image is grey", licence="MIT"))


class MeanColour:
    """An extractor without weights: the mean of each channel."""

    image_size = None

    def __init__(self, spec: ExtractorSpec, device: str) -> None:
        self.spec = spec

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 [B, H, W, 3] to float32 [B, 3]."""
        return images.mean(axis=(1, 2), dtype=np.float32)


def colour_distance(rows: Rows) -> dict[str, MetricValue]:
    """Distance between the mean features of generated and reference images, to a power."""
    assert rows.generated is not None and rows.reference is not None
    apart = np.linalg.norm(rows.generated.mean(axis=0) - rows.reference.mean(axis=0))
    return {"colour_distance": MetricValue(value=float(apart ** rows.parameters["power"]), label="colour distance")}


class GreySampler:
    """Grey images of 32 px, with a level for each seed."""

    resolution = 32
    network_calls = 0

    def __init__(self, spec: ModelSpec, device: str, dtype: torch.dtype) -> None:
        self.spec = spec

    def generate(self, block: PromptBlock, stopwatch: Stopwatch) -> NDArray[np.uint8]:
        """uint8 [block size, 32, 32, 3]."""
        levels = np.array([seed % 256 for seed in block.noise_seeds], dtype=np.uint8)
        return np.broadcast_to(levels[:, None, None, None], (len(levels), 32, 32, 3)).copy()

    def pipeline(self) -> NoReturn:
        """Raises InputError: there is none."""
        from sbv2bench.errors import InputError

        raise InputError("local/grey has no pipeline")

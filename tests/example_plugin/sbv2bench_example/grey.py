"""A sampler and a metric as a third party writes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import numpy as np
from numpy.typing import NDArray

from sbv2bench.errors import InputError
from sbv2bench.results.records import MetricValue
from sbv2bench.specs import ModelSpec

if TYPE_CHECKING:
    import torch

    from sbv2bench.evaluation.score import FeatureSets
    from sbv2bench.samplers.base import PromptBlock, Stopwatch


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
        raise InputError("local/grey has no pipeline")


def named(sets: FeatureSets) -> dict[str, MetricValue]:
    """Mean number of attributes that a caption names: a metric of the prompts alone."""
    attributes = sets.prompts.attributes
    assert attributes is not None
    value = float((attributes >= 0).sum(axis=1).mean())
    return {
        "named_attributes": MetricValue(value=value, label="named attributes", direction="higher", n_generated=len(attributes))
    }

"""A model that draws each caption as the mini world itself would: what a perfect model would score at the same N."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import numpy as np
import torch

from sbv2bench.errors import InputError
from sbv2bench.mini import reading, rendering, world
from sbv2bench.samplers.base import Images, PromptBlock, Stopwatch, refuse_unused
from sbv2bench.specs import ModelSpec

if TYPE_CHECKING:
    from sbv2bench.registry import Registry


class RenderingsSampler:
    """Fresh pictures of the captions, keyed by the image seeds: neither training pictures nor those of the reference."""

    network_calls = 0
    resolution = world.IMAGE_SIZE

    def __init__(self, spec: ModelSpec, device: str, dtype: torch.dtype, registry: Registry | None = None) -> None:
        refuse_unused(spec, "location", "base", "holds", "vae", "parts", "adapters", "merge")
        self.spec = spec

    def generate(self, block: PromptBlock, stopwatch: Stopwatch) -> Images:
        """uint8 [block size, 32, 32, 3]. Raises InputError for a caption that is not of the world's language."""
        with stopwatch.stage("decode"):
            keys = np.array([seed >> 1 for seed in block.noise_seeds], dtype=np.int64)
            return rendering.render(reading.read(block.captions), keys)

    def pipeline(self) -> NoReturn:
        """Raises InputError: no network draws these."""
        raise InputError(f"{self.spec.id}: renderings of the world have no pipeline")

"""A rectified flow on Stable Diffusion's networks: Euler steps along a velocity, one of them for InstaFlow.

Liu et al. 2023, "InstaFlow", algorithm 1 in the time of its released pipeline (gnobitab/InstaFlow): t = 1000 (1 - i / N) is
noise first, and the network's output is x_0 - z, so that one step is x_0 = z + v(z, 1000).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import torch
from torch import Tensor

from sbv2bench.errors import InputError
from sbv2bench.samplers.base import OF_PIPELINES, Images, PromptBlock, Stopwatch, refuse_unused
from sbv2bench.samplers.components import is_guided, load_components
from sbv2bench.samplers.placement import USUAL, Placement
from sbv2bench.specs import ModelSpec

if TYPE_CHECKING:
    from sbv2bench.registry import Registry

START = 1000.0  # the network's time of pure noise: one more than a diffusion model's last timestep


class RectifiedFlowSampler:
    """N steps of x += v(x, t) / N from z ~ N(0, 1), latents kept in float32. The folder's scheduler plays no part."""

    def __init__(
        self,
        spec: ModelSpec,
        device: str,
        dtype: torch.dtype,
        registry: Registry | None = None,
        *,
        placement: Placement = USUAL,
    ) -> None:
        """Loads the model; raises what `load_components` raises."""
        refuse_unused(spec, "scheduler", "timestep_spacing", "timesteps", "timestep", "alpha_T", "input_scaling", *OF_PIPELINES)
        self.spec = spec
        self._guided = is_guided(spec.guidance_scale)
        self.components = load_components(spec, device, dtype, registry, placement)
        self.resolution = self.components.resolution
        self.width = self.components.width
        self.network_calls = spec.steps * (2 if self._guided else 1)

    def generate(self, block: PromptBlock, stopwatch: Stopwatch) -> Images:
        """uint8 [block size, resolution, width, 3]; see `Sampler.generate`."""
        return self.components.sample(block, stopwatch, self._guided, self.denoise)

    def denoise(self, noise: Tensor, text: Tensor, rngs: list[torch.Generator]) -> Tensor:
        """Latents x_0 [B, C, h, w] of noise of that shape and the states of captions; rngs: a generator for each image."""
        x, spec = noise, self.spec
        for step in range(spec.steps):
            t = torch.tensor(START * (1 - step / spec.steps), device=noise.device)
            x = x + self.components.predict(x, t, text, spec.guidance_scale) / spec.steps
        return x

    def networks(self) -> dict[str, torch.nn.Module]:
        """Its networks by part; see `HasNetworks.networks`."""
        return self.components.networks()

    def pipeline(self) -> NoReturn:
        """Raises InputError: no scheduler of diffusers asks a network at t = 1000, and its community pipeline is remote code."""
        raise InputError(f"{self.spec.id}: diffusers has no pipeline for a rectified flow of this kind")

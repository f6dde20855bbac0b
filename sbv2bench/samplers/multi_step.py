"""Many network calls an image: a Stable Diffusion model, sampled by a scheduler of diffusers."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from diffusers import SchedulerMixin, StableDiffusionPipeline
from torch import Tensor

from sbv2bench.samplers.base import OF_PIPELINES, Images, PromptBlock, Stopwatch, refuse_unused
from sbv2bench.samplers.components import is_guided, load_components
from sbv2bench.samplers.placement import USUAL, Placement
from sbv2bench.samplers.schedulers import make_scheduler, randomness
from sbv2bench.samplers.timesteps import check_walk, count_calls, count_levels, set_timesteps
from sbv2bench.specs import ModelSpec

if TYPE_CHECKING:
    from sbv2bench.registry import Registry


class MultiStepSampler:
    """The loop of diffusers' StableDiffusionPipeline, with a generator for each image and latents kept in float32."""

    def __init__(
        self,
        spec: ModelSpec,
        device: str,
        dtype: torch.dtype,
        registry: Registry | None = None,
        *,
        placement: Placement = USUAL,
    ) -> None:
        """Loads the model; raises what `load_components` raises, and InputError where its scheduler cannot take the steps."""
        refuse_unused(spec, "timestep", "alpha_T", "input_scaling", *OF_PIPELINES)
        self.spec = spec
        self._guided = is_guided(spec.guidance_scale)
        self.components = load_components(spec, device, dtype, registry, placement)
        self._scheduler = make_scheduler(spec, self.components.scheduler)
        self.resolution = self.components.resolution
        self.width = self.components.width
        scheduler = self._fresh_scheduler()
        self.network_calls = count_calls(scheduler) * (2 if self._guided else 1)
        self.noise_levels = count_levels(scheduler)
        check_walk(scheduler, spec, self.components.latent_shape[0])

    def generate(self, block: PromptBlock, stopwatch: Stopwatch) -> Images:
        """uint8 [block size, resolution, width, 3]; see `Sampler.generate`."""
        return self.components.sample(block, stopwatch, self._guided, self.denoise)

    def denoise(self, noise: Tensor, text: Tensor, rngs: list[torch.Generator]) -> Tensor:
        """Latents x_0 [B, C, h, w] of noise of that shape and the states of captions; rngs: a generator for each image."""
        parts, scale, scheduler = self.components, self.spec.guidance_scale, self._fresh_scheduler()
        latents: Tensor = noise * scheduler.init_noise_sigma
        drawn = randomness(scheduler, rngs)
        for t in scheduler.timesteps:
            output = parts.predict(scheduler.scale_model_input(latents, t), t, text, scale)
            latents = scheduler.step(output, t, latents, **drawn).prev_sample
        return latents

    def networks(self) -> dict[str, torch.nn.Module]:
        """Its networks by part; see `HasNetworks.networks`."""
        return self.components.networks()

    def pipeline(self) -> StableDiffusionPipeline:
        """For the same images pass the noise as `latents`, the spec's steps or timesteps, guidance_scale, and generators."""
        return self.components.pipeline(copy.deepcopy(self._scheduler))

    def _fresh_scheduler(self) -> SchedulerMixin:
        """A scheduler keeps the state of one denoising, so every block has its own."""
        scheduler = copy.deepcopy(self._scheduler)
        set_timesteps(scheduler, self.spec, self.components.device)
        return scheduler

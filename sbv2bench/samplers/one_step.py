"""One network call an image: noise in, clean latents out (SwiftBrush v2, equation 1)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from diffusers import SchedulerMixin, StableDiffusionPipeline
from torch import Tensor

from sbv2bench.diffusion import Schedule, predict_x0
from sbv2bench.errors import InputError
from sbv2bench.samplers.base import OF_PIPELINES, Images, PromptBlock, Stopwatch, refuse_unused
from sbv2bench.samplers.components import Components, is_guided, load_components
from sbv2bench.samplers.placement import USUAL, Placement
from sbv2bench.samplers.schedulers import jumping_scheduler
from sbv2bench.specs import ModelSpec, PredictionType

if TYPE_CHECKING:
    from sbv2bench.registry import Registry


class OneStepSampler:
    """x_0 = predict_x0(UNet(z, T, text), z, alpha_T, sigma_T), z ~ N(0, 1) in float32 and not scaled by sigma_T.

    This is the generator as it was trained (VinAIResearch/SwiftBrushV2:infer.py). The Euler scheduler of diffusers'
    one-step SD-Turbo pipeline feeds sigma_T z instead, which changes x_0 by 0.23 %. With `input_scaling: sigma` sigma_T z
    takes the place of z, a zero image noised: SiD-LSG's students are trained and asked so, at t = 625.
    """

    def __init__(
        self,
        spec: ModelSpec,
        device: str,
        dtype: torch.dtype,
        registry: Registry | None = None,
        *,
        placement: Placement = USUAL,
    ) -> None:
        """Loads the model; raises what `load_components` raises, and InputError for a timestep or an alpha that cannot be."""
        refuse_unused(spec, "scheduler", "timestep_spacing", "timesteps", *OF_PIPELINES)
        is_guided(spec.guidance_scale)  # refuses a scale that cannot be before anything is loaded
        self._begin(spec, load_components(spec, device, dtype, registry, placement))

    @classmethod
    def of(cls, spec: ModelSpec, components: Components) -> OneStepSampler:
        """A sampler of parts that are in memory already, shared and not copied: a student in training, with its spec.

        For the very bits of the same student loaded from a folder, its UNet is channels-last and in eval mode, as
        `load_components` makes it. Raises InputError for a timestep or an alpha that cannot be, or for parts that predict
        something else than the spec says.
        """
        if spec.prediction_type not in (None, components.prediction_type):
            raise InputError(f"{spec.id}: predicts {spec.prediction_type}, its parts are for {components.prediction_type}")
        sampler = cls.__new__(cls)
        sampler._begin(spec, components)
        return sampler

    def _begin(self, spec: ModelSpec, components: Components) -> None:
        self.spec = spec
        self._guided = is_guided(spec.guidance_scale)
        self.network_calls = 2 if self._guided else 1
        self.components = components
        self.resolution = components.resolution
        self.width = components.width
        self._timestep = torch.tensor(spec.timestep, device=components.device)  # there once: a number would wait for the device
        schedule = Schedule.from_config(components.scheduler.config)
        self.alpha_T, self.sigma_T = levels(spec, schedule, components.prediction_type)

    def generate(self, block: PromptBlock, stopwatch: Stopwatch) -> Images:
        """uint8 [block size, resolution, width, 3]; see `Sampler.generate`."""
        return self.components.sample(block, stopwatch, self._guided, self.denoise)

    def denoise(self, noise: Tensor, text: Tensor, rngs: list[torch.Generator]) -> Tensor:
        """Latents x_0 [B, C, h, w] of noise of that shape and the states of captions; rngs: a generator for each image."""
        parts, spec = self.components, self.spec
        x_T = noise * self.sigma_T if spec.input_scaling == "sigma" else noise
        output = parts.predict(x_T, self._timestep, text, spec.guidance_scale)
        return predict_x0(output, x_T, self.alpha_T, self.sigma_T, parts.prediction_type)

    def networks(self) -> dict[str, torch.nn.Module]:
        """Its networks by part; see `HasNetworks.networks`."""
        return self.components.networks()

    def pipeline(self) -> StableDiffusionPipeline:
        """For the same images pass the noise as `latents`, num_inference_steps=1 and the spec's guidance_scale."""
        return self.components.pipeline(self.scheduler())

    def scheduler(self) -> SchedulerMixin:
        """The scheduler of `pipeline`: one trailing DDIM step that ends at alpha = 1 is x_0 itself (Song et al. 2021, eq. 12).

        Where the student is not asked at the schedule's end, or has its own alpha_T, the schedule is one that jumps there.
        """
        parts, spec = self.components, self.spec
        schedule = Schedule.from_config(parts.scheduler.config)
        at_the_end = spec.timestep == len(schedule) - 1 and self.alpha_T == schedule.alpha(spec.timestep)
        own = parts.scheduler if at_the_end else None
        scaled = spec.input_scaling == "sigma"
        return jumping_scheduler(own, spec.timestep, self.alpha_T, parts.prediction_type, scaled_input=scaled)


def levels(spec: ModelSpec, schedule: Schedule, prediction_type: PredictionType) -> tuple[float, float]:
    """(alpha_T, sigma_T) by which a one-step model is sampled: the spec's own alpha_T, else the schedule's at its timestep.

    Raises InputError for a timestep beyond the schedule, or an alpha that cannot be.
    """
    if spec.timestep >= len(schedule):
        raise InputError(f"{spec.id}: timestep {spec.timestep}, expected below {len(schedule)}, the length of its schedule")
    if spec.alpha_T is None:
        alpha, sigma = schedule.alpha(spec.timestep), schedule.sigma(spec.timestep)
    else:
        alpha, sigma = spec.alpha_T, math.sqrt(max(0.0, 1.0 - spec.alpha_T**2))
    if not 0.0 <= alpha <= 1.0 or (alpha == 0.0 and prediction_type == "epsilon"):
        raise InputError(f"{spec.id}: alpha_T is {alpha}, expected at most 1 and, for epsilon prediction, above 0")
    return alpha, sigma

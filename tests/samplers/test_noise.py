"""An image's noise is its own, in float32, at every step of every scheduler, whatever the pipeline passes to it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
from diffusers import SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor

from sbv2bench.errors import InputError
from sbv2bench.samplers.base import generators, initial_noise
from sbv2bench.samplers.noise import Float32Noise, give_noise

STOCHASTIC: dict[str, SchedulerMixin] = {
    "lcm": diffusers.LCMScheduler(),
    "tcd": diffusers.TCDScheduler(),
    "ancestral": diffusers.EulerAncestralDiscreteScheduler(),
    "ddpm": diffusers.DDPMScheduler(clip_sample=False),
    "sde": diffusers.DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++"),
    "flow": diffusers.FlowMatchEulerDiscreteScheduler(stochastic_sampling=True),
    "scm": diffusers.SCMScheduler(),
}


class Holder(diffusers.DiffusionPipeline):
    """A pipeline that is only a scheduler."""

    def __init__(self, scheduler: SchedulerMixin) -> None:
        super().__init__()
        self.register_modules(scheduler=scheduler)


def walked(scheduler: SchedulerMixin, seeds: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """Two steps on zeros [B, 2, 4, 4], without a generator, of a network that always says zero."""
    holder = Holder(copy.deepcopy(scheduler))
    rngs = generators(seeds)
    give_noise(holder, rngs)
    own: Any = holder.scheduler
    own.set_timesteps(2)
    sample = torch.zeros(len(seeds), 2, 4, 4, dtype=dtype)
    for t in own.timesteps[:2]:
        sample = own.step(torch.zeros_like(sample), t, sample).prev_sample
    return sample


@pytest.mark.parametrize("kind", STOCHASTIC)
def test_a_step_draws_by_the_images_own_generators_in_float32(kind: str) -> None:
    wide = walked(STOCHASTIC[kind], (5, 6, 7), torch.float32)
    assert wide.abs().max() > 0 and not torch.equal(wide[0], wide[1])
    assert torch.equal(walked(STOCHASTIC[kind], (6,), torch.float32), wide[1:2])
    narrow = walked(STOCHASTIC[kind], (5, 6, 7), torch.bfloat16).float()
    assert (narrow - wide).abs().max() < 0.02 * wide.abs().max()


def test_draws_are_cast_and_not_drawn_anew() -> None:
    expected = initial_noise(generators((1, 2)), (3, 4))
    with Float32Noise(generators((1, 2))):
        drawn = randn_tensor((2, 3, 4), generator=generators((1, 2)), dtype=torch.float16)
        bare, like = torch.randn(2, 3, 4), torch.randn_like(torch.zeros(2, 3, 4))
    assert torch.equal(drawn, expected.half())
    assert torch.equal(bare, expected)
    assert not torch.equal(like, expected)  # the generators have moved on
    with pytest.raises(InputError, match=r"noise of \[5, 3\] is drawn for 2 images"), Float32Noise(generators((1, 2))):
        torch.randn(5, 3)


def test_latents_are_drawn_so_in_whatever_layout() -> None:
    def prepare_latents(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[torch.Tensor, str]:
        return randn_tensor(shape, generator=rngs, dtype=dtype), "and their places"

    rngs = generators((1, 2))
    pipeline: Any = SimpleNamespace(prepare_latents=prepare_latents, components={})
    give_noise(pipeline, rngs)
    latents, _ = pipeline.prepare_latents((2, 6, 5), torch.bfloat16)
    assert torch.equal(latents, initial_noise(generators((1, 2)), (6, 5)).bfloat16())

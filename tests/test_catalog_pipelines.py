"""Every model of the catalog that a pipeline samples, held against it: class, call, guidance, noise levels, decoder."""

from __future__ import annotations

import inspect
import json
import math
from importlib.metadata import version
from importlib.resources import files
from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, LCMScheduler, SCMScheduler
from packaging.requirements import Requirement

from sbv2bench.registry import Registry
from sbv2bench.specs import ModelSpec

MODELS = Registry.built_in().models
PIPELINES = {name: model for name, model in MODELS.items() if model.sampler == "pipeline"}
OF_TODAY = {name: model for name, model in PIPELINES.items() if model.source}  # entries whose settings have a source
SCALINGS = {  # of the autoencoder that a class of pipelines was published with; the others scale by statistics of channels
    "StableDiffusionPipeline": 0.18215,
    "LatentConsistencyModelPipeline": 0.18215,
    "StableDiffusionXLPipeline": 0.13025,
    "PixArtSigmaPipeline": 0.13025,
    "SanaSprintPipeline": 0.41407,
    "StableDiffusion3Pipeline": 1.5305,
    "FluxPipeline": 0.3611,
    "ZImagePipeline": 0.3611,
    "Flux2Pipeline": None,
    "Flux2KleinPipeline": None,
    "QwenImagePipeline": None,
}
ASKED = (
    "sdxl-base", "sdxl-lightning-8step", "lcm-lora-sdxl", "pixart-sigma", "sana-sprint-1step", "sana-sprint-2step",
    "sana-sprint-4step", "sd35-large-turbo", "flux1-schnell", "flux1-dev", "flux2-klein-4b", "qwen-image-lightning-8step",
    "z-image-turbo", "nitrosd-realism",
)  # fmt: skip


def released(model: ModelSpec) -> type[Any]:
    """The class of an entry's pipeline; skips where the installed diffusers is older than the entry says that it needs."""
    if model.requires and not Requirement(model.requires).specifier.contains(version("diffusers"), prereleases=True):
        pytest.skip(f"{model.id} {model.requires}, found {version('diffusers')}")
    found: type[Any] = getattr(diffusers, model.pipeline)
    return found


def arguments(model: ModelSpec) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(released(model).__call__).parameters)


def test_the_models_of_today_are_there() -> None:
    assert {f"full/{name}" for name in ASKED} <= set(OF_TODAY)


@pytest.mark.parametrize("name", PIPELINES)
def test_the_class_is_one_of_diffusers_and_takes_a_prompt(name: str) -> None:
    model = PIPELINES[name]
    assert issubclass(released(model), diffusers.DiffusionPipeline)
    taken = arguments(model)
    assert {"prompt", "num_inference_steps", "generator", "latents", "height", "width", "output_type"} <= set(taken)


@pytest.mark.parametrize("name", PIPELINES)
def test_its_call_takes_every_setting(name: str) -> None:
    model = PIPELINES[name]
    settings = {model.guidance_argument, *model.arguments}
    settings |= {field for field in ("sigmas", "timesteps", "max_sequence_length", "negative_prompt") if getattr(model, field)}
    assert settings <= set(arguments(model))
    assert not {"prompt", "latents", "generator", "num_inference_steps"} & set(model.arguments)


@pytest.mark.parametrize("name", PIPELINES)
def test_noise_levels_are_as_many_as_steps(name: str) -> None:
    model = PIPELINES[name]
    assert not (model.sigmas and model.timesteps)
    for levels in filter(None, (model.sigmas, model.timesteps)):
        assert len(levels) == model.steps
        assert list(levels) == sorted(levels, reverse=True)


@pytest.mark.parametrize("name", PIPELINES)
def test_the_scale_that_means_no_guidance_is_the_pipelines_own(name: str) -> None:
    """Asked of the property by which a pipeline decides about a second pass, where it has one."""
    model = PIPELINES[name]
    decides = getattr(released(model), "do_classifier_free_guidance", None)
    config = SimpleNamespace(time_cond_proj_dim=None, is_distilled=False)
    unet = SimpleNamespace(config=config)

    def passes_twice(scale: float) -> bool:
        return bool(decides.fget(SimpleNamespace(_guidance_scale=scale, guidance_scale=scale, unet=unet, config=config)))

    guided = model.guidance == "cfg" and model.guidance_scale > model.no_guidance
    if decides is None or model.guidance == "embedded":
        assert model.no_guidance == 1.0
    else:
        assert not passes_twice(model.no_guidance) and passes_twice(model.no_guidance + 0.5)
        assert passes_twice(model.guidance_scale) == guided
    assert model.guidance != "none" or model.guidance_scale <= model.no_guidance


@pytest.mark.parametrize("name", PIPELINES)
def test_its_decoder_scales_as_the_published_one(name: str) -> None:
    assert PIPELINES[name].vae_scaling == SCALINGS[PIPELINES[name].pipeline]


@pytest.mark.parametrize("name", OF_TODAY)
def test_an_entry_of_today_says_whatever_a_reader_must_know(name: str) -> None:
    model = OF_TODAY[name]
    assert model.licence and model.origin and model.resolution and model.size_gb
    assert model.sampler == "one_step" or model.location.startswith("hub:")
    assert model.requires or SCALINGS[model.pipeline] in {0.18215, 0.13025}  # UNets are older than any diffusers that we take
    assert model.revision or "nitrosd" in name or "flux2-dev-turbo" in name  # no public source pins those two


@pytest.mark.parametrize("name", [name for name, model in PIPELINES.items() if model.requires])
def test_a_transformer_runs_in_bfloat16_where_float16_overflows(name: str) -> None:
    model = PIPELINES[name]
    assert model.dtype == ("bfloat16" if model.pipeline != "PixArtSigmaPipeline" else None)


@pytest.mark.parametrize("name", [name for name in PIPELINES if "sana-sprint" in name])
def test_sana_sprints_levels_end_at_zero(name: str) -> None:
    model = PIPELINES[name]
    scheduler = SCMScheduler()
    scheduler.set_timesteps(model.steps, **model.arguments)  # type: ignore[arg-type]
    assert len(scheduler.timesteps) == model.steps + 1
    assert scheduler.timesteps[0].item() == pytest.approx(math.pi / 2, abs=1e-5)
    assert scheduler.timesteps[-1].item() == 0.0


@pytest.mark.parametrize(("name", "shift"), [("full/nitrosd-realism", 250), ("full/nitrosd-vibrant", 500)])
def test_one_step_of_nitrosds_scheduler_is_lcms_own_at_the_shifted_timestep(name: str, shift: int) -> None:
    """Theirs asks the network at t * shift / 1000 of LCM's timesteps and takes alpha of that timestep."""
    beta = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    theirs, ours = LCMScheduler(**beta, original_inference_steps=4), LCMScheduler(**beta)
    theirs.set_timesteps(1)
    asked = (theirs.timesteps * shift / 1000).long()
    assert asked.tolist() == list(MODELS[name].timesteps)
    noise, predicted = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    ours.set_timesteps(timesteps=list(MODELS[name].timesteps))
    alpha = ours.alphas_cumprod[asked]
    expected = (noise - (1 - alpha).sqrt() * predicted) / alpha.sqrt()
    torch.testing.assert_close(ours.step(predicted, ours.timesteps[0], noise).prev_sample, expected)


@pytest.mark.parametrize("steps", [4, 8])
def test_lightnings_scheduler_shifts_by_three_whatever_the_resolution(steps: int) -> None:
    text = (files("sbv2bench.catalog") / "qwen-image-lightning" / "scheduler_config.json").read_text("utf-8")
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(json.loads(text))
    plain = np.linspace(1, 1 / steps, steps)
    config = scheduler.config
    assert config.base_shift == config.max_shift == pytest.approx(math.log(3))
    scheduler.set_timesteps(sigmas=plain, mu=config.base_shift)
    np.testing.assert_allclose(scheduler.sigmas[:-1].numpy(), 3 * plain / (1 + 2 * plain), rtol=1e-6)

"""A tiny random twin of every model of the catalog, sampled as its entry says, beside stock diffusers asked for the same."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import tiny_loras
import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from stock import stock_images, stock_pipeline
from tiny_models import tiny_autoencoder
from twins import SETTINGS, write_twin

from sbv2bench.data.assets import resolve_location
from sbv2bench.registry import Registry
from sbv2bench.samplers import load_sampler
from sbv2bench.samplers.base import PromptBlock, Sampler, Stopwatch
from sbv2bench.samplers.calls import PassCounter, check_declared
from sbv2bench.specs import ModelSpec

pytestmark = pytest.mark.ci
MODELS = {name: model for name, model in Registry.built_in().models.items() if model.family == "full" and model.has_network()}
PIPELINES = [name for name, model in MODELS.items() if model.sampler == "pipeline"]
TWINS = {
    "StableDiffusionPipeline": "sd", "StableDiffusionXLPipeline": "sdxl", "LatentConsistencyModelPipeline": "lcm",
    "PixArtSigmaPipeline": "pixart-sigma", "SanaSprintPipeline": "sana-sprint", "StableDiffusion3Pipeline": "sd3",
    "FluxPipeline": "flux-schnell", "Flux2Pipeline": "flux2", "Flux2KleinPipeline": "flux2-klein",
    "QwenImagePipeline": "qwen-image", "ZImagePipeline": "z-image",
}  # fmt: skip
SCHEDULERS = {"ddim": "DDIM", "euler": "EulerDiscrete", "lcm": "LCM", "tcd": "TCD", "dpmsolver++": "DPMSolverMultistep"}
Place = Callable[[str], Path]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """What an entry's locations stand for, by twin: "sd", "sd/unet" (another UNet), "sd/lora", "taesd"; each written once."""
    root = tmp_path_factory.mktemp("catalog")

    @cache
    def written(name: str) -> Path:
        folder, (twin, _, part) = root / name.replace("/", "-"), name.partition("/")
        torch.manual_seed(len(name))
        if name == "taesd":
            tiny_autoencoder(4).save_pretrained(folder)
        elif part.startswith("unet"):
            embedded = {"time_cond_proj_dim": 16} if part == "unet-embedded" else {}
            config = UNet2DConditionModel.load_config(written(twin) / "unet")
            UNet2DConditionModel.from_config(config, **embedded).save_pretrained(folder)
        elif part == "lora":
            pipeline = stock_pipeline(written(twin))
            unet = getattr(pipeline, "unet", None)
            lora = tiny_loras.random_lora(unet or pipeline.transformer, targets=["to_q", "to_k", "to_v", "to_out.0"])
            layout = tiny_loras.under("transformer") if unet is None else lambda state: tiny_loras.kohya(state, equal=True)
            folder.mkdir()
            save_file(layout(lora), folder / "lora.safetensors")
            return folder / "lora.safetensors"
        else:
            write_twin(twin, folder)
        return folder

    return written


def twin_of(model: ModelSpec, place: Place) -> tuple[str, ModelSpec]:
    """An entry's twin by name, and the entry with the twin's places in those of its own, and a size that a twin has."""
    name = TWINS.get(model.pipeline, "sd")
    name = "flux-dev" if model.id == "full/flux1-dev" else name
    fields: dict[str, Any] = {"location": str(place(name)), "base": "", "revision": None, "vae_scaling": None, "resolution": 32}
    if model.holds != "model":
        part = "unet-embedded" if model.holds == "unet" and model.guidance == "embedded" else model.holds
        fields |= {"location": str(place(f"{name}/{part}")), "base": str(place(name))}
    if model.vae:
        fields["vae"] = str(place("taesd"))
    own = SETTINGS.get(name, {}).get("arguments", {})
    return name, model.model_copy(update={**fields, "arguments": {**own, **model.arguments}})


def stock_of(spec: ModelSpec, place: Place, name: str) -> DiffusionPipeline:
    """The pipeline as somebody would put it together with diffusers alone."""
    parts = {"unet": UNet2DConditionModel.from_pretrained(spec.location)} if spec.holds == "unet" else {}
    pipeline = stock_pipeline(place(name), **parts)
    if spec.holds == "lora":
        pipeline.load_lora_weights(Path(spec.location).parent, weight_name=Path(spec.location).name)
    changes: dict[str, Any] = {"prediction_type": spec.prediction_type} if spec.prediction_type else {}
    if spec.scheduler in ("ddim", "euler"):
        changes |= {"timestep_spacing": "trailing"}
    kind = getattr(diffusers, f"{SCHEDULERS.get(spec.scheduler)}Scheduler", type(pipeline.scheduler))
    config = pipeline.scheduler.config
    if "scheduler" in spec.parts:
        config = kind.load_config(resolve_location(spec.parts["scheduler"]))
    pipeline.scheduler = kind.from_config(config, **changes)
    return pipeline


def sampled(sampler: Sampler, block: PromptBlock) -> np.ndarray:
    """Its images, of which every forward pass was declared."""
    with PassCounter.of(sampler) as counter, counter.block(len(block.captions)):
        images = sampler.generate(block, Stopwatch())
    assert counter.found is not None and counter.found.rows_an_image == sampler.network_calls
    assert counter.found.levels == sampler.spec.network_evaluations()
    check_declared(sampler, counter.found)
    return np.asarray(images)


@pytest.mark.parametrize("name", PIPELINES)
def test_a_pipelines_twin_makes_the_images_of_stock_diffusers(
    name: str, place: Place, make_block: Callable[..., PromptBlock]
) -> None:
    twin, spec = twin_of(MODELS[name], place)
    block = make_block(count=2)
    found = sampled(load_sampler(spec, "cpu", torch.float32), block)
    expected = stock_images(stock_of(spec, place, twin), spec, block)
    if spec.holds == "lora":  # folding rounds once more than the sum of two products does
        assert np.abs(found.astype(int) - expected).max() <= 1
        assert (found != expected).mean() <= 2e-3
    else:
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("name", [name for name in MODELS if name not in PIPELINES])
def test_the_others_twins_make_as_many_passes_as_is_declared(
    name: str, place: Place, make_block: Callable[..., PromptBlock]
) -> None:
    _, spec = twin_of(MODELS[name], place)
    images = sampled(load_sampler(spec, "cpu", torch.float32), make_block(count=2))
    assert images.shape == (2, 32, 32, 3) and images.std() > 5

"""Speed gates of the stages of a picture, on the mini models: each against the bare network alone, the chain against diffusers'.

Run with: pytest -m benchmark_gate --benchmark-enable -n 0 -s tests/benchmarks/test_stage_speed.py
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import torch
from alternated import cpu_seconds

from sbv2bench.features.base import load_extractor, to_tensor
from sbv2bench.latency.measure import prompt_block
from sbv2bench.registry import Registry
from sbv2bench.samplers.base import Stopwatch, generators, initial_noise
from sbv2bench.samplers.components import Components, load_components
from sbv2bench.samplers.one_step import OneStepSampler

pytestmark = [pytest.mark.benchmark_gate, pytest.mark.weights, pytest.mark.benchmark(timer=time.process_time)]
BATCH, ROUNDS = 50, 9
BLOCK = prompt_block(BATCH, 0)


@pytest.fixture(scope="module")
def sampler() -> OneStepSampler:
    spec = Registry.built_in().models["mini/sd-turbo"]
    return OneStepSampler.of(spec, load_components(spec, "cpu", torch.float32))


@pytest.fixture(scope="module")
def parts(sampler: OneStepSampler) -> Components:
    return sampler.components


def noise(parts: Components) -> torch.Tensor:
    return initial_noise(generators(BLOCK.noise_seeds), parts.latent_shape)


def ratio(benchmark: Any, **contenders: Any) -> float:
    """CPU time of `ours` over that of the other."""
    with torch.inference_mode():
        seconds = cpu_seconds(benchmark, contenders, ROUNDS)
    other = next(name for name in contenders if name != "ours")
    return seconds["ours"] / seconds[other]


def test_text_against_the_bare_encoder(benchmark: Any, parts: Components) -> None:
    """Tokenising and encoding 50 captions; a tokenizer takes a quarter of so small an encoder's time."""
    length = parts.tokenizer.model_max_length
    ids = parts.tokenizer(
        list(BLOCK.captions), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    ).input_ids  # fmt: skip
    floor = lambda: parts.text_encoder(ids)[0]  # noqa: E731
    with torch.inference_mode():
        assert torch.equal(parts.encode_text(BLOCK.captions, guided=False), floor())
    assert ratio(benchmark, floor=floor, ours=lambda: parts.encode_text(BLOCK.captions, guided=False)) <= 1.4


def test_denoising_against_the_bare_unet(benchmark: Any, parts: Components, sampler: OneStepSampler) -> None:
    """Noise by image, one call, x_0."""
    with torch.inference_mode():
        text, drawn = parts.encode_text(BLOCK.captions, guided=False), noise(parts)
    bare = lambda: parts.unet(drawn, 999, encoder_hidden_states=text).sample  # noqa: E731
    assert ratio(benchmark, floor=bare, ours=lambda: sampler.denoise(noise(parts), text, [])) <= 1.05


def test_decoding_against_the_bare_decoder(benchmark: Any, parts: Components) -> None:
    """Scaling, decoding and rounding to uint8."""
    latents = noise(parts)
    bare = lambda: parts.vae.decode(latents).sample  # noqa: E731
    assert ratio(benchmark, floor=bare, ours=lambda: parts.decode(latents)) <= 1.08


def test_features_against_the_bare_extractor(benchmark: Any) -> None:
    """50 images from uint8 to features and attributes."""
    extractor: Any = load_extractor(Registry.built_in().extractor("world-128"))
    images = np.random.default_rng(0).integers(0, 256, (50, 32, 32, 3), dtype=np.uint8)
    pixels = to_tensor(images, "cpu") / 127.5 - 1.0
    assert ratio(benchmark, floor=lambda: extractor.network(pixels), ours=lambda: extractor.predict(images)) <= 1.05


def test_the_chain_against_the_pipeline_of_diffusers(benchmark: Any, parts: Components, sampler: OneStepSampler) -> None:
    """Captions to uint8 pixels, the same ones, takes no longer than diffusers' own pipeline on the same networks."""
    pipeline = sampler.pipeline()
    pipeline.set_progress_bar_config(disable=True)
    images: dict[str, Any] = {}

    def peer() -> None:
        asked: dict[str, Any] = {"latents": noise(parts), "num_inference_steps": 1, "guidance_scale": 1.0, "output_type": "np"}
        images["peer"] = pipeline(list(BLOCK.captions), **asked).images

    def ours() -> None:
        images["ours"] = sampler.generate(BLOCK, Stopwatch())

    assert ratio(benchmark, peer=peer, ours=ours) <= 1.05
    assert np.abs(images["peer"] * 255 - images["ours"]).max() <= 1.0

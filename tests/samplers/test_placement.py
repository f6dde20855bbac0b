"""Offloading and cut decoding, by diffusers' own means, which work on a CPU too: the images stay."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from twins import twin_spec, write_twin

from sbv2bench.errors import InputError
from sbv2bench.registry import Registry
from sbv2bench.samplers import load_sampler
from sbv2bench.samplers.base import PromptBlock, Stopwatch
from sbv2bench.samplers.placement import Placement
from sbv2bench.specs import ModelSpec

Make = Callable[..., PromptBlock]


@pytest.mark.ci
@pytest.mark.parametrize(("name", "sampler"), [("flux-dev", "pipeline"), ("sd", "multi_step"), ("sd", "one_step")])
def test_offloaded_parts_make_the_same_images(tmp_path: Path, make_block: Make, name: str, sampler: str) -> None:
    own = {"sampler": sampler, "resolution": None} | ({"steps": 1} if sampler == "one_step" else {})
    spec = twin_spec(name, write_twin(name, tmp_path / "m")).model_copy(update=own)
    expected = load_sampler(spec, "cpu", torch.float32).generate(make_block(count=2), Stopwatch())
    model: Any = load_sampler(spec, "cpu", torch.float32, placement=Placement("model"))
    for _ in range(2):  # what was brought is taken back, and brought again
        assert np.array_equal(model.generate(make_block(count=2), Stopwatch()), expected)
    networks = model.networks()
    assert all(hasattr(network, "_hf_hook") for network in networks.values())


@pytest.mark.parametrize("sampler", ["pipeline", "multi_step"])
def test_layer_by_layer_is_diffusers_own_too(
    tmp_path: Path, make_block: Make, sampler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """diffusers names its device cpu:0, which accelerate cannot move layers to and fro: that it is asked is all that is seen."""
    asked: list[str] = []
    monkeypatch.setattr(
        DiffusionPipeline, "enable_sequential_cpu_offload", lambda self, device: asked.append(f"{type(self).__name__} {device}")
    )
    spec = twin_spec("sd", write_twin("sd", tmp_path / "m")).model_copy(update={"sampler": sampler, "resolution": None})
    load_sampler(spec, "cpu", torch.float32, placement=Placement("sequential"))
    assert asked == ["StableDiffusionPipeline cpu"]


def test_decoding_is_cut_as_it_is_placed(tmp_path: Path, make_block: Make) -> None:
    spec = twin_spec("flux-dev", write_twin("flux-dev", tmp_path / "m"))
    plain = load_sampler(spec, "cpu", torch.float32)
    cut: Any = load_sampler(spec, "cpu", torch.float32, placement=Placement(vae_slicing=True, vae_tiling=True))
    vae = cut.networks()["vae"]
    assert vae.use_slicing and vae.use_tiling
    vae.use_tiling = False
    difference = cut.generate(make_block(), Stopwatch()).astype(int) - plain.generate(make_block(), Stopwatch())
    assert np.abs(difference).max() <= 1


def test_a_sampler_that_cannot_offload_says_so() -> None:
    registry = Registry.built_in()
    with pytest.raises(InputError, match="--offload model: sampler renderings of mini/world cannot"):
        load_sampler(ModelSpec(id="mini/world", sampler="renderings"), "cuda", torch.float32, registry, Placement("model"))

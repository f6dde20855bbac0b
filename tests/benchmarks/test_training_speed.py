"""What a step of the mini student costs, on one thread: with its adapters merged against layer by layer, and by batch.

Run with: pytest -m benchmark_gate --benchmark-enable -n 0 -s tests/benchmarks/test_training_speed.py
"""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from alternated import cpu_seconds

from reference_trainer.networks import Networks
from reference_trainer.prompts import PromptSource
from reference_trainer.recipe_files import read_recipe
from reference_trainer.step import Trainer
from sbv2bench.registry import Registry

pytestmark = [pytest.mark.benchmark_gate, pytest.mark.weights, pytest.mark.benchmark(timer=time.process_time)]


def trainer(recipe: str, batch_size: int) -> Trainer:
    read = read_recipe(recipe, [f"batch_size={batch_size}"])
    networks = Networks(read, torch.device("cpu"), Registry.built_in())
    return Trainer(read, networks, PromptSource(read.prompts), None)


@pytest.mark.parametrize("recipe", ["mini/sbv2-a", "mini/sbv2-b"])
def test_merged_adapters_against_layer_by_layer(benchmark: Any, recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch of 128; the first losses of both are the same."""
    ours = trainer(recipe, 128)
    monkeypatch.setattr("reference_trainer.adapter.SMALL", 0)
    other = trainer(recipe, 128)
    for figure in ("vsd_loss", "lora_teacher_loss"):
        first, second = ((each.take_step(), each.take_step()[figure])[1] for each in (ours, other))
        assert first == pytest.approx(second, rel=1e-5, abs=1e-8)
    seconds = cpu_seconds(benchmark, {"layer by layer": other.take_step, "ours": ours.take_step}, 3)
    print({name: f"{128 / taken:.1f} images a CPU second" for name, taken in seconds.items()})
    assert seconds["ours"] <= 0.95 * seconds["layer by layer"]  # 0.78 to 0.86 when measured


def test_a_large_batch_costs_less_an_image(benchmark: Any) -> None:
    sizes = (32, 128, 256)
    seconds = cpu_seconds(benchmark, {str(size): trainer("mini/sbv2-a", size).take_step for size in sizes}, 3)
    print({size: f"{size / seconds[str(size)]:.1f} images a CPU second" for size in sizes})
    assert seconds["128"] / 128 <= 0.97 * seconds["32"] / 32


def test_a_step_against_its_bare_passes(benchmark: Any) -> None:
    """Noise, captions, losses, clipping, both optimisers and the log add at most three tenths to the networks' own passes."""
    ours = trainer("mini/sbv2-a", 128)
    networks, generator = ours.networks, torch.Generator().manual_seed(0)
    latents = torch.randn(128, *networks.latent_shape, generator=generator)
    twice, captions = torch.cat([latents, latents]), ["a red square"] * 128
    gradient = torch.randn(latents.shape, generator=generator)
    settings = ours.recipe.vsd
    assert settings is not None and settings.teacher_guidance_scale > 1 and settings.lora_teacher_guidance_scale != 1

    def bare() -> None:
        text = networks.encode_text(captions)
        both = torch.cat([text, text])
        networks.student(latents, 999, text).sample.backward(gradient)
        with torch.no_grad():
            networks.teacher(twice, 500, both)  # frozen, guided
        with networks.lora_teacher():
            with torch.no_grad():
                networks.teacher(twice, 500, both)
            networks.teacher(latents, 500, text).sample.backward(gradient)

    seconds = cpu_seconds(benchmark, {"bare": bare, "ours": ours.take_step}, 3)
    print(f"{seconds['ours'] / seconds['bare']:.2f} times the bare passes")
    assert seconds["ours"] <= 1.3 * seconds["bare"]

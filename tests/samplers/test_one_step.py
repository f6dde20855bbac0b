"""one_step is the paper's formula, whatever the network predicts, and diffusers can make the same image."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline
from tiny_models import sd_scheduler, write_tiny_pipeline

from sbv2bench.errors import InputError
from sbv2bench.samplers.base import PromptBlock, Stopwatch, generators, initial_noise
from sbv2bench.samplers.components import load_components
from sbv2bench.samplers.one_step import OneStepSampler
from sbv2bench.specs import ModelSpec

Make = Callable[..., PromptBlock]
ALPHA, SIGMA = 0.0682649142, 0.9976672298  # of Stable Diffusion's schedule at t = 999


def sampler(folder: Path, **fields: Any) -> OneStepSampler:
    spec = ModelSpec(id="local/tiny", sampler="one_step", location=str(folder), **({"steps": 1} | fields))
    return OneStepSampler(spec, "cpu", torch.float32)


@pytest.fixture(scope="module")
def sample_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_pipeline(tmp_path_factory.mktemp("models") / "sample", "sample")


def parts_of(model: OneStepSampler, block: PromptBlock, timestep: int = 999) -> tuple[torch.Tensor, torch.Tensor]:
    """The noise of a block and the raw network output on it, unscaled."""
    parts = model.components
    z = initial_noise(generators(block.noise_seeds), parts.latent_shape)
    with torch.inference_mode():
        return z, parts.unet(z, timestep, encoder_hidden_states=parts.encode_text(block.captions, False)).sample


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_images_are_the_formula_of_the_paper(folders: dict[str, Path], sample_folder: Path, make_block: Make, kind: str) -> None:
    model = sampler({**folders, "sample": sample_folder}[kind])
    block = make_block()
    z, output = parts_of(model, block)
    x0 = {"epsilon": (z - SIGMA * output) / ALPHA, "v_prediction": ALPHA * z - SIGMA * output, "sample": output}[kind]
    with torch.inference_mode():
        pixels = model.components.vae.decode(x0 / 0.18215).sample
    expected = 255 * (pixels / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    images = model.generate(block, Stopwatch())
    assert images.shape == (4, 32, 32, 3)
    assert np.abs(images - expected).max() <= 0.51
    assert expected.std() > 5


def test_parts_in_memory_are_sampled_by_the_same_code(v_folder: Path, make_block: Make) -> None:
    """A student in training: its networks are in memory, and sampled exactly as its folder will be."""
    stored, block = sampler(v_folder), make_block()
    parts = load_components(stored.spec, "cpu", torch.float32)
    student = OneStepSampler.of(stored.spec, parts)
    assert student.components is parts
    assert (student.alpha_T, student.sigma_T, student.resolution) == (stored.alpha_T, stored.sigma_T, stored.resolution)
    assert np.array_equal(student.generate(block, Stopwatch()), stored.generate(block, Stopwatch()))
    with torch.no_grad():
        parts.unet.conv_out.bias += 0.5
    assert not np.array_equal(student.generate(block, Stopwatch()), stored.generate(block, Stopwatch()))
    for wrong, says in (
        ({"alpha_T": 1.5}, "alpha_T"),
        ({"prediction_type": "epsilon"}, "epsilon"),
        ({"guidance_scale": 0.5}, "0.5"),
    ):
        with pytest.raises(InputError, match=says):
            OneStepSampler.of(stored.spec.model_copy(update=wrong), parts)


def test_levels_come_from_the_schedule_to_nine_places(v_folder: Path) -> None:
    model = sampler(v_folder)
    assert model.alpha_T == pytest.approx(ALPHA, abs=1e-9)
    assert model.sigma_T == pytest.approx(SIGMA, abs=1e-9)
    other = sampler(v_folder, timestep=399)
    assert other.alpha_T == pytest.approx(math.sqrt(0.4260863636), abs=1e-9)


def oracle(model: OneStepSampler, answer: Callable[[torch.Tensor], torch.Tensor]) -> list[torch.Tensor]:
    """Put a function in the place of the UNet and catch the latents that are decoded."""
    caught: list[torch.Tensor] = []

    def unet(x: torch.Tensor, timestep: int, encoder_hidden_states: torch.Tensor) -> SimpleNamespace:
        assert timestep == model.spec.timestep
        return SimpleNamespace(sample=answer(x))

    def decode(latents: torch.Tensor) -> SimpleNamespace:
        caught.append(latents * 0.18215)
        return SimpleNamespace(sample=torch.zeros(len(latents), 3, 32, 32))

    vae = SimpleNamespace(config=model.components.vae.config, dtype=torch.float32, decode=decode)
    model.components = dataclasses.replace(model.components, unet=unet, vae=vae)
    return caught


def test_an_oracle_that_answers_z(epsilon_folder: Path, make_block: Make) -> None:
    model, block = sampler(epsilon_folder), make_block()
    caught = oracle(model, lambda x: x)
    model.generate(block, Stopwatch())
    z = initial_noise(generators(block.noise_seeds), (4, 8, 8))
    torch.testing.assert_close(caught[0], z * (1 - SIGMA) / ALPHA, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_an_oracle_that_knows_the_answer_is_believed(folders: dict[str, Path], make_block: Make, kind: str) -> None:
    model, block = sampler(folders[kind]), make_block()
    answer = torch.randn(4, *model.components.latent_shape, generator=torch.Generator().manual_seed(3))

    def network(x: torch.Tensor) -> torch.Tensor:
        epsilon = (x - ALPHA * answer) / SIGMA
        return epsilon if kind == "epsilon" else ALPHA * epsilon - SIGMA * answer

    caught = oracle(model, network)
    model.generate(block, Stopwatch())
    torch.testing.assert_close(caught[0], answer, rtol=1e-5, atol=5e-5)


def test_a_network_with_a_learned_variance_uses_its_first_channels(epsilon_folder: Path, make_block: Make) -> None:
    model, block = sampler(epsilon_folder), make_block()
    caught = oracle(model, lambda x: torch.cat([x, torch.full_like(x, 100.0)], 1))
    model.generate(block, Stopwatch())
    assert caught[0].shape == (4, 4, 8, 8)
    assert float(caught[0].abs().max()) < 1.0


def test_alpha_of_the_spec_wins(epsilon_folder: Path, make_block: Make) -> None:
    """SwiftBrush v1 and DMD2 round abar to 0.0047, which scales latents by 0.99575."""
    block = make_block()
    exact, rounded = sampler(epsilon_folder), sampler(epsilon_folder, alpha_T=math.sqrt(0.0047))
    assert rounded.sigma_T == pytest.approx(math.sqrt(0.9953), abs=1e-12)
    latents = [oracle(model, torch.zeros_like) for model in (exact, rounded)]
    for model in (exact, rounded):
        model.generate(block, Stopwatch())
    ratio = latents[1][0] / latents[0][0]
    torch.testing.assert_close(ratio, torch.full_like(ratio, 0.99575), rtol=1e-5, atol=0)


def test_prediction_type_of_the_spec_wins(v_folder: Path, make_block: Make) -> None:
    model, block = sampler(v_folder, prediction_type="sample"), make_block()
    caught = oracle(model, lambda x: 0.5 * x)
    model.generate(block, Stopwatch())
    torch.testing.assert_close(caught[0], 0.5 * initial_noise(generators(block.noise_seeds), (8, 8, 8)))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"timestep": 625},
        {"timestep": 0},
        {"alpha_T": math.sqrt(0.0047)},
        {"guidance_scale": 2.0},
        {"prediction_type": "sample"},
    ],
)
@pytest.mark.parametrize("kind", ["v_prediction", "epsilon"])
def test_the_pipeline_makes_the_same_images_of_the_same_noise(
    folders: dict[str, Path], make_block: Make, tmp_path: Path, kind: str, fields: dict[str, Any]
) -> None:
    model, block = sampler(folders[kind], **fields), make_block()
    model.pipeline().save_pretrained(tmp_path)  # and after a trip through a folder, for anybody with diffusers
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path)
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(
        list(block.captions),
        num_inference_steps=1,
        guidance_scale=model.spec.guidance_scale,
        latents=initial_noise(generators(block.noise_seeds), model.components.latent_shape),
        output_type="np",
    ).images
    assert np.abs(model.generate(block, Stopwatch()) - 255 * images).max() <= 0.51


def test_one_euler_step_of_the_stock_pipeline_is_not_quite_the_same(epsilon_folder: Path, make_block: Make) -> None:
    """Its images differ by more than rounding: it shows the network 0.9977 z (protocols: record which was used)."""
    model, block = sampler(epsilon_folder), make_block()
    pipeline = model.pipeline()
    pipeline.scheduler = EulerDiscreteScheduler.from_config(sd_scheduler("epsilon").config, timestep_spacing="trailing")
    pipeline.set_progress_bar_config(disable=True)
    noise = initial_noise(generators(block.noise_seeds), (4, 8, 8))
    euler = pipeline(list(block.captions), num_inference_steps=1, guidance_scale=1.0, latents=noise, output_type="latent").images
    z, output = parts_of(model, block)
    ours = (z - SIGMA * output) / ALPHA
    relative = float((euler - ours).square().mean().sqrt() / ours.square().mean().sqrt())
    assert 1e-4 < relative < 2e-2
    with torch.inference_mode():
        text = model.components.encode_text(block.captions, False)
        shown = model.components.unet(SIGMA * z, 999, encoder_hidden_states=text).sample
    torch.testing.assert_close(euler, SIGMA / ALPHA * (z - shown), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_noise_may_be_scaled_by_sigma_first(folders: dict[str, Path], make_block: Make, kind: str) -> None:
    """SiD-LSG at t = 625: x0 = 2.5017 (z - eps(0.92856 z, 625)) for epsilon; Euler's scheduler of diffusers makes the same."""
    model, block = sampler(folders[kind], timestep=625, input_scaling="sigma"), make_block()
    alpha, sigma = math.sqrt(0.1377690340), math.sqrt(1 - 0.1377690340)
    parts = model.components
    z = initial_noise(generators(block.noise_seeds), parts.latent_shape)
    with torch.inference_mode():
        text = parts.encode_text(block.captions, False)
        output = parts.unet(0.9285640 * z, 625, encoder_hidden_states=text).sample
        x0 = {"epsilon": 2.5017 * (z - output), "v_prediction": alpha * sigma * z - sigma * output}[kind]
        pixels = parts.vae.decode(x0 / 0.18215).sample
    expected = 255 * (pixels / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    images = model.generate(block, Stopwatch())
    assert np.abs(images - expected).max() <= 0.6
    unscaled = sampler(folders[kind], timestep=625).generate(block, Stopwatch())
    assert np.abs(images.astype(int) - unscaled).mean() > 0.5
    pipeline = model.pipeline()
    pipeline.set_progress_bar_config(disable=True)
    drawn = pipeline(list(block.captions), num_inference_steps=1, guidance_scale=1, latents=z, output_type="np").images
    assert np.abs(images - 255 * drawn).max() <= 0.6


@pytest.mark.parametrize(("guidance", "rows", "calls"), [(1.0, 3, 1), (0.0, 3, 1), (2.0, 6, 2)])
def test_one_call_and_no_unconditional_branch(v_folder: Path, make_block: Make, guidance: float, rows: int, calls: int) -> None:
    model = sampler(v_folder, guidance_scale=guidance)
    seen: list[int] = []
    model.components.unet.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    model.generate(make_block(count=3), Stopwatch())
    assert seen == [rows]
    assert model.network_calls == calls
    assert model.spec.network_evaluations() == 1


def test_impossible_levels_are_refused(epsilon_folder: Path, v_folder: Path, tmp_path: Path) -> None:
    for alpha in (-0.1, 1.1, 0.0):
        with pytest.raises(InputError, match="alpha_T"):
            sampler(epsilon_folder, alpha_T=alpha)
    assert sampler(v_folder, alpha_T=0.0).sigma_T == 1.0
    shutil.copytree(epsilon_folder, tmp_path / "m")
    path = tmp_path / "m" / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_train_timesteps": 500}))
    with pytest.raises(InputError, match="below 500"):
        sampler(tmp_path / "m")
    sampler(tmp_path / "m", timestep=499)


def test_a_scheduler_that_clamps_latents_is_refused(v_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(v_folder, tmp_path / "m")
    path = tmp_path / "m" / "scheduler" / "scheduler_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"clip_sample": True}))
    with pytest.raises(InputError, match="clip_sample"):
        sampler(tmp_path / "m")


def test_an_image_depends_on_its_seed_alone(v_folder: Path, make_block: Make) -> None:
    model = sampler(v_folder)
    together = model.generate(make_block(0, 10), Stopwatch())
    alone = np.concatenate([model.generate(make_block(i, 1), Stopwatch()) for i in range(10)])
    difference = np.abs(together.astype(int) - alone.astype(int))
    assert difference.max() <= 1
    assert (difference > 0).mean() <= 1e-3
    other_seed = model.generate(make_block(0, 10, seed=1), Stopwatch())
    assert np.abs(together.astype(int) - other_seed.astype(int)).mean() > 5


def test_threads_give_the_bits_of_one_thread(epsilon_folder: Path, make_block: Make) -> None:
    model = sampler(epsilon_folder, guidance_scale=2.0)
    blocks = [make_block(start, 3) for start in range(0, 60, 3)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        one_by_one = [model.generate(block, Stopwatch()) for block in blocks]
        with ThreadPoolExecutor(3) as pool:
            together = list(pool.map(lambda block: model.generate(block, Stopwatch()), blocks))
    finally:
        torch.set_num_threads(threads)
    assert all(np.array_equal(a, b) for a, b in zip(one_by_one, together, strict=True))

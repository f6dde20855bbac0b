"""multi_step makes the images of diffusers' own StableDiffusionPipeline, and an image does not know its neighbours."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, StableDiffusionPipeline
from tiny_models import sd_scheduler, write_tiny_pipeline

from sbv2bench.errors import InputError
from sbv2bench.samplers import load_sampler
from sbv2bench.samplers.base import PromptBlock, Stopwatch, generators, initial_noise
from sbv2bench.samplers.multi_step import MultiStepSampler
from sbv2bench.specs import ModelSpec

Make = Callable[..., PromptBlock]
CLASSES = {"ddim": DDIMScheduler, "dpmsolver++": DPMSolverMultistepScheduler, "euler": EulerDiscreteScheduler}
STOCHASTIC = ("EulerAncestralDiscreteScheduler", "DDPMScheduler", "LCMScheduler", "KDPM2AncestralDiscreteScheduler")


def sampler(folder: Path, **fields: Any) -> MultiStepSampler:
    fields = {"steps": 4, "guidance_scale": 3.0} | fields
    return MultiStepSampler(
        ModelSpec(id="local/tiny", sampler="multi_step", location=str(folder), **fields), "cpu", torch.float32
    )


def generate(model: MultiStepSampler, block: PromptBlock) -> np.ndarray:
    return model.generate(block, Stopwatch())


def stock(pipeline: StableDiffusionPipeline, block: PromptBlock, steps: int, guidance: float) -> np.ndarray:
    """The pipeline's own float images of a block's noise and generators: [B, H, W, 3] in [0, 255]."""
    rngs = generators(block.noise_seeds)
    latents = initial_noise(rngs, (pipeline.unet.config.in_channels, 8, 8))
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(
        list(block.captions),
        num_inference_steps=steps,
        guidance_scale=guidance,
        latents=latents,
        generator=rngs,
        output_type="np",
    ).images
    return 255.0 * images


def assert_same_images(images: np.ndarray, stock_images: np.ndarray) -> None:
    """Within one grey level, and by rounding alone."""
    assert images.dtype == np.uint8
    assert np.abs(images - stock_images).max() <= 0.51
    assert stock_images.std() > 5.0  # something is to be seen


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("scheduler", ["folder", "ddim", "dpmsolver++", "euler"])
@pytest.mark.parametrize("kind", ["v_prediction", "epsilon"])
def test_images_are_those_of_stock_diffusers(
    folders: dict[str, Path], make_block: Make, kind: str, scheduler: str, guidance: float
) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(folders[kind], local_files_only=True)
    if scheduler != "folder":
        pipeline.scheduler = CLASSES[scheduler].from_config(pipeline.scheduler.config)
    block = make_block()
    images = generate(sampler(folders[kind], scheduler=scheduler, guidance_scale=guidance), block)
    assert_same_images(images, stock(pipeline, block, 4, guidance))


@pytest.mark.ci
@pytest.mark.parametrize("name", [*STOCHASTIC, "PNDMScheduler", "UniPCMultistepScheduler", "HeunDiscreteScheduler"])
def test_other_schedulers_of_a_folder_are_stock_too(tmp_path: Path, make_block: Make, name: str) -> None:
    extra = {"clip_sample": False} if name in {"DDPMScheduler", "LCMScheduler"} else {}
    scheduler = sd_scheduler(scheduler_class=getattr(diffusers, name), **extra)
    folder = write_tiny_pipeline(tmp_path / "m", scheduler=scheduler)
    block = make_block()
    model = sampler(folder)
    assert_same_images(generate(model, block), stock(StableDiffusionPipeline.from_pretrained(folder), block, 4, 3.0))
    calls = count_calls(model, block)
    assert sum(calls) == model.network_calls * len(block.captions)


def test_an_old_leading_config_is_amended_as_the_stock_pipeline_does(tmp_path: Path, make_block: Make) -> None:
    folder = write_tiny_pipeline(tmp_path / "m")
    path = folder / "scheduler" / "scheduler_config.json"
    config = json.loads(path.read_text()) | {"timestep_spacing": "leading", "steps_offset": 0}
    path.write_text(json.dumps(config))
    block = make_block()
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    assert pipeline.scheduler.config.steps_offset == 1
    assert_same_images(generate(sampler(folder), block), stock(pipeline, block, 4, 3.0))
    with pytest.raises(InputError, match="t = 1,"):
        sampler(folder, steps=1)
    assert sampler(folder, steps=1, scheduler="ddim").network_calls == 2


@pytest.mark.parametrize("scheduler", ["folder", "ddim", "dpmsolver++", "euler"])
@pytest.mark.parametrize("kind", ["v_prediction", "epsilon"])
def test_a_single_step_asks_once_at_the_noisiest_timestep(
    folders: dict[str, Path], make_block: Make, kind: str, scheduler: str
) -> None:
    model = sampler(folders[kind], steps=1, guidance_scale=1.0, scheduler=scheduler)
    asked: list[float] = []
    model.components.unet.register_forward_pre_hook(lambda module, inputs: asked.append(float(inputs[1])))
    block = make_block()
    images = generate(model, block)
    assert asked == [999.0]
    assert model.network_calls == 1
    pipeline = model.pipeline()
    assert_same_images(images, stock(pipeline, block, 1, 1.0))


def count_calls(model: Any, block: PromptBlock) -> list[int]:
    """Rows of each call of the UNet while a block is generated."""
    rows: list[int] = []
    hook = model.components.unet.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0])))
    generate(model, block)
    hook.remove()
    return rows


def test_no_guidance_never_computes_the_unconditional_branch(v_folder: Path, make_block: Make) -> None:
    block = make_block(count=3)
    for scale, rows, calls in ((1.0, [3] * 4, 4), (0.0, [3] * 4, 4), (3.0, [6] * 4, 8)):
        model = sampler(v_folder, guidance_scale=scale)
        assert count_calls(model, block) == rows  # guidance is one call on twice the rows
        assert model.network_calls == calls
        assert model.spec.network_evaluations() == 4


def test_the_empty_caption_is_encoded_once(v_folder: Path, make_block: Make) -> None:
    model = sampler(v_folder)
    rows: list[int] = []
    model.components.text_encoder.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0])))
    generate(model, make_block(count=4))
    assert sorted(rows) == [1, 4]


def test_a_scale_between_none_and_guidance_is_refused(v_folder: Path) -> None:
    with pytest.raises(InputError, match=r"0\.5"):
        sampler(v_folder, guidance_scale=0.5)


@pytest.mark.parametrize("key", ["clip_sample", "thresholding"])
@pytest.mark.parametrize("named", ["folder", "euler"])
def test_a_scheduler_that_clamps_latents_is_refused(v_folder: Path, tmp_path: Path, key: str, named: str) -> None:
    shutil.copytree(v_folder, tmp_path / "m")
    path = tmp_path / "m" / "scheduler" / "scheduler_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {key: True}))
    with pytest.raises(InputError, match=f"{key} is true") as caught:
        sampler(tmp_path / "m", scheduler=named)
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3
    path.write_text(json.dumps(config | {key: False}))
    sampler(tmp_path / "m", scheduler=named)


@pytest.mark.parametrize("name", ["DDPMScheduler", "DDIMScheduler"])
@pytest.mark.parametrize("kind", ["multi_step", "pipeline"])
def test_an_absent_clip_sample_does_not_clamp(v_folder: Path, tmp_path: Path, make_block: Make, name: str, kind: str) -> None:
    """Both classes read an absent key as a yes, and a config that Euler's scheduler wrote lacks it."""
    images = []
    for said in ({"clip_sample": False}, {}):
        folder = Path(shutil.copytree(v_folder, tmp_path / f"said {len(said)}"))
        path = folder / "scheduler" / "scheduler_config.json"
        config = {key: value for key, value in json.loads(path.read_text()).items() if key != "clip_sample"}
        path.write_text(json.dumps(config | {"_class_name": name} | said))
        spec = ModelSpec(id="local/x", sampler=kind, location=str(folder), steps=4, guidance_scale=3.0)
        model = load_sampler(spec, "cpu", torch.float32)
        assert model.pipeline().scheduler.config.clip_sample is False
        images.append(model.generate(make_block(), Stopwatch()))
    assert np.array_equal(*images)
    scheduler = getattr(diffusers, name).from_config(config)  # what the class by itself would do
    assert scheduler.config.clip_sample is True


@pytest.mark.ci
@pytest.mark.parametrize("scheduler", ["lcm", "euler"])
@pytest.mark.parametrize("kind", ["multi_step", "pipeline"])
def test_a_model_may_be_asked_at_its_very_timesteps(epsilon_folder: Path, make_block: Make, scheduler: str, kind: str) -> None:
    """DMD2's four-step students are asked at 999, 749, 499 and 249, its one-step student of SDXL at 399."""
    block = make_block()
    for timesteps in ((999, 749, 499, 249), (399,)):
        spec = ModelSpec(
            id="local/x",
            sampler=kind,
            location=str(epsilon_folder),
            steps=len(timesteps),
            timesteps=timesteps,
            scheduler=scheduler,
        )
        model = load_sampler(spec, "cpu", torch.float32)
        unet = model.networks()["unet"]  # type: ignore[attr-defined]
        asked: list[float] = []
        hook = unet.register_forward_pre_hook(lambda module, inputs, asked=asked: asked.append(float(inputs[1])))
        images = model.generate(block, Stopwatch())
        hook.remove()
        assert tuple(asked) == timesteps and model.network_calls == len(timesteps)
    if scheduler == "lcm":  # the last one: a single step from noise of variance 1 is x_0 as DMD2 writes it
        parts = load_sampler(
            spec.model_copy(update={"sampler": "one_step", "timestep": 399, "scheduler": "folder", "timesteps": ()}),
            "cpu",
            torch.float32,
        )
        difference = np.abs(images.astype(int) - parts.generate(block, Stopwatch()))
        assert difference.max() <= 1 and images.std() > 5
    with pytest.raises(InputError, match=r"DDIMScheduler.* cannot be asked at timesteps \[399\]"):
        load_sampler(spec.model_copy(update={"scheduler": "ddim"}), "cpu", torch.float32)


@pytest.mark.parametrize("kind", ["multi_step", "pipeline"])
def test_timesteps_are_spaced_as_the_spec_says(epsilon_folder: Path, kind: str) -> None:
    def timesteps(**fields: Any) -> list[int]:
        spec = ModelSpec(id="local/x", sampler=kind, location=str(epsilon_folder), steps=4, **fields)
        scheduler = load_sampler(spec, "cpu", torch.float32).pipeline().scheduler
        scheduler.set_timesteps(4)
        return [int(t) for t in scheduler.timesteps]

    assert timesteps(scheduler="ddim") == timesteps(scheduler="ddim", timestep_spacing="trailing") == [999, 749, 499, 249]
    assert timesteps(scheduler="ddim", timestep_spacing="leading") == [751, 501, 251, 1]
    assert timesteps(scheduler="dpmsolver++", timestep_spacing="linspace") == [999, 749, 500, 250]
    assert timesteps(timestep_spacing="leading") == [751, 501, 251, 1]  # over what the folder says
    with pytest.raises(InputError, match="LCMScheduler spaces its timesteps in its own way"):
        timesteps(scheduler="lcm", timestep_spacing="leading")


def test_a_scheduler_with_hidden_randomness_or_an_unknown_one_is_refused(v_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(v_folder, tmp_path / "m")
    path = tmp_path / "m" / "scheduler" / "scheduler_config.json"
    config = json.loads(path.read_text())
    for name in ("DPMSolverSDEScheduler", "Exotic", "UNet2DModel"):
        path.write_text(json.dumps(config | {"_class_name": name}))
        with pytest.raises(InputError, match=name):
            sampler(tmp_path / "m")


def nearly_equal(a: np.ndarray, b: np.ndarray) -> bool:
    """At most 1 level in at most 0.1 % of values."""
    difference = np.abs(a.astype(int) - b.astype(int))
    return bool(difference.max() <= 1 and (difference > 0).mean() <= 1e-3)


@pytest.mark.ci
@pytest.mark.parametrize("name", ["DDIMScheduler", *STOCHASTIC])
def test_an_image_does_not_depend_on_its_neighbours(tmp_path: Path, make_block: Make, name: str) -> None:
    extra = {"clip_sample": False} if name in {"DDPMScheduler", "LCMScheduler"} else {}
    folder = write_tiny_pipeline(tmp_path / "m", scheduler=sd_scheduler(scheduler_class=getattr(diffusers, name), **extra))
    model = sampler(folder)
    together = generate(model, make_block(0, 10))
    by_three = np.concatenate([generate(model, make_block(i, min(3, 10 - i), 3))[: min(3, 10 - i)] for i in range(0, 10, 3)])
    alone = np.concatenate([generate(model, make_block(i, 1)) for i in range(10)])
    assert nearly_equal(together, by_three)
    assert nearly_equal(together, alone)
    assert not nearly_equal(together[:5], together[5:])  # the same captions with other noise are other images


def test_padding_repeats_the_last_image(v_folder: Path, make_block: Make) -> None:
    images = generate(sampler(v_folder), make_block(0, 2, 5))
    assert images.shape == (5, 32, 32, 3)
    assert nearly_equal(images[1:2], images[4:5])


@pytest.mark.ci
@pytest.mark.parametrize("name", ["DDIMScheduler", "EulerAncestralDiscreteScheduler"])
def test_threads_give_the_bits_of_one_thread(tmp_path: Path, make_block: Make, name: str) -> None:
    folder = write_tiny_pipeline(tmp_path / "m", scheduler=sd_scheduler(scheduler_class=getattr(diffusers, name)))
    model = sampler(folder)
    blocks = [make_block(start, 3) for start in range(0, 36, 3)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        one_by_one = [generate(model, block) for block in blocks]
        with ThreadPoolExecutor(3) as pool:
            together = list(pool.map(lambda block: generate(model, block), blocks))
    finally:
        torch.set_num_threads(threads)
    assert all(np.array_equal(a, b) for a, b in zip(one_by_one, together, strict=True))


def test_seconds_are_counted_by_stage(v_folder: Path, make_block: Make) -> None:
    stopwatch = Stopwatch()
    sampler(v_folder).generate(make_block(), stopwatch)
    assert all(seconds > 0 for seconds in stopwatch.seconds.values())

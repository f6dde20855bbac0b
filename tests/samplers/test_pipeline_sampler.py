"""pipeline runs any diffusers pipeline folder with seeds by image, and none of a folder's code."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, EulerAncestralDiscreteScheduler, StableDiffusionPipeline
from tiny_models import sd_scheduler, write_tiny_pipeline

from sbv2bench.errors import InputError, IntegrityError, PrerequisiteError
from sbv2bench.samplers.base import PromptBlock, Stopwatch, generators
from sbv2bench.samplers.multi_step import MultiStepSampler
from sbv2bench.samplers.pipeline import PipelineSampler
from sbv2bench.specs import ModelSpec

Make = Callable[..., PromptBlock]


def spec_of(folder: Path, **fields: Any) -> ModelSpec:
    fields = {"sampler": "pipeline", "steps": 3, "guidance_scale": 3.0} | fields
    return ModelSpec(id="local/tiny", location=str(folder), **fields)


def sampler(folder: Path, **fields: Any) -> PipelineSampler:
    return PipelineSampler(spec_of(folder, **fields), "cpu", torch.float32)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_images_are_those_that_the_pipeline_makes_by_itself(v_folder: Path, make_block: Make, guidance: float) -> None:
    block = make_block()
    pipeline = DiffusionPipeline.from_pretrained(v_folder)
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(
        list(block.captions),
        num_inference_steps=3,
        guidance_scale=guidance,
        generator=generators(block.noise_seeds),
        output_type="np",
    ).images
    ours = sampler(v_folder, guidance_scale=guidance)
    assert np.abs(ours.generate(block, Stopwatch()) - 255 * images).max() <= 0.51
    assert ours.network_calls == (3 if guidance == 1 else 6)
    assert ours.resolution == 32


@pytest.mark.parametrize("scheduler", ["folder", "ddim", "dpmsolver++", "euler"])
def test_images_are_those_of_multi_step(v_folder: Path, make_block: Make, scheduler: str) -> None:
    block = make_block()
    other = MultiStepSampler(spec_of(v_folder, sampler="multi_step", scheduler=scheduler), "cpu", torch.float32)
    difference = sampler(v_folder, scheduler=scheduler).generate(block, Stopwatch()).astype(int) - other.generate(
        block, Stopwatch()
    )
    assert np.abs(difference).max() <= 1
    assert (difference != 0).mean() <= 1e-3


def test_seeds_belong_to_images_in_threads_too(tmp_path: Path, make_block: Make) -> None:
    folder = write_tiny_pipeline(tmp_path / "m", scheduler=sd_scheduler(scheduler_class=EulerAncestralDiscreteScheduler))
    model = sampler(folder)
    blocks = [make_block(start, 3) for start in range(0, 24, 3)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        one_by_one = [model.generate(block, Stopwatch()) for block in blocks]
        with ThreadPoolExecutor(3) as pool:
            together = list(pool.map(lambda block: model.generate(block, Stopwatch()), blocks))
    finally:
        torch.set_num_threads(threads)
    assert all(np.array_equal(a, b) for a, b in zip(one_by_one, together, strict=True))
    alone = np.concatenate([model.generate(make_block(i, 1), Stopwatch()) for i in range(6)])
    difference = np.abs(np.concatenate(one_by_one[:2]).astype(int) - alone)
    assert difference.max() <= 1
    assert (difference > 0).mean() <= 1e-3


def test_threads_share_networks_and_nothing_that_is_written_to(v_folder: Path) -> None:
    """A fast tokenizer's padding is changed in place by every call, a scheduler by every step."""
    model = sampler(v_folder)
    with ThreadPoolExecutor(1) as pool:
        theirs = pool.submit(model.pipeline).result()
    first, second = model.pipeline(), model.pipeline()
    assert first.tokenizer is second.tokenizer
    assert first.tokenizer is not theirs.tokenizer
    assert first.scheduler is not second.scheduler
    assert first.unet is theirs.unet
    assert theirs.tokenizer(["a red star"]).input_ids == first.tokenizer(["a red star"]).input_ids


def test_resolution_of_the_spec(v_folder: Path, make_block: Make) -> None:
    model = sampler(v_folder, resolution=48)
    assert model.generate(make_block(count=2), Stopwatch()).shape == (2, 48, 48, 3)


def test_the_safety_checker_is_left_out(v_folder: Path, tmp_path: Path, make_block: Make) -> None:
    folder = Path(shutil.copytree(v_folder, tmp_path / "m"))
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"], "requires_safety_checker": True}
    (folder / "safety_checker").mkdir()
    (folder / "model_index.json").write_text(json.dumps(index))
    model = sampler(folder)
    pipeline = model.pipeline()
    assert isinstance(pipeline, StableDiffusionPipeline)
    assert pipeline.safety_checker is None
    assert model.generate(make_block(), Stopwatch()).any()


@pytest.mark.parametrize("where", ["pipeline", "component"])
def test_code_in_a_folder_is_never_run(v_folder: Path, tmp_path: Path, where: str) -> None:
    folder = Path(shutil.copytree(v_folder, tmp_path / "m"))
    index = json.loads((folder / "model_index.json").read_text())
    code = f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n"
    if where == "pipeline":
        index["_class_name"] = ["pipeline", "Mine"]
        (folder / "pipeline.py").write_text(code)
    else:
        index["unet"] = ["my_unet", "UNet2DConditionModel"]
        (folder / "unet" / "my_unet.py").write_text(code)
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="never run"):
        sampler(folder)
    assert not (tmp_path / "ran").exists()


def test_what_is_no_text_to_image_pipeline_is_refused(v_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(v_folder, tmp_path / "m"))
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": "StableDiffusionImg2ImgPipeline"}))
    with pytest.raises(InputError, match="image"):
        sampler(folder)
    (folder / "model_index.json").unlink()
    with pytest.raises(InputError, match=r"model_index\.json"):
        sampler(folder)


def test_broken_and_missing_weights(v_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(v_folder, tmp_path / "m"))
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-10])
    with pytest.raises(IntegrityError, match="cut"):
        sampler(folder)
    weights.unlink()
    with pytest.raises(PrerequisiteError, match="no weights"):
        sampler(folder)
    weights.write_bytes(whole)
    sampler(folder)

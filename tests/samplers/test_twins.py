"""Each of today's pipeline classes as a tiny random twin: its images are stock diffusers', and its forward passes are counted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler
from stock import stock_images, stock_pipeline
from tiny_models import sd_scheduler
from twins import NAMES, SETTINGS, twin_spec, write_twin

from sbv2bench.results.records import Passes
from sbv2bench.samplers.base import PromptBlock, Stopwatch
from sbv2bench.samplers.calls import PassCounter
from sbv2bench.samplers.pipeline import PipelineSampler

Make = Callable[..., PromptBlock]
ROWS = dict.fromkeys(("lcm", "sana-sprint", "flux-schnell", "flux-dev", "flux2", "flux2-klein"), 1)  # a noise level: else 2
CALLS = {"flux2-klein-base": 2, "qwen-image": 2}  # a noise level: else 1


@pytest.fixture(scope="module", params=NAMES)
def twin(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, PipelineSampler]:
    name: str = request.param
    folder = write_twin(name, tmp_path_factory.mktemp("twins") / name)
    return name, folder, PipelineSampler(twin_spec(name, folder), "cpu", torch.float32)


def counted(sampler: PipelineSampler, block: PromptBlock) -> tuple[np.ndarray, Passes]:
    with PassCounter.of(sampler) as counter, counter.block(len(block.captions)):
        images = sampler.generate(block, Stopwatch())
    assert counter.found is not None
    return images, counter.found


def test_its_images_are_those_of_stock_diffusers(twin: tuple[str, Path, PipelineSampler], make_block: Make) -> None:
    name, folder, sampler = twin
    spec, block = sampler.spec, make_block(count=3)
    images, passes = counted(sampler, block)
    assert np.array_equal(images, stock_images(stock_pipeline(folder), spec, block))
    rows = ROWS.get(name, 2)
    assert passes == Passes(calls=2 * CALLS.get(name, 1), rows=2 * rows * 3, levels=2, images=3)
    assert sampler.network_calls == passes.rows_an_image
    assert sampler.noise_levels == passes.levels
    assert np.abs(images[0].astype(int) - images[1]).max() > 8  # seeds and captions are seen


def test_an_image_does_not_depend_on_its_batch(twin: tuple[str, Path, PipelineSampler], make_block: Make) -> None:
    _, _, sampler = twin
    together = sampler.generate(make_block(), Stopwatch()).astype(int)
    alone = np.concatenate([sampler.generate(make_block(i, 1), Stopwatch()) for i in range(4)])
    assert np.abs(together - alone).max() <= 1
    assert (together != alone).mean() <= 1e-3


@pytest.mark.parametrize("name", [name for name in NAMES if SETTINGS.get(name, {}).get("guidance") is None])
def test_no_guidance_makes_one_pass_a_level(name: str, tmp_path: Path, make_block: Make) -> None:
    spec = twin_spec(name, write_twin(name, tmp_path / name))
    sampler = PipelineSampler(spec.model_copy(update={"guidance_scale": spec.no_guidance}), "cpu", torch.float32)
    _, passes = counted(sampler, make_block(count=2))
    assert passes == Passes(calls=2, rows=4, levels=2, images=2)


_LEADING = {"timestep_spacing": "leading", "steps_offset": 0, "clip_sample": False}
_TWO_SCALES = {"guidance": "cfg", "guidance_argument": "true_cfg_scale", "negative_prompt": "blue"}
FLOW = FlowMatchEulerDiscreteScheduler
_SHIFT = {"use_dynamic_shifting": True, "base_image_seq_len": 64, "max_image_seq_len": 4096, "base_shift": 0.25, "max_shift": 2.0}
UNUSUAL: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "an offset that is not Stable Diffusion's": ("sdxl", lambda: sd_scheduler("epsilon", DDPMScheduler, **_LEADING), {}),
    "two scales": ("flux-dev", None, {**_TWO_SCALES, "arguments": {"guidance_scale": 3.5}}),
    "sigmas with their end": ("sdxl", lambda: sd_scheduler("epsilon", EulerDiscreteScheduler), {"sigmas": (14.0, 3.0, 0.0)}),
    "zero SNR": ("sd", lambda: sd_scheduler(scheduler_class=EulerDiscreteScheduler, rescale_betas_zero_snr=True), {"steps": 3}),
    "Karras": ("sdxl", lambda: sd_scheduler("epsilon", DPMSolverMultistepScheduler, use_karras_sigmas=True), {"steps": 4}),
    "a shift by other constants": ("flux-dev", lambda: FLOW(**_SHIFT), {"resolution": 64, "width": 32}),
    "a linear shift": ("qwen-image", lambda: FLOW(use_dynamic_shifting=True, time_shift_type="linear"), {"steps": 3}),
    "a last level": ("z-image", lambda: FLOW(shift=6.0, shift_terminal=0.1), {"steps": 3, "negative_prompt": "blue"}),
    "levels of beta": ("sd3", lambda: FLOW(use_beta_sigmas=True), {"steps": 3, "resolution": 16, "width": 48}),
    "sigmas of a flow": ("flux2-klein", None, {"steps": 3, "sigmas": (1.0, 0.6, 0.2), "resolution": 64, "width": 16}),
}


@pytest.mark.parametrize("what", [*list(UNUSUAL)[:3], *(pytest.param(what, marks=pytest.mark.ci) for what in list(UNUSUAL)[3:])])
def test_what_is_unusual_makes_the_images_of_stock_diffusers(what: str, tmp_path: Path, make_block: Make) -> None:
    name, scheduler, fields = UNUSUAL[what]
    folder = write_twin(name, tmp_path / name)
    if scheduler is not None:
        put_scheduler(folder, scheduler())
    spec = twin_spec(name, folder, **fields)
    block, sampler = make_block(count=2), PipelineSampler(spec, "cpu", torch.float32)
    images, passes = counted(sampler, block)
    assert np.array_equal(images, stock_images(stock_pipeline(folder), spec, block))
    assert (passes.levels, passes.rows_an_image) == (spec.steps, sampler.network_calls)


def put_scheduler(folder: Path, scheduler: Any) -> None:
    """In the place of a pipeline folder's own."""
    scheduler.save_pretrained(folder / "scheduler")
    index = json.loads((folder / "model_index.json").read_text()) | {"scheduler": ["diffusers", type(scheduler).__name__]}
    (folder / "model_index.json").write_text(json.dumps(index))


@pytest.mark.ci
def test_half_precision_gets_the_noise_of_float32(
    twin: tuple[str, Path, PipelineSampler], make_block: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bfloat16 would draw other numbers of the same seed."""
    name, folder, sampler = twin
    wide = first_latents(sampler, make_block(count=2), monkeypatch)
    narrow = first_latents(PipelineSampler(twin_spec(name, folder), "cpu", torch.bfloat16), make_block(count=2), monkeypatch)
    assert narrow.dtype == torch.bfloat16
    assert torch.equal(narrow, wide.bfloat16())


def first_latents(sampler: PipelineSampler, block: PromptBlock, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """What the denoiser is given first."""

    class Seen(Exception):
        pass

    found: list[torch.Tensor] = []

    def look(network: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        latents = args[0] if args else kwargs["hidden_states"]
        found.append(torch.stack(latents) if isinstance(latents, list) else latents.clone())
        raise Seen

    parts = sampler.networks()
    hook = parts.get("unet", parts.get("transformer"))
    assert hook is not None
    handle = hook.register_forward_pre_hook(look, with_kwargs=True)
    with pytest.raises(Seen):
        sampler.generate(block, Stopwatch())
    handle.remove()
    return found[0]

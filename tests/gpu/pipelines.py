"""Part 4: an SDXL and a flow-matching pipeline (SD3) in bfloat16, by the sampler that runs any pipeline of diffusers."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import torch
from gpu.figures import Figures
from gpu.setting import Setting
from gpu.training import timed

from sbv2bench.latency.measure import prompt_block
from sbv2bench.latency.memory import memory_of, weights_bytes
from sbv2bench.samplers import load_sampler
from sbv2bench.samplers.base import HasNetworks, Stopwatch
from sbv2bench.specs import ModelSpec

IMAGES, STEPS = 2, 4


def measure(setting: Setting, figures: Figures) -> None:
    """Four guided steps of two images each."""
    for name, write in (("sd3", setting.sd3), ("sdxl", setting.sdxl)):
        figures.attempt(name, partial(_sampled, name, write, setting))


def _sampled(name: str, write: Any, setting: Setting) -> dict[str, Any]:
    began = time.perf_counter()
    folder = write()
    writing, device = time.perf_counter() - began, torch.device(setting.device)
    spec = ModelSpec(id=f"local/{name}", sampler="pipeline", location=str(folder), steps=STEPS, guidance_scale=5.0)
    loading, sampler = timed(device, partial(load_sampler, spec, setting.device, torch.bfloat16))
    block = prompt_block(IMAGES, 0)
    first, images = timed(device, partial(sampler.generate, block, Stopwatch(setting.device)))
    seconds, again = timed(device, partial(sampler.generate, block, Stopwatch(setting.device)))
    size, method = memory_of(lambda: sampler.generate(block, Stopwatch(setting.device)), setting.device)
    assert isinstance(sampler, HasNetworks)
    networks = sampler.networks()
    return {
        "pixels": list(images.shape[1:3]),
        "images": IMAGES,
        "steps": STEPS,
        "dtypes": sorted({str(p.dtype).removeprefix("torch.") for network in networks.values() for p in network.parameters()}),
        "parameters": sum(p.numel() for network in networks.values() for p in network.parameters()),
        "weights_bytes": weights_bytes(networks),
        "writing_seconds": writing,
        "loading_seconds": loading,
        "first_seconds": first,
        "seconds": seconds,
        "call_bytes": size,
        "call_bytes_are": method,
        "deviation_of_pixels": float(images.std()),
        "pixels_that_a_second_run_changes": float((images != again).mean()),
    }

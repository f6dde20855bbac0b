"""What stock diffusers makes of a model that a spec declares, from the same noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from diffusers import DiffusionPipeline

from sbv2bench.samplers.base import PromptBlock, generators, to_uint8
from sbv2bench.specs import ModelSpec


def stock_pipeline(folder: Path, **parts: Any) -> DiffusionPipeline:
    """A pipeline's folder as diffusers loads it, with some parts in the places of its own."""
    pipeline = DiffusionPipeline.from_pretrained(folder, **parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def stock_images(pipeline: DiffusionPipeline, spec: ModelSpec, block: PromptBlock) -> np.ndarray:
    """uint8 [block size, H, W, 3] by a pipeline's own call, asked as the spec says; 32 px where it says no size."""
    height = spec.resolution or 32
    said = {name: getattr(spec, name) for name in ("sigmas", "timesteps", "max_sequence_length") if getattr(spec, name)}
    said |= {spec.guidance_argument: spec.guidance_scale, **spec.arguments}
    arguments: dict[str, Any] = {name: list(value) if isinstance(value, tuple) else value for name, value in said.items()}
    arguments |= {"num_inference_steps": spec.steps, "height": height, "width": spec.width or height}
    arguments |= {"negative_prompt": [spec.negative_prompt] * len(block.captions)} if spec.negative_prompt else {}
    rngs = generators(block.noise_seeds)
    return to_uint8(pipeline(prompt=list(block.captions), generator=rngs, output_type="pt", **arguments).images)

"""Folders of pipelines whose networks are one tensor each: what is read of them matters, not what they compute. No torch."""

from __future__ import annotations

import json
from pathlib import Path

from sample_results import write_safetensors

CLASSES = {
    "unet": "UNet2DConditionModel",
    "transformer": "SD3Transformer2DModel",
    "vae": "AutoencoderKL",
    "image_encoder": "CLIPVisionModel",
}


def part(folder: Path, name: str, kind: str | None = None) -> Path:
    """One part of its kind, in files of one tensor."""
    where = folder / name
    where.mkdir(parents=True)
    if name.startswith("scheduler"):
        (where / "scheduler_config.json").write_text('{"_class_name": "DDIMScheduler"}')
    elif name.startswith("tokenizer"):
        (where / "tokenizer_config.json").write_text("{}")
    else:
        write_safetensors(where / "diffusion_pytorch_model.safetensors")
        (where / "config.json").write_text(json.dumps({"_class_name": kind or CLASSES.get(name, "CLIPTextModel")}))
    return where


def pipeline(folder: Path, *parts: str, kind: str = "StableDiffusionPipeline") -> Path:
    for name in parts:
        part(folder, name)
    index = {"_class_name": kind} | {name: ["diffusers", CLASSES.get(name, "X")] for name in parts}
    (folder / "model_index.json").write_text(json.dumps(index | {"image_encoder": [None, None]}))
    return folder

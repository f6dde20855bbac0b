"""Models that no catalog names, by a file or a hub id: what they are taken for. No torch here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from sbv2bench.data.assets import check_not_gguf
from sbv2bench.data.single_file import is_whole_model
from sbv2bench.errors import InputError
from sbv2bench.specs import ModelSpec

UNSTATED: tuple[Literal["steps", "guidance_scale", "no_guidance"], ...] = ("steps", "guidance_scale", "no_guidance")
BY_DEFAULTS = "sampled by its own pipeline's defaults"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w.-]+)?(/[\w./-]+\.(safetensors|ckpt|gguf))?")


def is_hub_id(text: str) -> bool:
    """Whether a text has the form ORG/NAME, ORG/NAME@REVISION, or either with /FILE of a whole model."""
    return _HUB_ID.fullmatch(text) is not None


def model_on_hub(name: str) -> ModelSpec:
    """The model of a hub id, or of one file there. Raises InputError for GGUF."""
    check_not_gguf(name)
    identity = re.sub("[/@]", "--", name)
    description = f"a hub model that no catalog names; {BY_DEFAULTS}"
    return ModelSpec(
        id=f"local/{identity}",
        sampler="pipeline",
        location=f"hub:{name}",
        origin=f"hub:{name}",
        description=description,
        unstated=UNSTATED,
    )


def model_in_file(path: Path) -> ModelSpec:
    """A whole model in one file. Raises InputError where it holds something else."""
    check_not_gguf(str(path))
    if not is_whole_model(path):
        raise InputError(
            f"model: {path} is a file, expected a model's folder, a whole model in one file, an id or a hub id",
            "declare it in a catalog: {location: FILE, holds: unet, transformer or lora, base: MODEL, sampler: pipeline}",
        )
    name = re.sub(r"[^\w.+-]", "_", path.stem).lstrip(".+-") or "file"
    description = f"a whole model in one file; {BY_DEFAULTS}"
    return ModelSpec(id=f"local/{name}", sampler="pipeline", location=str(path), description=description, unstated=UNSTATED)

"""Configs of the networks that a recipe names, by which they are built without their weights (`blank`) or small (`rehearse`).

The architectures of Stable Diffusion 2.1-base and 1.5, of TAESD and of the paper's scorers are known here, so that what a
recipe costs can be told where none of these is on the machine. Of any other model its own config files are read.
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

import open_clip

from sbv2bench.data.assets import read_json, resolve_location
from sbv2bench.data.chain import chain
from sbv2bench.data.parts import UNETS
from sbv2bench.errors import InputError, PrerequisiteError
from sbv2bench.registry import Registry
from sbv2bench.specs import ModelSpec

_SD21 = {"unet": "sd21-base-unet", "text_encoder": "sd21-base-text_encoder", "vae": "sd-vae"}
_SD15 = {"unet": "sd15-unet", "text_encoder": "sd15-text_encoder", "vae": "sd-vae"}
# Model id or hub id -> part -> file of this folder. SD-Turbo and SwiftBrush are other weights of SD 2.1-base's networks.
MODELS = {
    "full/sd21": _SD21,
    "full/sd-turbo": _SD21,
    "full/swiftbrush": _SD21,
    "hub:stable-diffusion-v1-5/stable-diffusion-v1-5": _SD15,
}
# The same ids -> the scheduler's file and model_index.json as they are on the hub.
SCHEDULERS = {
    "full/sd21": "sd21-base-scheduler",
    "full/sd-turbo": "sd-turbo-scheduler",
    "full/swiftbrush": "sd21-base-scheduler",
    "hub:stable-diffusion-v1-5/stable-diffusion-v1-5": "sd15-scheduler",
}
INDEXES = {name: "sd15-index" if found is _SD15 else "sd21-base-index" for name, found in MODELS.items()}
DECODERS = {"hub:madebyollin/taesd": "taesd"}
SCORERS = {"openclip-b32-laion2b-s34b-b79k": "ViT-B-32", "hpsv2-v2.0": "ViT-H-14", "hpsv2-v2.1": "ViT-H-14"}  # OpenCLIP's names
_PARTS = {"unet": UNETS, "text_encoder": ("text_encoder",), "vae": ("vae",), "scheduler": ("scheduler",)}  # their folders


def config(model: str, part: str, registry: Registry) -> dict[str, Any]:
    """The config of a model's "unet", "text_encoder", "vae" or "scheduler", which may be its base's; no weights are read.

    Raises InputError (no such model), PrerequisiteError (not on this machine, or without that part).
    """
    spec = registry.model(model) if model not in MODELS else None
    for known in (model,) if spec is None else (spec.id, spec.location):
        if known in MODELS:
            return own(SCHEDULERS[known] if part == "scheduler" else MODELS[known][part])
    assert spec is not None
    return _stored(spec, part, registry)


def _stored(spec: ModelSpec, part: str, registry: Registry) -> dict[str, Any]:
    if spec.merge and not spec.location:
        return config(spec.merge.a, part, registry)
    folders = [link.folder for link in chain(spec)]
    for folder in folders:
        for name in _PARTS[part]:
            path = folder / name / ("scheduler_config.json" if part == "scheduler" else "config.json")
            if path.is_file():
                found: dict[str, Any] = read_json(path)
                return found
    raise PrerequisiteError(f"{folders[0]}: no config of a {part} found", "copy or download the whole model")


def tiny_config(location: str) -> dict[str, Any]:
    """The config of an AutoencoderTiny at a location. Raises what finding a location raises."""
    if location in DECODERS:
        return own(DECODERS[location])
    found: dict[str, Any] = read_json(resolve_location(location) / "config.json")
    return found


def scorer_config(scorer: str, registry: Registry) -> dict[str, Any]:
    """Arguments of open_clip.CLIP: embed_dim, vision_cfg, text_cfg. Raises InputError where it is not of kind open_clip."""
    if scorer in SCORERS:
        found: dict[str, Any] = open_clip.get_model_config(SCORERS[scorer])
    else:
        spec = registry.extractor(scorer)
        if spec.kind != "open_clip":
            raise InputError(f"scorer {scorer}: is a {spec.kind}, expected an extractor of kind open_clip")
        if spec.architecture:
            found = open_clip.get_model_config(spec.architecture)
            if found is None:
                raise InputError(f"extractor {scorer}: found architecture {spec.architecture!r}, expected one of OpenCLIP's")
        else:
            name = "open_clip_config.json"
            found = read_json(resolve_location(spec.location, files=(name,)) / name)["model_cfg"]
    return {name: found[name] for name in ("embed_dim", "vision_cfg", "text_cfg")}


def own(name: str) -> dict[str, Any]:
    """A file of this folder, by its name without .json."""
    content: dict[str, Any] = json.loads((files(__package__) / f"{name}.json").read_text("utf-8"))
    return content

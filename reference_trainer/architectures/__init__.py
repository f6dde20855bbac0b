"""Configs of the networks that a recipe names, by which they are built without their weights (`blank`) or small (`rehearse`).

The architectures of Stable Diffusion 2.1-base and 1.5, of TAESD and of the paper's scorers are known here, so that what a
recipe costs can be told where none of these is on the machine. Of any other model its own config files are read.
"""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import open_clip

from sbv2bench.data.assets import COPY_WHOLE, read_json, resolve_location
from sbv2bench.data.chain import chain, part_config
from sbv2bench.data.parts import INDEX
from sbv2bench.errors import InputError, PrerequisiteError
from sbv2bench.registry import Registry
from sbv2bench.specs import ModelSpec

_OWN = ("unet", "text_encoder", "scheduler", "index")  # index: model_index.json as it is on the hub, like the scheduler's file
_SD21 = {part: f"sd21-base-{part}" for part in _OWN} | {"vae": "sd-vae"}
# Model id or hub id -> part -> file of this folder. SD-Turbo and SwiftBrush are other weights of SD 2.1-base's networks.
MODELS = {
    "full/sd21": _SD21,
    "full/sd-turbo": _SD21 | {"scheduler": "sd-turbo-scheduler"},
    "full/swiftbrush": _SD21,
    "hub:stable-diffusion-v1-5/stable-diffusion-v1-5": {part: f"sd15-{part}" for part in _OWN} | {"vae": "sd-vae"},
}
DECODERS = {"hub:madebyollin/taesd": "taesd"}
SCORERS = {"openclip-b32-laion2b-s34b-b79k": "ViT-B-32", "hpsv2-v2.0": "ViT-H-14", "hpsv2-v2.1": "ViT-H-14"}  # OpenCLIP's names


def known(model: str, registry: Registry) -> str | None:
    """The key of MODELS that a model is of; None for one whose own files must be read. Raises InputError (no such model)."""
    if model in MODELS:
        return model
    spec = registry.model(model)
    return next((name for name in (spec.id, spec.location) if name in MODELS), None)


def config(model: str, part: str, registry: Registry) -> dict[str, Any]:
    """The config of a model's "unet", "text_encoder", "vae" or "scheduler", which may be its base's, or its "index".

    No weights are read. Raises InputError (no such model), PrerequisiteError (not on this machine, or without that part).
    """
    name = known(model, registry)
    return own(MODELS[name][part]) if name else _stored(registry.model(model), part, registry)


def _stored(spec: ModelSpec, part: str, registry: Registry) -> dict[str, Any]:
    if spec.merge and not spec.location:
        return config(spec.merge.a, part, registry)
    links = chain(spec)
    indexes = (link.folder / INDEX for link in links)
    path = next(filter(Path.is_file, indexes), None) if part == "index" else part_config(links, part)
    if path is None:
        what = INDEX if part == "index" else f"config of a {part}"
        raise PrerequisiteError(f"{links[0].folder}: no {what} found", COPY_WHOLE)
    return read_json(path)


def tiny_config(location: str) -> dict[str, Any]:
    """The config of an AutoencoderTiny at a location. Raises what finding a location raises."""
    if location in DECODERS:
        return own(DECODERS[location])
    return read_json(resolve_location(location) / "config.json")


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

"""A recipe's networks without their weights: built on the meta device, which computes shapes and takes no memory.

The architectures of Stable Diffusion 2.1-base and 1.5, of TAESD and of the paper's scorers are known here, so that what a
recipe costs can be told where none of these is on the machine. Of any other model its own config files are read.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import open_clip
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from peft import LoraConfig
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from reference_trainer.config import Lora, Recipe
from sbv2bench.data.assets import read_json, resolve_location
from sbv2bench.data.chain import chain
from sbv2bench.data.parts import UNETS
from sbv2bench.errors import InputError, PrerequisiteError
from sbv2bench.registry import Registry
from sbv2bench.samplers.networks import quiet
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
_PARTS = {"unet": UNETS, "text_encoder": ("text_encoder",), "vae": ("vae",)}  # part -> folders that it may lie in


@dataclass(frozen=True)
class Blank:
    """The cast of `networks.Networks` on the meta device, in the dtypes that training has. scorers: "clip", "hps".

    perceptual: VGG-16's layers, of which LPIPS takes the features.
    """

    teacher: Any
    student: Any
    text_encoder: Any
    vae: Any
    tiny_decoder: Any
    scorers: dict[str, Any]
    perceptual: Any

    @classmethod
    def of(cls, recipe: Recipe, registry: Registry) -> Blank:
        """Raises InputError or PrerequisiteError where a model's config is not to be had."""
        frozen = getattr(torch, recipe.teacher_dtype)
        with quiet(), torch.device("meta"):
            teacher = UNet2DConditionModel.from_config(config(recipe.teacher, "unet", registry)).to(frozen)
            student = UNet2DConditionModel.from_config(config(recipe.student.start, "unet", registry))
            text_encoder = CLIPTextModel(CLIPTextConfig.from_dict(config(recipe.teacher, "text_encoder", registry))).to(frozen)
            vae = _autoencoder(config(recipe.teacher, "vae", registry)).to(frozen)
            tiny = _autoencoder(tiny_config(recipe.tiny_decoder)) if recipe.tiny_decoder else None
            losses = {name: loss for name, loss in (("clip", recipe.clip), ("hps", recipe.hps)) if loss}
            scorers = {name: open_clip.CLIP(**scorer_config(loss.scorer, registry)) for name, loss in losses.items()}
            perceptual = _vgg() if recipe.regularisation and recipe.regularisation.distance == "lpips" else None
            for network in (text_encoder, vae, tiny, perceptual, *scorers.values()):
                if network is not None:
                    network.eval().requires_grad_(False)
            _prepare(student, recipe.student.lora)
            if recipe.lora_teacher is None:
                teacher.requires_grad_(False)
            else:
                _prepare(teacher, recipe.lora_teacher.lora)
            for unet in (teacher, student):
                unet.conv_out.float()
                unet.to(memory_format=torch.channels_last)
                if recipe.gradient_checkpointing:
                    unet.enable_gradient_checkpointing()
        return cls(teacher, student, text_encoder, vae, tiny, scorers, perceptual)

    def modules(self) -> list[nn.Module]:
        """Every network that there is."""
        every = [
            self.teacher,
            self.student,
            self.text_encoder,
            self.vae,
            self.tiny_decoder,
            self.perceptual,
            *self.scorers.values(),
        ]
        return [network for network in every if network is not None]


def config(model: str, part: str, registry: Registry) -> dict[str, Any]:
    """The config of a model's "unet", "text_encoder" or "vae", which may be its base's; no weights are read.

    Raises InputError (no such model), PrerequisiteError (not on this machine, or without that part).
    """
    if model in MODELS:
        return own(MODELS[model][part])
    spec = registry.model(model)
    for known in (spec.id, spec.location):
        if known in MODELS:
            return own(MODELS[known][part])
    return _stored(spec, part, registry)


def _stored(spec: ModelSpec, part: str, registry: Registry) -> dict[str, Any]:
    if spec.merge and not spec.location:
        return config(spec.merge.a, part, registry)
    folders = [link.folder for link in chain(spec)]
    for folder in folders:
        for name in _PARTS[part]:
            path = folder / name / "config.json"
            if path.is_file():
                found: dict[str, Any] = read_json(path)
                return found
    raise PrerequisiteError(f"{folders[0]}: no {part}/config.json found", "copy or download the whole model")


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


def _autoencoder(found: dict[str, Any]) -> Any:
    kind = AutoencoderTiny if found.get("_class_name") == "AutoencoderTiny" else AutoencoderKL
    return kind.from_config(found)


def _vgg() -> Any:
    from torchvision.models import vgg16

    return vgg16(weights=None).features


def _prepare(unet: Any, lora: Lora | None) -> None:
    """Make a UNet trainable as training does: all of it, or a float32 adapter. Raises InputError for targets that it has not."""
    unet.requires_grad_(lora is None)
    if lora is None:
        return
    try:
        unet.add_adapter(LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=list(lora.targets), bias="none"))
    except ValueError as error:
        raise InputError(f"lora.targets: the UNet has no layers {', '.join(lora.targets)}") from error
    for parameter in unet.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()

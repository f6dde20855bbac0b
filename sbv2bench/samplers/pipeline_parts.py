"""The parts of a pipeline, its own or those that a student's folder brings, each read with every tensor of it proved.

`DiffusionPipeline.from_pretrained` leaves out tensors that a network has no place for, and fills those that a file lacks by
chance; so what is known here is read here, and what is not is looked at afterwards.
"""

from __future__ import annotations

from pathlib import Path

import diffusers
import torch
import transformers
from diffusers import DiffusionPipeline, ModelMixin
from transformers import PreTrainedModel

from sbv2bench.data.assets import read_json
from sbv2bench.data.parts import INDEX, index_parts
from sbv2bench.errors import InputError, IntegrityError
from sbv2bench.samplers.networks import AUTOENCODERS, StoredModel
from sbv2bench.samplers.swaps import fold_into
from sbv2bench.weights import some


def proved_parts(stored: StoredModel, folder: Path, dtype: torch.dtype) -> dict[str, object]:
    """Part -> network or tokenizer, from the first folder that has it; what neither library knows by name is left out.

    folder: the pipeline's. Raises InputError for a part that the pipeline has no place for, and what reading one raises.
    """
    parts, replaced, found = index_parts(folder), stored.replaced(folder), {}
    if stored.spec.vae and "vae" not in parts:
        kind = read_json(folder / INDEX).get("_class_name")
        raise InputError(f"{folder}: {kind} has no vae, so {stored.spec.vae} would not be used", "take vae out of its spec")
    for name, (library, kind) in parts.items():
        if name == "unet" and (kind == "UNet2DConditionModel" or not stored.unet_is_in(folder)):
            found[name] = _unet(stored, folder, dtype)
        elif name == "vae" and (kind in AUTOENCODERS or name in replaced or stored.spec.vae):
            found[name] = stored.vae(dtype)
        elif name in replaced and name != "scheduler" and (library != "transformers" or not hasattr(transformers, kind)):
            raise InputError(f"{replaced[name]}: cannot take the place of a {kind} of {library}, expected one of transformers")
        elif library == "transformers" and issubclass(read := getattr(transformers, kind, object), PreTrainedModel):
            found[name] = stored.text_encoder(dtype, name, read)
        elif library == "diffusers" and issubclass(read := getattr(diffusers, kind, object), ModelMixin):
            found[name] = stored.network(read, name, dtype)
        elif name.startswith("tokenizer") and name in replaced:
            found[name] = stored.tokenizer(name, getattr(transformers, kind))
    return found


def _unet(stored: StoredModel, folder: Path, dtype: torch.dtype) -> object:
    """The UNet as the spec says; an adapter alone is folded in the run's dtype: a large UNet in float32 besides is too much."""
    if stored.spec.holds != "lora" or not stored.unet_is_in(folder):
        return stored.unet(dtype)
    unet = StoredModel(stored.spec, stored.links[1:], stored.registry, stored.dtype).unet(dtype)
    fold_into(unet, stored.links[0].folder)
    return unet


def check_whole(folder: Path, pipeline: DiffusionPipeline) -> None:
    """IntegrityError where a network lacks tensors, or parts of different models were put together."""
    for name, network in pipeline.components.items():
        lost = [key for key, value in network.state_dict().items() if value.is_meta] if hasattr(network, "state_dict") else []
        if lost:
            raise IntegrityError(
                f"{folder / name}: weights do not fit config.json: {len(lost)} missing ({some(sorted(lost))})",
                "copy or download the whole model",
            )
    unet, vae = getattr(pipeline, "unet", None), getattr(pipeline, "vae", None)
    if unet is None or vae is None:
        return
    if unet.config.in_channels != vae.config.latent_channels:
        latents = f"UNet makes {unet.config.in_channels} latent channels, autoencoder decodes {vae.config.latent_channels}"
        raise IntegrityError(f"{folder}: parts of different models: {latents}")
    encoders = [getattr(pipeline, name, None) for name in ("text_encoder", "text_encoder_2")]
    if any(encoder is not None and not type(encoder).__name__.startswith("CLIPText") for encoder in encoders):
        return
    width, reads = sum(encoder.config.hidden_size for encoder in encoders if encoder is not None), unet.config.cross_attention_dim
    if isinstance(reads, int) and unet.config.get("encoder_hid_dim_type") is None and reads != width:
        raise IntegrityError(f"{folder}: parts of different models: UNet reads text of width {reads}, encoders write {width}")

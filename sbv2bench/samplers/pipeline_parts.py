"""The parts of a pipeline, its own or those that take their places, each read with every tensor of it proved.

`DiffusionPipeline.from_pretrained` leaves out tensors that a network has no place for, and fills those that a file lacks by
chance; so what is known here is read here, and what is not is looked at afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import DiffusionPipeline, ModelMixin
from transformers import PreTrainedModel

from sbv2bench.data.assets import read_json
from sbv2bench.data.parts import DENOISERS, index_parts
from sbv2bench.errors import InputError, IntegrityError, SBV2BenchError
from sbv2bench.samplers.networks import StoredModel
from sbv2bench.weights import some

_READS_TEXT = ("joint_attention_dim", "caption_channels", "cap_feat_dim", "cross_attention_dim")
_WRITES_TEXT = ("hidden_size", "d_model")
# Of a denoiser and of another part: the names of numbers that go together, the first that a config has.
_JOINTS = (
    (("in_channels",), "vae", ("latent_channels", "z_dim")),
    (_READS_TEXT, "text_encoder", _WRITES_TEXT),
    (("pooled_projection_dim",), "text_encoder", ("projection_dim",)),
)


def proved_parts(stored: StoredModel, folder: Path, dtype: torch.dtype) -> dict[str, object]:
    """Part -> network or tokenizer, from where the spec has it; what neither library knows by name is left out.

    folder: the pipeline's; where its networks are in one file, only what takes a part's place is read. Raises InputError for a
    part of another kind than its place, and what reading one raises.
    """
    replaced, found = stored.replaced(folder), {}
    in_one_file = stored.links[0].holds == "checkpoint"
    for name, (library, kind) in index_parts(folder).items():
        if in_one_file and name not in replaced:
            continue
        if name == "vae" and library == "diffusers":
            found[name] = stored.vae(dtype, kind)
        elif library == "transformers" and issubclass(read := getattr(transformers, kind, object), PreTrainedModel):
            found[name] = stored.text_encoder(dtype, name, read)
        elif library == "diffusers" and issubclass(read := getattr(diffusers, kind, object), ModelMixin):
            found[name] = stored.network(read, name, dtype)
        elif name.startswith("tokenizer") and name in replaced:
            found[name] = stored.tokenizer(name, getattr(transformers, kind))
        elif name in replaced and name != "scheduler":
            raise InputError(f"{replaced[name]}: cannot take the place of a {kind} of {library}, expected one of transformers")
    return found


def check_whole(folder: Path, pipeline: DiffusionPipeline, replaced: Mapping[str, Path]) -> None:
    """IntegrityError where a network lacks tensors, and what `check_unet` and `_check_joints` raise.

    folder: the pipeline's. replaced: what takes the places of its parts.
    """
    parts = pipeline.components
    for name, network in parts.items():
        lost = [key for key, value in network.state_dict().items() if value.is_meta] if hasattr(network, "state_dict") else []
        if lost:
            raise IntegrityError(
                f"{folder / name}: weights do not fit config.json: {len(lost)} missing ({some(sorted(lost))})",
                "copy or download the whole model",
            )
    if parts.get("unet") is not None and parts.get("vae") is not None:
        check_unet(folder, parts, replaced)
    denoiser = next((name for name in DENOISERS if parts.get(name) is not None), None)
    if denoiser is not None:
        _check_joints(folder, parts, denoiser, replaced)


def check_unet(folder: Path, parts: Mapping[str, Any], replaced: Mapping[str, Path]) -> None:
    """Raises `_of_others` where a UNet does not fit the autoencoder and the text encoders beside it. parts: networks by name."""
    unet, vae = parts["unet"].config, parts["vae"].config
    if unet.in_channels != vae.latent_channels:
        found = {"unet": f"makes {unet.in_channels} latent channels", "vae": f"decodes {vae.latent_channels}"}
        raise _of_others(folder, replaced, found)
    encoders = {name: parts[name] for name in ("text_encoder", "text_encoder_2") if parts.get(name) is not None}
    if any(not type(encoder).__name__.startswith("CLIPText") for encoder in encoders.values()):
        return
    widths, reads = {name: encoder.config.hidden_size for name, encoder in encoders.items()}, unet.cross_attention_dim
    if isinstance(reads, int) and unet.get("encoder_hid_dim_type") is None and reads != sum(widths.values()):
        written = {name: f"writes {width}" for name, width in widths.items()}
        raise _of_others(folder, replaced, {"unet": f"reads text of width {reads}", **written})


def _check_joints(folder: Path, parts: Mapping[str, Any], denoiser: str, replaced: Mapping[str, Path]) -> None:
    """Raises `_of_others` where a part that takes another's place meets its neighbour with other numbers than the pipeline's own.

    A denoiser may see latents that are folded, or the states of several layers: how its numbers and its neighbour's go together
    is what the pipeline's own configs say, which are here also where the weights are another's.
    """
    for reads, kind, writes in _JOINTS:
        neighbours = [name for name in parts if name.startswith(kind)]
        changed = [name for name in neighbours if name in replaced] or (neighbours if denoiser in replaced else [])
        for name in changed:
            sides = ((denoiser, reads), (name, writes))
            own = [number for part, keys in sides if (number := _number(_own_config(folder / part), keys))]
            new = [number for part, keys in sides if (number := _number(_config(parts[part]), keys))]
            if len(own) == len(new) == 2 and own[0][1] * new[1][1] != own[1][1] * new[0][1]:
                found = {part: f"has {key} {value}" for part, (key, value) in zip((denoiser, name), new, strict=True)}
                expected = " and ".join(f"{value}" for _, value in own)
                raise _of_others(folder, replaced, found, f", where those of {folder} have {expected}")


def _of_others(folder: Path, replaced: Mapping[str, Path], found: Mapping[str, str], more: str = "") -> SBV2BenchError:
    """The error over parts that do not fit: InputError where one was brought, IntegrityError where all are the pipeline's own.

    found: part -> what it does, by which they differ.
    """
    kind = InputError if found.keys() & replaced.keys() else IntegrityError
    sides = " and ".join(f"{replaced.get(part, folder / part)} {does}" for part, does in found.items())
    return kind(f"parts of different models: {sides}{more}")


def _own_config(part: Path) -> Mapping[str, object]:
    return read_json(part / "config.json") if (part / "config.json").is_file() else {}


def _config(network: Any) -> Mapping[str, object]:
    config = getattr(network, "config", None) or {}
    return config.to_dict() if hasattr(config, "to_dict") else config


def _number(config: Mapping[str, Any], keys: tuple[str, ...]) -> tuple[str, int] | None:
    """The first of some names that a config has a number for, and that; a network of pictures and text has its text's apart."""
    config = {**config, **(config.get("text_config") or {})}
    return next(((key, config[key]) for key in keys if isinstance(config.get(key), int)), None)

"""Whole models in one file, as latent diffusion's own code writes them: what such a file is, and whose configs describe it."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from sbv2bench.data.assets import PICKLES
from sbv2bench.errors import InputError

_NETWORK, _DECODER, _TEXT = "model.diffusion_model.", "first_stage_model.", ("cond_stage_model.", "conditioner.")
# The network's text width tells the kind; its configs and tokenizer are in the repository of its kind (diffusers
# loaders/single_file_utils.py, DIFFUSERS_DEFAULT_PIPELINE_PATHS).
_PROBE = _NETWORK + "input_blocks.{}.1.transformer_blocks.0.attn2.to_k.weight"
_KINDS = {
    768: "hub:stable-diffusion-v1-5/stable-diffusion-v1-5@451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
    2048: "hub:stabilityai/stable-diffusion-xl-base-1.0@462165984030d82259a11f4367a4eed129e94a7b",
}


def is_whole_model(path: Path) -> bool:
    """Whether a file holds all networks of a model under latent diffusion's names. A pickle is taken to: it is not opened."""
    if path.suffix in PICKLES:
        return path.suffix == ".ckpt"
    names = shapes(path)
    starts = (_NETWORK, _DECODER, _TEXT)
    return all(any(name.startswith(start) for name in names) for start in starts)


def base_of(path: Path) -> str:
    """The hub location of the configs that a whole model in one file needs besides. Raises InputError where it does not tell."""
    if path.suffix == ".safetensors":
        if not is_whole_model(path):
            raise InputError(
                f"{path}: holds no whole model, expected the names of latent diffusion ({_NETWORK}*, {_DECODER}*, {_TEXT[0]}*)",
                "declare it in a catalog: {location: FILE, holds: unet, transformer or lora, base: MODEL, sampler: pipeline}",
            )
        found = shapes(path)
        width = next((found[name][-1] for block in (1, 4) if (name := _PROBE.format(block)) in found), None)
        if width in _KINDS:
            return _KINDS[width]
    elif path.suffix not in PICKLES:
        raise InputError(f"model folder: {path} is not a folder, nor a model in a .safetensors or .ckpt file")
    raise InputError(
        f"{path}: does not tell whose configs it needs, expected base: a folder or hub id of a model of its kind",
        f"declare it in a catalog: {{location: {path}, sampler: pipeline, base: MODEL}}",
    )


def shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Tensor -> its shape, by a safetensors file's header alone; nothing where that is broken, which `hash_file` refuses."""
    return {name: tuple(entry["shape"]) for name, entry in header(path).items()}


def header(path: Path) -> dict[str, dict[str, Any]]:
    """Tensor -> its "shape" and "dtype" as a safetensors file's header has them; nothing where that is broken."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            found = json.loads(file.read(min(length, path.stat().st_size)))
        found.pop("__metadata__", None)
        return {name: {"shape": list(entry["shape"]), "dtype": str(entry["dtype"])} for name, entry in found.items()}
    except (OSError, struct.error, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}

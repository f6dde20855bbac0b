"""What two models must have in common for their UNets to be averaged: the latents' meaning, and the text's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from sbv2bench.data.assets import hash_file, hash_weights
from sbv2bench.errors import IntegrityError
from sbv2bench.weights import StateDict, load_state_dict

SHARED = ("vae", "text_encoder")


def check_shared_parts(a: str, parts_a: Mapping[str, Path], b: str, parts_b: Mapping[str, Path]) -> None:
    """Raises IntegrityError unless two ends of a merge have the same autoencoder and the same text encoder.

    a, b: the ends' names. parts_a, parts_b: part -> folder or file of its weights. Files are compared by their SHA-256, and
    where that differs by their numbers, since one end may have been written again in another dtype.
    """
    for part in SHARED:
        first, second = parts_a[part], parts_b[part]
        hashes = [_weights_sha256(folder) for folder in (first, second)]
        if hashes[0] != hashes[1] and not _same_numbers(first, second):
            raise IntegrityError(
                f"merge: {a} and {b} have different weights of {part} (sha256 {hashes[0][0][:8]} and {hashes[1][0][:8]}), "
                "expected ends that differ in the UNet alone"
            )


def _weights_sha256(place: Path) -> list[str]:
    if place.is_file():
        return [hash_file(place).sha256]
    files = [file for file in hash_weights(place) if not file.path.endswith(".json")]
    plain = [file for file in files if "." not in Path(file.path).stem] or files  # model.fp16.safetensors is a variant
    return [file.sha256 for file in plain]


def _same_numbers(a: Path, b: Path) -> bool:
    first, second = _tensors(a), _tensors(b)
    same = first.keys() == second.keys() and all(first[key].shape == second[key].shape for key in first)
    return same and all(torch.equal(first[key].to(torch.float32), second[key].to(torch.float32)) for key in first)


def _tensors(folder: Path) -> StateDict:
    """Weights by name; older transformers wrote a prefix, and a buffer that only counts up."""
    state = load_state_dict(folder)
    return {key.removeprefix("text_model."): value for key, value in state.items() if not key.endswith("position_ids")}

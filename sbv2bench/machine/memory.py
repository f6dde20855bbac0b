"""Memory of a device, and what a model takes of it by its files and configs. No network is loaded."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open

from sbv2bench.data.assets import read_json, selection_in
from sbv2bench.data.chain import Link, chain, part_config
from sbv2bench.data.hub import nothing_fetched
from sbv2bench.errors import InputError, PrerequisiteError, SBV2BenchError
from sbv2bench.registry import Registry
from sbv2bench.samplers.placement import OFFLOADS, Offload, Placement
from sbv2bench.specs import ModelSpec

# Bytes that decoding takes at its worst, by the widest of the decoder's two last stages at full size: found with torch's CPU
# kernels for SD's (4.7), SANA's (4.7) and Qwen-Image's (13.7, in three dimensions) autoencoders at 256 px.
_DECODER, _DECODER_3D = 5, 14
_SHARE = 0.9  # of a device that a run may fill; the rest is the driver's, and what tensors leave between them
_USUAL_SIDE = 1024
_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class ModelMemory:
    """Bytes. parts: weights as they are held, by part; largest_layer: the largest tensor; decode: of one image, at its worst,
    beside the weights, None where its autoencoder is of no known kind; device: all that the device has, None where unknown."""

    parts: Mapping[str, int]
    largest_layer: int
    decode: int | None
    device: int | None

    @property
    def weights(self) -> int:
        """Of all parts."""
        return sum(self.parts.values())

    def held(self, offload: Offload) -> int:
        """Weights that lie on the device at a time."""
        return {"none": self.weights, "model": max(self.parts.values(), default=0), "sequential": self.largest_layer}[offload]

    def fits(self, offload: Offload) -> bool | None:
        """Whether weights and the decoding of one image, in tiles where need be, have room.

        None where that is not known: of a device that does not tell, or files that are not here.
        """
        if self.device is None or not self.parts:
            return None
        return self.held(offload) < _SHARE * self.device

    def placement(self, offload: Offload, block_size: int) -> Placement:
        """How blocks of so many images are decoded: whole where there is room, else one by one, else in tiles."""
        if self.device is None or self.decode is None:
            return Placement(offload)
        room = _SHARE * self.device - self.held(offload)
        return Placement(offload, vae_slicing=block_size * self.decode > room, vae_tiling=self.decode > room)


def chosen_placement(
    model: ModelSpec, registry: Registry, where: tuple[str, str], offload: Offload, block_size: int
) -> Placement:
    """Where a run keeps a model's parts, and how it decodes. where: the device and the dtype.

    Raises InputError where there is nothing to offload, PrerequisiteError where the device has no room for the weights.
    """
    device, dtype = where
    if offload != "none" and not model.has_network():
        raise InputError(f"--offload {offload}: no network generates the images of model {model.id}", "--offload none")
    if offload != "none" and device == "cpu":
        raise InputError(
            f"--offload {offload}: found device cpu, where the weights lie already, expected a GPU to bring them to",
            "--offload none",
        )
    if not device.startswith("cuda") or not model.has_network():
        return Placement(offload)
    memory = memory_of_model(model, registry, device, dtype)
    if memory.fits(offload) is False:
        less = next((way for way in OFFLOADS[OFFLOADS.index(offload) + 1 :] if memory.fits(way)), None)
        raise PrerequisiteError(
            f"{device}: found {_gb(memory.device)} of memory, {model.id} takes {_gb(memory.held(offload))} of weights in {dtype}",
            f"--offload {less}" if less else "a GPU with more memory",
        )
    return memory.placement(offload, block_size)


def _gb(size: int | None) -> str:
    return f"{(size or 0) / 1e9:.3g} GB"


def memory_of_model(model: ModelSpec, registry: Registry, device: str, dtype: str) -> ModelMemory:
    """What a model takes, as far as its files are on this machine; of a merge both ends are read."""
    ends = [registry.model(end) for end in (model.merge.a, model.merge.b)] if model.merge and not model.location else [model]
    parts: dict[str, int] = {}
    largest, decode = 0, None
    for number, end in enumerate(ends):
        links = _links(end, dtype)
        for part, files in _files(links, dtype).items():
            sizes = [_held(file, dtype) for file in files]
            parts[f"{part} of {end.id}" if number else part] = sum(held for held, _ in sizes)
            largest = max([largest, *(most for _, most in sizes)])
        decode = decode or _decode_bytes(links, model, dtype)
    return ModelMemory(parts, largest, decode, device_bytes(device))


def device_bytes(device: str) -> int | None:
    """All the memory of a CUDA device, or of the machine for a CPU; None of another, or where the system does not tell."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_properties(device).total_memory
    try:
        return int(os.sysconf("SC_PAGE_SIZE")) * int(os.sysconf("SC_PHYS_PAGES")) if device == "cpu" else None
    except (AttributeError, OSError, ValueError):
        return None


def _links(spec: ModelSpec, dtype: str) -> tuple[Link, ...]:
    try:
        with nothing_fetched():
            return chain(spec, dtype) if spec.location else ()
    except SBV2BenchError:
        return ()


def _files(links: Sequence[Link], dtype: str) -> dict[str, list[Path]]:
    """Weights files by part, each of the first link that has it; an autoencoder of its own is the last link."""
    found: dict[str, list[Path]] = {}
    for link in links:
        own: dict[str, list[Path]] = {}
        if link.folder.is_file():
            own[link.holds] = [link.folder]
        elif link.holds != "configs":
            for name in selection_in(link.folder, dtype, link.unused).weights:
                part = Path(name).parts[0] if "/" in name else link.holds
                own.setdefault(part, []).append(link.folder / name)
        found = found | own if link.holds == "vae" else own | found
    return found


def _held(file: Path, dtype: str) -> tuple[int, int]:
    """Bytes of a safetensors file once it is read in a dtype, and of its largest tensor; of another file its size."""
    if file.suffix != ".safetensors":
        return file.stat().st_size, 0
    with safe_open(file, framework="np") as opened:
        counts = [int(math.prod(opened.get_slice(name).get_shape())) for name in opened.keys()]  # noqa: SIM118
    return sum(counts) * _BYTES[dtype], max(counts, default=0) * _BYTES[dtype]


def _decode_bytes(links: Sequence[Link], model: ModelSpec, dtype: str) -> int | None:
    """Bytes of decoding one image, from the autoencoder's config and the image's size."""
    path = part_config(links, "vae")
    if path is None:
        return None
    config = read_json(path)
    channels = config.get("decoder_block_out_channels") or config.get("block_out_channels")
    if isinstance(channels, list) and channels:
        widest, factor = max(channels[:2]), _DECODER
    elif isinstance(config.get("base_dim"), int):
        widest, factor = 2 * int(config["base_dim"]), _DECODER_3D
    else:
        return None
    height = model.resolution or _usual_side(links, config)
    return factor * int(widest) * height * (model.width or height) * _BYTES[dtype]


def _usual_side(links: Sequence[Link], vae: Mapping[str, object]) -> int:
    """Pixels of a side where the spec says none: the denoiser's, or what today's large models make."""
    stages = vae.get("block_out_channels") or vae.get("decoder_block_out_channels")
    path = part_config(links, "unet") or part_config(links, "transformer")
    side = None if path is None else read_json(path).get("sample_size")
    return side << (len(stages) - 1) if isinstance(side, int) and isinstance(stages, list) else _USUAL_SIDE

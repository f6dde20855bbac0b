"""A Stable Diffusion model's parts, loaded with every file proved first, and the three things that they do.

A model's folder has the layout of diffusers' StableDiffusionPipeline. It may lack what another model supplies: a
student's folder can hold only `unet/` (or `unet_ema/`), or only `unet_lora/`, a peft adapter on its base model's UNet.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, AutoencoderTiny, SchedulerMixin, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from sbv2bench import diffusion
from sbv2bench.data.assets import hash_weights, pickles_allowed, read_json, resolve_location
from sbv2bench.errors import InputError, IntegrityError, PrerequisiteError
from sbv2bench.samplers.base import Images, to_uint8
from sbv2bench.samplers.schedulers import load_scheduler, reading
from sbv2bench.specs import ModelSpec
from sbv2bench.weights import fold_lora, interpolate, load_adapter, some

if TYPE_CHECKING:
    from sbv2bench.registry import Registry

SLOTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
_AUTOENCODERS = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny}


@dataclass(frozen=True)
class Components:
    """Loaded parts on one device in one dtype. Nothing here changes after loading, so threads may share it.

    scheduler is a template: copy it before use. latent_shape: [C, h, w] of one image.
    """

    unet: UNet2DConditionModel
    vae: AutoencoderKL | AutoencoderTiny
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    scheduler: SchedulerMixin
    prediction_type: diffusion.PredictionType
    resolution: int
    latent_shape: tuple[int, int, int]
    device: torch.device
    dtype: torch.dtype
    # A fast tokenizer changes its padding and truncation in place and must not be asked by two threads at once.
    tokenizer_lock: threading.Lock = field(default_factory=threading.Lock)

    def encode_text(self, captions: Sequence[str], guided: bool) -> Tensor:
        """Last hidden states [B, L, D] of captions, padded or cut (keeping the end token) to the tokenizer's length.

        guided: those of "" come first, [2 B, L, D], as `predict` wants them; they are computed once.
        """
        text = self._hidden_states(list(captions))
        if not guided:
            return text
        return torch.cat([self._hidden_states([""]).expand_as(text), text])

    def _hidden_states(self, captions: list[str]) -> Tensor:
        with self.tokenizer_lock:
            length = self.tokenizer.model_max_length
            tokens = self.tokenizer(captions, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        hidden: Tensor = self.text_encoder(tokens.input_ids.to(self.device))[0]
        return hidden.to(self.dtype)

    def predict(self, latents: Tensor, timestep: int | Tensor, text: Tensor, guidance_scale: float) -> Tensor:
        """The UNet's output for latents [B, C, h, w] at a timestep, guided where the scale is above 1: float32 [B, C, h, w].

        The two halves of guidance are one call on [unconditional; conditional]. A UNet with a learned variance returns
        2 C channels, of which the first C are used (VinAIResearch/SwiftBrushV2:infer.py).
        """
        guided = is_guided(guidance_scale)
        inputs = torch.cat([latents, latents]) if guided else latents
        output: Tensor = self.unet(inputs.to(self.dtype), timestep, encoder_hidden_states=text).sample
        output = output[:, : self.latent_shape[0]].to(torch.float32)
        if not guided:
            return output
        unconditional, conditional = output.chunk(2)
        return diffusion.guide(unconditional, conditional, guidance_scale)

    def decode(self, latents: Tensor) -> Images:
        """Scaled latents [B, C, h, w] -> uint8 [B, H, W, 3]. Raises IntegrityError where a pixel is not a number."""
        unscaled = latents.to(torch.float32) / self.vae.config.scaling_factor + (self.vae.config.get("shift_factor") or 0.0)
        pixels = self.vae.decode(unscaled.to(self.dtype)).sample
        return to_uint8(pixels.to(torch.float32) / 2 + 0.5)

    def pipeline(self, scheduler: SchedulerMixin) -> StableDiffusionPipeline:
        """These parts (shared, not copied) and a scheduler as a diffusers pipeline, without a safety checker."""
        return StableDiffusionPipeline(
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            unet=self.unet,
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )


def is_guided(guidance_scale: float) -> bool:
    """Whether a scale asks for the unconditional branch. Up to 1 is no guidance, diffusers' rule (0 is written for "off").

    Raises InputError between 0 and 1, which diffusers would silently sample as 1.
    """
    if 0.0 < guidance_scale < 1.0:
        raise InputError(f"guidance_scale: found {guidance_scale}, expected 0 or 1 (no guidance) or more than 1")
    return guidance_scale > 1.0


def load_components(spec: ModelSpec, device: str, dtype: torch.dtype, registry: Registry | None = None) -> Components:
    """Load a model's parts, merged and folded as its spec says. registry: where a merge finds its models.

    Raises InputError (no diffusers folder, or a kind that only `sampler: pipeline` can run), PrerequisiteError (a part is
    missing), IntegrityError (broken, pickled, or not fitting each other).
    """
    folders = _folders(spec, registry)
    _check_layout(folders)
    scheduler = load_scheduler(_slot(folders, "scheduler"))
    with quiet():
        unet = _load_unet(spec, dtype, registry)
        vae = _load_vae(_slot(folders, "vae"), dtype)
        text_encoder = _load_text_encoder(_slot(folders, "text_encoder"), dtype)
        with reading(_slot(folders, "tokenizer")):
            tokenizer = CLIPTokenizer.from_pretrained(_slot(folders, "tokenizer"), local_files_only=True)
    _check_fit(folders[0], unet, vae, text_encoder)
    side, factor = unet.config.sample_size, 2 ** (len(vae.config.block_out_channels) - 1)
    resolution = spec.resolution or side * factor
    if resolution % factor:
        raise InputError(f"{spec.id}: resolution {resolution} is not a multiple of {factor}, which its autoencoder needs")
    return Components(
        unet=unet.to(device, memory_format=torch.channels_last),
        vae=vae.to(device, memory_format=torch.channels_last),
        text_encoder=text_encoder.to(device),
        tokenizer=tokenizer,
        scheduler=scheduler,
        prediction_type=spec.prediction_type or scheduler.config.get("prediction_type", "epsilon"),
        resolution=resolution,
        latent_shape=(unet.config.in_channels, resolution // factor, resolution // factor),
        device=torch.device(device),
        dtype=dtype,
    )


def _folders(spec: ModelSpec, registry: Registry | None) -> list[Path]:
    """Where a model's parts are, first choice first; every file in them is proved whole."""
    if spec.merge and not spec.location:
        return _folders(_merged_model(spec.merge.a, registry), registry)
    folders = [resolve_location(spec.location, spec.revision)]
    hash_weights(folders[0])
    adapter = folders[0] / "unet_lora"
    base = load_adapter(adapter)[1].base if adapter.is_dir() else getattr(spec, "base", "")
    if base:
        folders.append(resolve_location(base))
        hash_weights(folders[1])
    return folders


def _merged_model(model: str, registry: Registry | None) -> ModelSpec:
    from sbv2bench.registry import Registry

    return (registry or Registry.load()).model(model)


def _check_layout(folders: list[Path]) -> None:
    indices = [folder / "model_index.json" for folder in folders if (folder / "model_index.json").is_file()]
    if not indices:
        raise InputError(f"{folders[0]}: no model_index.json found, expected a diffusers pipeline folder")
    parts = read_json(indices[0])
    beyond = sorted(
        name for name, part in parts.items() if name in {"text_encoder_2", "transformer", "prior"} and part[:1] != [None]
    )
    if beyond:
        raise InputError(f"{indices[0]}: {parts.get('_class_name')} has {some(beyond)}, which only `sampler: pipeline` can run")


def _slot(folders: list[Path], *names: str) -> Path:
    """The first folder that has a part, under one of its names. Raises PrerequisiteError where none has."""
    for folder in folders:
        for name in names:
            if (folder / name).is_dir():
                return folder / name
    raise PrerequisiteError(
        f"{folders[0]}: no folder {names[0]}/ found, expected {', '.join(SLOTS)}", "copy or download the whole model"
    )


def _load_unet(spec: ModelSpec, dtype: torch.dtype, registry: Registry | None) -> UNet2DConditionModel:
    """The UNet as the spec says: as stored, merged (weights.interpolate), or with its adapter folded in (weights.fold_lora)."""
    if spec.merge:
        models = (_merged_model(spec.merge.a, registry), _merged_model(spec.merge.b, registry))
        unet, other = (_load_unet(model, torch.float32, registry) for model in models)
        unet.load_state_dict(interpolate(unet.state_dict(), other.state_dict(), spec.merge.weight))
        return unet.to(dtype)
    folders = _folders(spec, registry)
    adapter = folders[0] / "unet_lora"
    if not adapter.is_dir():
        return _load_network(UNet2DConditionModel, _slot(folders, "unet", "unet_ema"), dtype)
    unet = _load_network(UNet2DConditionModel, _slot(folders, "unet", "unet_ema"), torch.float32)
    unet.load_state_dict(fold_lora(unet.state_dict(), *load_adapter(adapter)))
    return unet.to(dtype)


def _load_vae(folder: Path, dtype: torch.dtype) -> AutoencoderKL | AutoencoderTiny:
    name = read_json(folder / "config.json").get("_class_name") if (folder / "config.json").is_file() else None
    if name not in _AUTOENCODERS:
        raise InputError(f"{folder}/config.json: _class_name is {name!r}, expected {' or '.join(_AUTOENCODERS)}")
    return _load_network(_AUTOENCODERS[name], folder, dtype)


def _load_network(kind: Any, folder: Path, dtype: torch.dtype) -> Any:
    """A diffusers network in eval mode; every parameter from the file, and every tensor of the file used."""
    with reading(folder):
        network, found = kind.from_pretrained(
            folder, torch_dtype=dtype, local_files_only=True, use_safetensors=_safetensors_only(), output_loading_info=True
        )
    _check_loaded(folder, missing=found["missing_keys"], extra=found["unexpected_keys"])
    return network.eval().requires_grad_(False)


def _load_text_encoder(folder: Path, dtype: torch.dtype) -> CLIPTextModel:
    """As `_load_network`; extra tensors are allowed: stored encoders often have a projection or position ids besides."""
    with reading(folder):
        network, found = CLIPTextModel.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=_safetensors_only(),
            ignore_mismatched_sizes=True,  # so that they are listed
            output_loading_info=True,
        )
    _check_loaded(folder, missing=found["missing_keys"], reshaped=[str(key[0]) for key in found["mismatched_keys"]])
    return network.to(dtype).eval().requires_grad_(False)


def _check_loaded(folder: Path, **wrong: Any) -> None:
    words = {"missing": "missing", "extra": "not expected", "reshaped": "of another shape"}
    if parts := [f"{len(keys)} {words[kind]} ({some(sorted(keys))})" for kind, keys in wrong.items() if keys]:
        raise IntegrityError(f"{folder}: weights do not fit config.json: {'; '.join(parts)}", "copy or download the whole model")


def _check_fit(
    folder: Path, unet: UNet2DConditionModel, vae: AutoencoderKL | AutoencoderTiny, text_encoder: CLIPTextModel
) -> None:
    if unet.config.get("time_cond_proj_dim") is not None or not isinstance(unet.config.sample_size, int):
        raise InputError(f"{folder}: its UNet takes the guidance scale as an input, or is not square: use `sampler: pipeline`")
    if unet.config.in_channels != vae.config.latent_channels:
        latents = f"UNet makes {unet.config.in_channels} latent channels, autoencoder decodes {vae.config.latent_channels}"
        raise IntegrityError(f"{folder}: parts of different models: {latents}")
    if unet.config.cross_attention_dim != text_encoder.config.hidden_size:
        widths = f"UNet reads text of width {unet.config.cross_attention_dim}, encoder writes {text_encoder.config.hidden_size}"
        raise IntegrityError(f"{folder}: parts of different models: {widths}")


def _safetensors_only() -> bool | None:
    return None if pickles_allowed() else True


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and remarks of the libraries while they load: what matters in them is an error here."""
    libraries = (diffusers.utils.logging, transformers.utils.logging)
    before = [(library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, (verbosity, bar) in zip(libraries, before, strict=True):
            library.set_verbosity(verbosity)
            if bar:
                library.enable_progress_bar()

"""A Stable Diffusion model's parts in memory, and the three things that they do."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, SchedulerMixin, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from sbv2bench import diffusion
from sbv2bench.errors import InputError, IntegrityError
from sbv2bench.samplers.base import Images, PromptBlock, Stopwatch, generators, initial_noise, to_uint8
from sbv2bench.samplers.networks import StoredModel
from sbv2bench.samplers.pipeline_parts import check_unet
from sbv2bench.samplers.placement import USUAL, Placement, place
from sbv2bench.samplers.schedulers import amended
from sbv2bench.specs import ModelSpec

if TYPE_CHECKING:
    from diffusers import ModelMixin

    from sbv2bench.registry import Registry


Denoise = Callable[[Tensor, Tensor, list[torch.Generator]], Tensor]


@dataclass(frozen=True)
class Components:
    """Loaded parts on one device. Nothing here changes after loading, so threads may share it.

    dtype: of the UNet and its inputs, and of the other parts but where a student in training lends its own UNet.
    scheduler is a template: copy it before use. resolution, width: of the images. latent_shape: [C, h, w] of one.
    """

    unet: UNet2DConditionModel
    vae: AutoencoderKL | AutoencoderTiny
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    scheduler: SchedulerMixin
    prediction_type: diffusion.PredictionType
    resolution: int
    width: int
    latent_shape: tuple[int, int, int]
    device: torch.device
    dtype: torch.dtype
    # A fast tokenizer changes its padding and truncation in place and must not be asked by two threads at once.
    tokenizer_lock: threading.Lock = field(default_factory=threading.Lock)
    placement: Placement = USUAL

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

    def sample(self, block: PromptBlock, stopwatch: Stopwatch, guided: bool, denoise: Denoise) -> Images:
        """A block's images, uint8 [block size, resolution, width, 3], each stage timed: what all of our samplers share.

        denoise(noise [B, C, h, w] float32 on the device, text states, the generators that drew the noise and may draw on)
        gives the clean latents [B, C, h, w], scaled as the UNet sees them.
        """
        with self.placement.sampling():
            with stopwatch.stage("text"):
                text = self.encode_text(block.captions, guided)
            with stopwatch.stage("denoise"):
                rngs = generators(block.noise_seeds)
                latents = denoise(initial_noise(rngs, self.latent_shape).to(self.device), text, rngs)
            with stopwatch.stage("decode"):
                return self.decode(latents)

    def decode(self, latents: Tensor) -> Images:
        """Scaled latents [B, C, h, w] -> uint8 [B, H, W, 3]. Raises IntegrityError where a pixel is not a number."""
        unscaled = latents.to(torch.float32) / self.vae.config.scaling_factor + (self.vae.config.get("shift_factor") or 0.0)
        pixels = self.vae.decode(unscaled.to(self.vae.dtype)).sample
        return to_uint8(pixels.to(torch.float32) / 2 + 0.5)

    def networks(self) -> dict[str, torch.nn.Module]:
        """What `HasNetworks.networks` gives, for the samplers that are made of these parts."""
        return {"text_encoder": self.text_encoder, "unet": self.unet, "vae": self.vae}

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


def check_guidance(spec: ModelSpec, denoiser: ModelMixin) -> None:
    """Raises InputError or IntegrityError where a network is not guided as its spec says."""
    scale, embedded = spec.guidance_scale, embeds_guidance(denoiser) and spec.guidance_argument == "guidance_scale"
    if spec.guidance == "none" and scale > spec.no_guidance:
        none = f"{spec.no_guidance:g}"
        raise InputError(
            f"{spec.id}: {spec.guidance_argument} {scale:g}, expected at most {none}: it was distilled to do without",
            f"--guidance-scale {none}",
        )
    if spec.guidance is not None and (spec.guidance == "embedded") != embedded:
        takes = "takes" if embedded else "does not take"
        raise IntegrityError(f"{spec.id}: guidance is declared {spec.guidance}, and its network {takes} the scale as an input")


def embeds_guidance(denoiser: ModelMixin) -> bool:
    """Whether a network reads the guidance scale as an input."""
    config = denoiser.config
    return config.get("time_cond_proj_dim") is not None or bool(config.get("guidance_embeds"))


def load_components(
    spec: ModelSpec,
    device: str,
    dtype: torch.dtype,
    registry: Registry | None = None,
    placement: Placement = USUAL,
) -> Components:
    """Load a model's parts, merged and folded as its spec says. registry: where a merge finds its models.

    Raises InputError (no diffusers folder, or a kind that only `sampler: pipeline` can run), PrerequisiteError (a part is
    missing), IntegrityError (broken, pickled, or not fitting each other).
    """
    stored = StoredModel.find(spec, registry, dtype)
    stored.require_pipeline()
    scheduler = amended(stored.scheduler())
    unet, vae, text_encoder, tokenizer = stored.unet(dtype), stored.vae(dtype), stored.text_encoder(dtype), stored.tokenizer()
    folder = stored.pipeline_folder()
    if unet.config.get("time_cond_proj_dim") is not None or not isinstance(unet.config.sample_size, int):
        raise InputError(f"{folder}: its UNet takes the guidance scale as an input, or is not square: use `sampler: pipeline`")
    check_unet(folder, {"unet": unet, "vae": vae, "text_encoder": text_encoder}, stored.replaced(folder))
    check_guidance(spec, unet)
    side, factor = unet.config.sample_size, 2 ** (len(vae.config.block_out_channels) - 1)
    resolution = spec.resolution or side * factor
    width = spec.width or resolution
    if resolution % factor or width % factor:
        raise InputError(
            f"{spec.id}: resolution {resolution}{f'x{width}' if width != resolution else ''} is not a multiple of {factor}, "
            "which its autoencoder needs",
            f"--resolution {nearest_size(resolution, width, factor)}",
        )
    lie = device if placement.offload == "none" else "cpu"
    components = Components(
        unet=unet.to(lie, memory_format=torch.channels_last),
        vae=vae.to(lie, memory_format=torch.channels_last),
        text_encoder=text_encoder.to(lie),
        tokenizer=tokenizer,
        scheduler=scheduler,
        prediction_type=stored.prediction_type(scheduler),
        resolution=resolution,
        width=width,
        latent_shape=(unet.config.in_channels, resolution // factor, width // factor),
        device=torch.device(device),
        dtype=dtype,
        placement=placement,
    )
    if placement:
        place(components.pipeline(scheduler), device, placement)
    return components


def nearest_size(height: int, width: int, factor: int) -> str:
    """HEIGHTxWIDTH with both sides the multiples of a factor that are closest, for advice."""
    sides = [max(1, round(side / factor)) * factor for side in (height, width)]
    return "x".join(map(str, sides))


def load_unet(spec: ModelSpec, dtype: torch.dtype, registry: Registry | None = None) -> UNet2DConditionModel:
    """A model's UNet alone, as `load_components` has it but on the CPU and not channels-last. Raises what that raises."""
    return StoredModel.find(spec, registry, dtype).unet(dtype)

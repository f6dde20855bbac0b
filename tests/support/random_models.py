"""Models of true architectures in their genuine layouts, with random weights in float16 files: Stable Diffusion, SDXL, SD3, CLIP.

They make noise, not pictures. Nothing is initialised, so that two gigabytes are written in seconds.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import open_clip
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from reference_trainer.architectures import own as architecture
from reference_trainer.rehearse.small_base import write_clip_tokenizer

SD_SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
SD21_PARAMETERS, SD15_PARAMETERS = (865_910_724, 340_387_840), (859_520_964, 123_060_480)  # of UNet and text encoder
VAE_PARAMETERS, TAESD_PARAMETERS = 83_653_863, 2_445_063
# Stable Diffusion XL base 1.0 (Podell et al. 2023, table 1): its UNet and its second text encoder, OpenCLIP's bigG.
SDXL_UNET: dict[str, Any] = {
    "sample_size": 128,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [320, 640, 1280],
    "layers_per_block": 2,
    "cross_attention_dim": 2048,
    "attention_head_dim": [5, 10, 20],
    "transformer_layers_per_block": [1, 2, 10],
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
BIG_G: dict[str, Any] = {
    "vocab_size": 49408,
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "projection_dim": 1280,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "max_position_embeddings": 77,
    "hidden_act": "gelu",
}
# Stable Diffusion 3 medium (Esser et al. 2024): depth 24, so 24 heads of 64 and a width of 1,536.
SD3_TRANSFORMER: dict[str, Any] = {
    "sample_size": 128,
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 24,
    "attention_head_dim": 64,
    "num_attention_heads": 24,
    "caption_projection_dim": 1536,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 192,
}


@cache
def noise() -> torch.Tensor:
    """Normal numbers, as many as a prime, so that the rows that they are laid into differ."""
    return torch.randn(1_000_003, generator=torch.Generator().manual_seed(0))


def weights_like(name: str, value: torch.Tensor) -> torch.Tensor:
    """Weights that keep a signal's size from layer to layer, so that a picture depends on its noise and on its caption."""
    size = value.numel()
    if not value.is_floating_point():
        return torch.arange(size).reshape(value.shape)
    if value.ndim < 2:  # a norm's weight, or a bias
        return torch.full(value.shape, 1.0 if name.endswith("weight") else 0.0, dtype=torch.float16)
    row = (noise() / value[0].numel() ** 0.5).half()
    return row.repeat(size // len(row) + 1)[:size].reshape(value.shape).clone()


def write_network(folder: Path, make: Callable[[], Any], parameters: int | None = None) -> None:
    """Write a network as float16 files of random weights; make: builds it, without memory. parameters: how many it must have."""
    with torch.device("meta"):
        network = make()
    assert parameters in (None, sum(parameter.numel() for parameter in network.parameters()))
    state = {key: weights_like(key, value) for key, value in network.state_dict().items()}
    text = "CLIPText" in type(network).__name__
    network.config.save_pretrained(folder) if text else network.save_config(folder)
    name = "model.safetensors" if text else "diffusion_pytorch_model.safetensors"
    save_file(state, folder / name, metadata={"format": "pt"})


def write_index(folder: Path, kind: str, scheduler: Any, **parts: str | None) -> None:
    """Write model_index.json and the scheduler. parts: their classes; None is one that the pipeline goes without."""
    scheduler.save_pretrained(folder / "scheduler")
    libraries = {
        name: [None, None] if cls is None else ["transformers" if "CLIP" in cls else "diffusers", cls]
        for name, cls in parts.items()
    }
    index = {"_class_name": kind, "scheduler": ["diffusers", type(scheduler).__name__], **libraries}
    (folder / "model_index.json").write_text(json.dumps(index))


def write_sd(folder: Path, version: str, **changes: dict[str, Any]) -> Path:
    """Stable Diffusion 2.1-base ("sd21-base") or 1.5 ("sd15"). changes: a part's config in place of its own."""
    unet, text = (None, None) if changes else {"sd21-base": SD21_PARAMETERS, "sd15": SD15_PARAMETERS}[version]
    configs = {part: architecture(f"{version}-{part}") for part in ("unet", "text_encoder")} | {"vae": architecture("sd-vae")}
    configs |= changes
    write_network(folder / "unet", lambda: UNet2DConditionModel.from_config(configs["unet"]), unet)
    encoder = CLIPTextConfig(**configs["text_encoder"])
    write_network(folder / "text_encoder", lambda: CLIPTextModel(encoder), text)
    write_network(folder / "vae", lambda: AutoencoderKL.from_config(configs["vae"]), None if changes else VAE_PARAMETERS)
    write_clip_tokenizer(folder / "tokenizer", padding="!")
    write_index(
        folder, "StableDiffusionPipeline", PNDMScheduler(**SD_SCHEDULE, skip_prk_steps=True, steps_offset=1),
        unet="UNet2DConditionModel", vae="AutoencoderKL", text_encoder="CLIPTextModel", tokenizer="CLIPTokenizer",
    )  # fmt: skip
    return folder


def write_taesd(folder: Path, config: dict[str, Any] | None = None) -> Path:
    """TAESD, or an AutoencoderTiny of another config."""
    own = architecture("taesd") if config is None else config
    write_network(folder, lambda: AutoencoderTiny.from_config(own), TAESD_PARAMETERS if config is None else None)
    return folder


def write_clip(folder: Path, config: dict[str, Any]) -> Path:
    """An OpenCLIP model in OpenCLIP's layout. config: embed_dim, vision_cfg and text_cfg."""
    with torch.device("meta"):
        network = open_clip.CLIP(**config)
    folder.mkdir(parents=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    state = {key: weights_like(key, value) for key, value in network.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    return folder


def write_sdxl(folder: Path) -> Path:
    """Stable Diffusion XL base."""
    write_network(folder / "unet", lambda: UNet2DConditionModel(**SDXL_UNET), 2_567_463_684)
    config = CLIPTextConfig(**architecture("sd15-text_encoder"))
    write_network(folder / "text_encoder", lambda: CLIPTextModel(config), SD15_PARAMETERS[1])
    write_network(folder / "text_encoder_2", lambda: CLIPTextModelWithProjection(CLIPTextConfig(**BIG_G)), 694_659_840)
    vae = architecture("sd-vae") | {"sample_size": 1024, "scaling_factor": 0.13025}
    write_network(folder / "vae", lambda: AutoencoderKL.from_config(vae), VAE_PARAMETERS)
    for name in ("tokenizer", "tokenizer_2"):
        write_clip_tokenizer(folder / name, padding="!")
    write_index(
        folder, "StableDiffusionXLPipeline", EulerDiscreteScheduler(**SD_SCHEDULE, timestep_spacing="leading", steps_offset=1),
        unet="UNet2DConditionModel", vae="AutoencoderKL", text_encoder="CLIPTextModel", tokenizer="CLIPTokenizer",
        text_encoder_2="CLIPTextModelWithProjection", tokenizer_2="CLIPTokenizer",
    )  # fmt: skip
    return folder


def write_sd3(folder: Path) -> Path:
    """Stable Diffusion 3 medium without its third text encoder, T5."""
    write_network(folder / "transformer", lambda: SD3Transformer2DModel(**SD3_TRANSFORMER), 2_028_328_000)
    small = CLIPTextConfig(**architecture("sd15-text_encoder") | {"projection_dim": 768})
    write_network(folder / "text_encoder", lambda: CLIPTextModelWithProjection(small))
    write_network(folder / "text_encoder_2", lambda: CLIPTextModelWithProjection(CLIPTextConfig(**BIG_G)), 694_659_840)
    vae = architecture("sd-vae") | {"latent_channels": 16, "scaling_factor": 1.5305, "shift_factor": 0.0609}
    vae |= {"sample_size": 1024, "use_quant_conv": False, "use_post_quant_conv": False}
    write_network(folder / "vae", lambda: AutoencoderKL.from_config(vae), 83_819_683)
    for name in ("tokenizer", "tokenizer_2"):
        write_clip_tokenizer(folder / name, padding="!")
    write_index(
        folder, "StableDiffusion3Pipeline", FlowMatchEulerDiscreteScheduler(shift=3.0), transformer="SD3Transformer2DModel",
        vae="AutoencoderKL", text_encoder="CLIPTextModelWithProjection", tokenizer="CLIPTokenizer",
        text_encoder_2="CLIPTextModelWithProjection", tokenizer_2="CLIPTokenizer", text_encoder_3=None, tokenizer_3=None,
    )  # fmt: skip
    return folder

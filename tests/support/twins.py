"""Tiny random pipelines of today's classes, each in the layout that its class saves: the twins of the catalog's large models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import tiny_text
import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2Transformer2DModel,
    FluxTransformer2DModel,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    PixArtTransformer2DModel,
    QwenImageTransformer2DModel,
    SanaTransformer2DModel,
    SCMScheduler,
    SD3Transformer2DModel,
    UNet2DConditionModel,
    ZImageTransformer2DModel,
)
from tiny_models import sd_scheduler, tiny_text_encoder, tiny_tokenizer, write_tiny_pipeline, write_tiny_sdxl

from sbv2bench.specs import ModelSpec

DYNAMIC = {"use_dynamic_shifting": True, "base_image_seq_len": 16, "max_image_seq_len": 256, "base_shift": 0.5, "max_shift": 1.15}
Parts = dict[str, Any]


def write_twin(name: str, folder: Path, seed: int = 0, **changes: Any) -> Path:
    """Write the pipeline folder of a twin (see TWINS); returns it. changes: parts or settings of its pipeline that are others."""
    if name in _WHOLE:
        return _WHOLE[name](folder, seed)
    kind, parts = TWINS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = parts() | changes
        for part in made.values():
            if isinstance(part, torch.nn.Module):
                _finite(part)
        pipeline: DiffusionPipeline = getattr(diffusers, kind)(**made)
    pipeline.save_pretrained(folder)
    return Path(folder)


def _finite(network: torch.nn.Module) -> None:
    """Some networks leave parameters as they find the memory, or zero, where training would begin."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "pad_token" in name or name.endswith("scale_shift_table") or not parameter.isfinite().all():
                parameter.normal_(std=0.3)


def _kl(channels: int, **changes: Any) -> AutoencoderKL:
    settings: Parts = {
        "block_out_channels": (8, 16), "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2, "layers_per_block": 1, "latent_channels": channels,
        "norm_num_groups": 4, "sample_size": 32, "scaling_factor": 0.36, "shift_factor": 0.11,
    }  # fmt: skip
    return AutoencoderKL(**settings | changes)


def _dc() -> AutoencoderDC:
    return AutoencoderDC(
        latent_channels=4, attention_head_dim=2, encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"), encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8), encoder_qkv_multiscales=((), (5,)), decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1), decoder_layers_per_block=(1, 1), downsample_block_type="conv",
        upsample_block_type="interpolate", scaling_factor=0.41,
    )  # fmt: skip


def _flux2_vae() -> AutoencoderKLFlux2:
    vae = AutoencoderKLFlux2(
        block_out_channels=(4, 8), down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1, latent_channels=2, norm_num_groups=2, sample_size=32,
    )  # fmt: skip
    vae.bn.running_mean.normal_(std=0.1)
    return vae


def _sd3() -> Parts:
    (clip_1, tokenizer_1), (clip_2, tokenizer_2), (third, tokenizer_3) = (
        tiny_text.clip(),
        tiny_text.clip(),
        tiny_text.t5(width=32),
    )
    return {
        "transformer": SD3Transformer2DModel(
            sample_size=16, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8,
            num_attention_heads=2, caption_projection_dim=16, joint_attention_dim=32, pooled_projection_dim=32,
            pos_embed_max_size=32,
        ),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0), "vae": _kl(4),
        "text_encoder": clip_1, "tokenizer": tokenizer_1, "text_encoder_2": clip_2, "tokenizer_2": tokenizer_2,
        "text_encoder_3": third, "tokenizer_3": tokenizer_3,
    }  # fmt: skip


def _pixart() -> Parts:
    encoder, tokenizer = tiny_text.t5(300)
    return {
        "transformer": PixArtTransformer2DModel(
            num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=1, cross_attention_dim=16,
            sample_size=16, caption_channels=tiny_text.WIDTH, use_additional_conditions=False,
        ),
        "vae": _kl(4, shift_factor=None), "text_encoder": encoder, "tokenizer": tokenizer,
        "scheduler": sd_scheduler("epsilon", DPMSolverMultistepScheduler),
    }  # fmt: skip


def _sana(**changes: Any) -> Parts:
    encoder, tokenizer = tiny_text.gemma2()
    return {
        "transformer": SanaTransformer2DModel(
            in_channels=4, out_channels=4, num_layers=1, num_attention_heads=2, attention_head_dim=8,
            num_cross_attention_heads=2, cross_attention_head_dim=8, cross_attention_dim=16, caption_channels=tiny_text.WIDTH,
            sample_size=16, **changes,
        ),
        "vae": _dc(), "text_encoder": encoder, "tokenizer": tokenizer,
        "scheduler": DPMSolverMultistepScheduler(use_flow_sigmas=True, flow_shift=3.0, prediction_type="flow_prediction"),
    }  # fmt: skip


def _sprint() -> Parts:
    return _sana(guidance_embeds=True, qk_norm="rms_norm_across_heads") | {"scheduler": SCMScheduler()}


def _flux(**changes: Any) -> Parts:
    encoder, tokenizer = tiny_text.t5()
    return {
        "transformer": FluxTransformer2DModel(
            in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=tiny_text.WIDTH, pooled_projection_dim=16, axes_dims_rope=(4, 4, 8), **changes,
        ),
        "scheduler": FlowMatchEulerDiscreteScheduler(), "vae": _kl(4), "text_encoder": tiny_text_encoder(),
        "tokenizer": tiny_tokenizer(), "text_encoder_2": encoder, "tokenizer_2": tokenizer,
    }  # fmt: skip


def _flux_dev() -> Parts:
    return _flux(guidance_embeds=True) | {"scheduler": FlowMatchEulerDiscreteScheduler(**DYNAMIC)}


def _flux2_transformer(*, guidance_embeds: bool) -> Flux2Transformer2DModel:
    return Flux2Transformer2DModel(
        in_channels=8, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=3 * tiny_text.WIDTH, timestep_guidance_channels=32, axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=guidance_embeds,
    )  # fmt: skip


def _flux2() -> Parts:
    encoder, processor = tiny_text.mistral3()
    return {
        "transformer": _flux2_transformer(guidance_embeds=True), "vae": _flux2_vae(), "text_encoder": encoder,
        "tokenizer": processor, "scheduler": FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
    }  # fmt: skip


def _klein(**changes: Any) -> Parts:
    encoder, tokenizer = tiny_text.qwen3(28, causal=True)
    return {
        "transformer": _flux2_transformer(guidance_embeds=False), "vae": _flux2_vae(), "text_encoder": encoder,
        "tokenizer": tokenizer, "scheduler": FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), **changes,
    }  # fmt: skip


def _qwen() -> Parts:
    encoder, tokenizer = tiny_text.qwen25_vl()
    return {
        "transformer": QwenImageTransformer2DModel(
            in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=tiny_text.WIDTH, axes_dims_rope=(8, 4, 4),
        ),
        "vae": AutoencoderKLQwenImage(
            base_dim=8, z_dim=4, dim_mult=[1, 2], num_res_blocks=1, temperal_downsample=[False], latents_mean=[0.1] * 4,
            latents_std=[1.2] * 4,
        ),
        "text_encoder": encoder, "tokenizer": tokenizer,
        "scheduler": FlowMatchEulerDiscreteScheduler(**DYNAMIC, shift_terminal=0.02),
    }  # fmt: skip


def _z_image() -> Parts:
    encoder, tokenizer = tiny_text.qwen3()
    return {
        "transformer": ZImageTransformer2DModel(
            in_channels=4, dim=32, n_layers=1, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=tiny_text.WIDTH,
            axes_dims=[8, 4, 4], axes_lens=[512, 32, 32],
        ),
        "vae": _kl(4), "text_encoder": encoder, "tokenizer": tokenizer, "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0),
    }  # fmt: skip


def _lcm(folder: Path, seed: int = 0) -> Path:
    """SD's, with a UNet that reads the guidance scale."""
    write_tiny_pipeline(folder, "epsilon", 4, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder / "unet"), time_cond_proj_dim=16)
    parts = DiffusionPipeline.from_pretrained(folder).components
    parts |= {"unet": unet, "scheduler": sd_scheduler("epsilon", LCMScheduler)}
    LatentConsistencyModelPipeline(**parts, requires_safety_checker=False).save_pretrained(folder)
    return folder


# How each twin is asked, beside 2 steps at 32 x 32 px and guidance 3. Binning takes the sizes of real models alone.
_BINNED = {"use_resolution_binning": False}
_SANA = {**_BINNED, "complex_human_instruction": None}
SETTINGS: dict[str, dict[str, Any]] = {
    "lcm": {"guidance": "embedded"},
    "pixart-sigma": {"arguments": {**_BINNED, "clean_caption": False}},
    "sana": {"arguments": _SANA},
    "sana-sprint": {"arguments": _SANA, "guidance": "embedded"},
    "flux-schnell": {"guidance_scale": 1.0, "guidance": "none"},
    "flux-dev": {"guidance": "embedded"},
    "flux2": {"guidance": "embedded", "max_sequence_length": 64},
    "flux2-klein": {"guidance_scale": 1.0, "guidance": "none", "max_sequence_length": 64},
    "flux2-klein-base": {"max_sequence_length": 64},
    "qwen-image": {"guidance_argument": "true_cfg_scale", "negative_prompt": "blue"},
    "z-image": {"no_guidance": 0.0},
}
_WHOLE: dict[str, Callable[[Path, int], Path]] = {
    "sd": lambda folder, seed: write_tiny_pipeline(folder, "epsilon", 4, seed),
    "sdxl": write_tiny_sdxl,
    "lcm": _lcm,
}
TWINS: dict[str, tuple[str, Callable[[], Parts]]] = {
    "sd3": ("StableDiffusion3Pipeline", _sd3),
    "pixart-sigma": ("PixArtSigmaPipeline", _pixart),
    "sana": ("SanaPipeline", _sana),
    "sana-sprint": ("SanaSprintPipeline", _sprint),
    "flux-schnell": ("FluxPipeline", _flux),
    "flux-dev": ("FluxPipeline", _flux_dev),
    "flux2": ("Flux2Pipeline", _flux2),
    "flux2-klein": ("Flux2KleinPipeline", lambda: _klein(is_distilled=True)),
    "flux2-klein-base": ("Flux2KleinPipeline", _klein),
    "qwen-image": ("QwenImagePipeline", _qwen),
    "z-image": ("ZImagePipeline", _z_image),
}
NAMES = (*_WHOLE, *TWINS)


def twin_spec(name: str, folder: Path, **fields: Any) -> ModelSpec:
    """How a twin is sampled. fields: of the spec, in place of the twin's own."""
    own: dict[str, Any] = {"steps": 2, "guidance_scale": 3.0, "resolution": 32} | SETTINGS.get(name, {}) | fields
    return ModelSpec(id=f"local/{name}", sampler="pipeline", location=str(folder), **own)

"""A tiny pipeline written as one file, under the names that latent diffusion's own code gives weights (Stable Diffusion 1)."""

from __future__ import annotations

from typing import Any

from diffusers import StableDiffusionPipeline
from torch import Tensor

_RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection",
}  # fmt: skip
_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def state_dict(pipeline: StableDiffusionPipeline) -> dict[str, Tensor]:
    """The weights of all three networks by latent diffusion's names."""
    unet = {f"model.diffusion_model.{_unet(key, pipeline.unet.config)}": v for key, v in pipeline.unet.state_dict().items()}
    vae = {f"first_stage_model.{_vae(key, pipeline.vae.config)}": _conv(key, v) for key, v in pipeline.vae.state_dict().items()}
    text = {_text(key): value for key, value in pipeline.text_encoder.state_dict().items()}
    return {key: value.contiguous() for key, value in (unet | vae | text).items()}


def _text(key: str) -> str:
    return f"cond_stage_model.transformer.text_model.{key.removeprefix('text_model.')}"


def _conv(key: str, value: Tensor) -> Tensor:
    """Attention of the autoencoder was made of 1 x 1 convolutions."""
    linear = ".attentions." in key and key.endswith("weight") and value.ndim == 2
    return value[:, :, None, None] if linear else value


def _renamed(rest: str, names: dict[str, str]) -> str:
    for new, old in names.items():
        if rest.startswith(f"{new}."):
            return old + rest[len(new) :]
    return rest


def _unet(key: str, config: Any) -> str:
    layers, levels = config.layers_per_block, len(config.block_out_channels)
    top = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
           "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"}  # fmt: skip
    if (found := _renamed(key, top)) != key:
        return found
    part, *words = key.split(".")
    if part == "mid_block":
        kind, number, *rest = words
        place = f"middle_block.{1 if kind == 'attentions' else 2 * int(number)}"
    else:
        level, kind, number, *rest = words
        up = part == "up_blocks"
        assert int(level) < levels
        if kind in {"resnets", "attentions"}:
            row = int(level) * (layers + 1) + int(number) + (0 if up else 1)
            place = f"{'output' if up else 'input'}_blocks.{row}.{int(kind == 'attentions')}"
        elif kind == "downsamplers":
            return f"input_blocks.{(int(level) + 1) * (layers + 1)}.0.op.{rest[-1]}"
        else:
            attends = "CrossAttn" in config.up_block_types[int(level)]
            return f"output_blocks.{int(level) * (layers + 1) + layers}.{2 if attends else 1}.conv.{rest[-1]}"
    return f"{place}.{_renamed('.'.join(rest), _RESNET if kind == 'resnets' else {})}"


def _vae(key: str, config: Any) -> str:
    levels = len(config.block_out_channels)
    if key.startswith(("quant_conv", "post_quant_conv")):
        return key
    side, part, *words = key.split(".")
    if part == "conv_norm_out":
        return f"{side}.norm_out.{words[-1]}"
    if part in {"conv_in", "conv_out"}:
        return key
    if part == "mid_block":
        kind, number, *rest = words
        if kind == "resnets":
            return f"{side}.mid.block_{int(number) + 1}.{_shortcut('.'.join(rest))}"
        return f"{side}.mid.attn_1.{_renamed('.'.join(rest), _ATTENTION)}"
    level, kind, number, *rest = words
    place = f"{side}.down.{level}" if part == "down_blocks" else f"{side}.up.{levels - 1 - int(level)}"
    if kind == "resnets":
        return f"{place}.block.{number}.{_shortcut('.'.join(rest))}"
    return f"{place}.{'downsample' if part == 'down_blocks' else 'upsample'}.{'.'.join(rest)}"


def _shortcut(rest: str) -> str:
    return rest.replace("conv_shortcut", "nin_shortcut")

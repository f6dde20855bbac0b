"""True configs with their widths and depths cut by one factor; what is a count of something else stays as it is.

Widths are channels, hidden sizes and the sizes of single heads; depths are layers. The numbers of blocks, of heads where
they still fit, of tokens and of latent channels are not touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd
from typing import Any

FACTOR = 16
LATENT_SIDE = 16
Config = dict[str, Any]


def cut_unet(config: Config, text_width: int) -> Config:
    """A UNet2DConditionModel's config for latents of 16 x 16. text_width: of the states that it will read."""
    widths = _widths(config["block_out_channels"])
    heads = config.get("num_attention_heads") or config.get("attention_head_dim") or 8  # diffusers' name for a number of heads
    return config | {
        "sample_size": LATENT_SIDE,
        "block_out_channels": widths,
        "layers_per_block": _each(config.get("layers_per_block", 2), cut),
        "norm_num_groups": _groups(config.get("norm_num_groups") or 32, widths),
        "cross_attention_dim": text_width,
        "attention_head_dim": _each(heads, lambda number: min(number, *widths)),
    }


def cut_text_encoder(config: Config) -> Config:
    """A CLIPTextConfig; vocabulary and length are the tokenizer's."""
    heads = config["num_attention_heads"]
    width = cut(config["hidden_size"])
    return config | {
        "hidden_size": width,
        "intermediate_size": cut(config["intermediate_size"]),
        "projection_dim": cut(config.get("projection_dim") or config["hidden_size"]),
        "num_hidden_layers": cut(config["num_hidden_layers"]),
        "num_attention_heads": gcd(heads, width),
    }


def cut_autoencoder(config: Config) -> Config:
    """An AutoencoderKL's or an AutoencoderTiny's config."""
    if config.get("_class_name") == "AutoencoderTiny":
        names = ("encoder_block_out_channels", "decoder_block_out_channels", "num_encoder_blocks", "num_decoder_blocks")
        return config | {name: [cut(value) for value in config[name]] for name in names}
    widths = _widths(config["block_out_channels"])
    return config | {
        "sample_size": LATENT_SIDE * 2 ** (len(widths) - 1),
        "block_out_channels": widths,
        "layers_per_block": cut(config.get("layers_per_block", 1)),
        "norm_num_groups": _groups(config.get("norm_num_groups") or 32, widths),
    }


def cut_scorer(config: Config) -> Config:
    """The arguments of open_clip.CLIP: embed_dim, vision_cfg, text_cfg. Patches and the size of pictures stay."""
    vision, text = config["vision_cfg"], config["text_cfg"]
    head = cut(vision.get("head_width", 64))
    width = head * (vision["width"] // vision.get("head_width", 64))
    return config | {
        "embed_dim": cut(config["embed_dim"]),
        "vision_cfg": vision | {"width": width, "layers": cut(vision["layers"]), "head_width": head},
        "text_cfg": text | {"width": cut(text["width"]), "layers": cut(text["layers"])},
    }


def cut(size: int) -> int:
    """A width or a depth, divided by the factor and rounded up."""
    return -(-size // FACTOR)


def _widths(channels: Sequence[int]) -> list[int]:
    """Widths in even numbers, so that a group norm has two groups at least."""
    return [cut(width) + cut(width) % 2 for width in channels]


def _groups(groups: int, widths: Sequence[int]) -> int:
    return gcd(max(2, groups // FACTOR), *widths)


def _each(value: Any, change: Any) -> Any:
    return [change(part) for part in value] if isinstance(value, list | tuple) else change(value)

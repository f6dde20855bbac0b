"""Arithmetic of a model's stages, counted from its configs: the networks are built without weights and run without numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sbv2bench.data.chain import chain, part_config
from sbv2bench.data.hub import nothing_fetched
from sbv2bench.errors import SBV2BenchError
from sbv2bench.registry import Registry
from sbv2bench.specs import ModelSpec


def stage_gflop(spec: ModelSpec, registry: Registry) -> dict[str, float]:
    """GFLOP of one image at batch 1, a multiply and an add being two: "text", "denoise" (one call of the UNet), "decode".

    Empty where the configs are not on this machine or are not those of a Stable Diffusion 1 or 2: nothing is made up. No
    file of weights is opened.
    """
    merge = spec.merge
    own = spec if merge is None or spec.location else registry.model(merge.a)
    try:
        with nothing_fetched():
            links = chain(own)
    except SBV2BenchError:
        return {}
    configs = [part_config(links, name) for name in ("unet", "text_encoder", "vae")]
    if None in configs:
        return {}
    unet, text, vae = (config.parent for config in configs if config is not None)
    try:
        return _counted(unet, text, vae, None if spec.resolution is None else (spec.resolution, spec.width or spec.resolution))
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError):  # another architecture
        return {}


def _counted(unet_folder: Path, text_folder: Path, vae_folder: Path, size: tuple[int, int] | None) -> dict[str, float]:
    import torch
    from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        unet_config: dict[str, object] = UNet2DConditionModel.load_config(unet_folder)
        if unet_config.get("addition_embed_type"):
            return {}
        unet = UNet2DConditionModel.from_config(unet_config)
        text = CLIPTextModel(CLIPTextConfig.from_pretrained(text_folder))
        vae_config: dict[str, object] = AutoencoderKL.load_config(vae_folder)
        kind = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny}.get(str(vae_config.get("_class_name")))
        if kind is None:
            return {}
        vae = kind.from_config(vae_config)
        factor = 2 ** (len(vae.config.block_out_channels) - 1)
        sides = [unet.config.sample_size] * 2 if size is None else [side // factor for side in size]
        latents = torch.empty(1, unet.config.in_channels, *sides)
        length = text.config.max_position_embeddings
        states = torch.empty(1, length, unet.config.cross_attention_dim)
        return {
            "text": _gflop(lambda: text(torch.zeros(1, length, dtype=torch.long))),
            "denoise": _gflop(lambda: unet(latents, torch.zeros(1), states)),
            "decode": _gflop(lambda: vae.decode(latents)),
        }


def _gflop(run: Callable[[], object]) -> float:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops()) / 1e9

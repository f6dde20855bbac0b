"""A UNet deepened without changing what it computes, so that training goes on where the shallower one stopped."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, TypeAlias

import torch
from diffusers import UNet2DConditionModel
from torch import nn

if TYPE_CHECKING:
    from diffusers.models.resnet import ResnetBlock2D
    from diffusers.models.unets.unet_2d_blocks import CrossAttnDownBlock2D, CrossAttnUpBlock2D, DownBlock2D, UpBlock2D

    Block: TypeAlias = CrossAttnDownBlock2D | DownBlock2D | CrossAttnUpBlock2D | UpBlock2D


def deepen(shallow: UNet2DConditionModel, deep: UNet2DConditionModel) -> None:
    """Give `deep`, the same UNet with more layers per block, weights with which it computes what `shallow` does.

    Its own layers keep their random first halves and get zeros for last ones: a residual block and a transformer then add
    nothing, but learn from the first step (as ControlNet's zero convolutions do, arXiv 2302.05543). On the way up a new
    block takes the skip of a new block on the way down, which carries what the one before it does. Raises ValueError where
    the two differ in more than that, or `deep` is the shallower one.
    """
    old, new = json.loads(shallow.to_json_string()), json.loads(deep.to_json_string())  # a stored one has lists for tuples
    more = int(new["layers_per_block"]) - int(old["layers_per_block"])
    differing = sorted(key for key in old if not key.startswith("_") and old[key] != new[key] and key != "layers_per_block")
    if more < 0 or differing:
        raise ValueError(f"deepen: found {differing or 'fewer layers'}, expected the same UNet with as many layers or more")
    for name in ("conv_in", "time_embedding", "mid_block", "conv_norm_out", "conv_out"):
        _copy(getattr(shallow, name), getattr(deep, name))
    for source, target in zip(shallow.down_blocks, deep.down_blocks, strict=True):
        last = len(source.resnets)
        _copy_block(source, target, [i if i < last else None for i in range(len(target.resnets))], "downsamplers")
    for source, target in zip(shallow.up_blocks, deep.up_blocks, strict=True):
        _copy_block(source, target, [0, *[None] * more, *range(1, len(source.resnets))], "upsamplers")


def _copy_block(source: Block, target: Block, origins: list[int | None], sampler: str) -> None:
    """origins: for each layer of target the layer of source that it is, None for a new one."""
    for index, origin in enumerate(origins):
        attention = getattr(target, "attentions", None)
        if origin is None:
            _silence_resnet(target.resnets[index])
            if attention is not None:
                _zero(attention[index].proj_out)
            continue
        _copy(source.resnets[origin], target.resnets[index])
        if attention is not None:
            _copy(source.attentions[origin], attention[index])
    if getattr(target, sampler) is not None:
        _copy(getattr(source, sampler), getattr(target, sampler))


def _silence_resnet(resnet: ResnetBlock2D) -> None:
    """Make a residual block pass on its input, or of an input with a skip beside it the part before the skip."""
    _zero(resnet.conv2)
    if resnet.conv_shortcut is not None:
        _zero(resnet.conv_shortcut)
        with torch.no_grad():
            channels = torch.arange(resnet.out_channels)
            resnet.conv_shortcut.weight[channels, channels] = 1.0


def _zero(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


def _copy(source: nn.Module, target: nn.Module) -> None:
    target.load_state_dict(source.state_dict())

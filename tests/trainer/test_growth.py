"""A deepened UNet computes what the shallower one does, and learns with its new layers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel

from reference_trainer.base_models.growth import deepen

INPUTS = (torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([3, 900]))
STATES = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(1))


def unet(layers: int, width: int = 16, seed: int = 0) -> UNet2DConditionModel:
    torch.manual_seed(seed)
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(width, 2 * width),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=layers,
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=8,
    )


@pytest.mark.parametrize(("before", "after"), [(1, 1), (1, 2), (1, 3), (2, 3)])
def test_it_computes_the_same(before: int, after: int, tmp_path: Path) -> None:
    unet(before).save_pretrained(tmp_path)
    shallow, deep = UNet2DConditionModel.from_pretrained(tmp_path), unet(after, seed=1)
    deepen(shallow, deep)
    with torch.no_grad():
        expected, found = (network(*INPUTS, encoder_hidden_states=STATES).sample for network in (shallow, deep))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_new_layers_learn_from_the_first_step() -> None:
    deep = unet(2, seed=1)
    deepen(unet(1), deep)
    deep(*INPUTS, encoder_hidden_states=STATES).sample.square().mean().backward()
    assert all(
        float(layer.weight.grad.abs().max()) > 0
        for block in (*deep.down_blocks, *deep.up_blocks)
        for layer in [resnet.conv2 for resnet in block.resnets]
        + [attention.proj_out for attention in getattr(block, "attentions", [])]
    )


def test_another_network_is_refused() -> None:
    with pytest.raises(ValueError, match="block_out_channels"):
        deepen(unet(1), unet(2, width=24))
    with pytest.raises(ValueError, match="fewer layers"):
        deepen(unet(2), unet(1))

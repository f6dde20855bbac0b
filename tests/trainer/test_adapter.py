"""A LoRA in its two forms: the same predictions and gradients, and a network that is afterwards what it was."""

from __future__ import annotations

import pytest
import torch
from diffusers import UNet2DConditionModel
from tiny_models import tiny_unet

from reference_trainer.adapter import Adapter
from reference_trainer.config import Lora
from reference_trainer.trainable import prepare, trainable

NAME = "student"
EVERYWHERE = Lora(rank=3, alpha=6, targets=("to_q", "to_out.0", "proj_in", "conv1", "conv_shortcut", "conv_in", "time_emb_proj"))


@pytest.fixture
def unet() -> UNet2DConditionModel:
    """With an adapter that is not nothing."""
    torch.manual_seed(0)
    unet = tiny_unet()
    prepare(unet, EVERYWHERE, NAME)
    with torch.no_grad():
        for parameter in trainable(unet).values():
            parameter.normal_(0, 0.1)
    return unet


def predicted(unet: UNet2DConditionModel) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    config = unet.config
    x = torch.randn(2, config.in_channels, config.sample_size, config.sample_size, generator=generator)
    text = torch.randn(2, 5, config.cross_attention_dim, generator=generator)
    output: torch.Tensor = unet(x, torch.tensor([3, 700]), encoder_hidden_states=text).sample
    return output


def test_both_forms_predict_and_learn_the_same(unet: UNet2DConditionModel) -> None:
    found = []
    for half in (True, False):
        adapter = Adapter(unet, NAME, half=half)
        assert adapter.merged is not half
        with adapter.on():
            output = predicted(unet)
        output.square().mean().backward()
        found.append((output.detach(), {name: p.grad.clone() for name, p in trainable(unet).items()}))
        unet.zero_grad()
    (output, gradients), (merged, others) = found
    assert torch.allclose(output, merged, atol=1e-5) and not torch.equal(output, merged)
    assert gradients.keys() == others.keys() and all(gradient.any() for gradient in gradients.values())
    for name, gradient in gradients.items():
        assert torch.allclose(gradient, others[name], atol=1e-6, rtol=1e-4), name


@pytest.mark.parametrize("half", [True, False])
def test_off_is_the_network_without_it_and_on_leaves_no_trace(unet: UNet2DConditionModel, half: bool) -> None:
    adapter = Adapter(unet, NAME, half=half)
    unet.disable_adapters()
    bare = predicted(unet)
    unet.enable_adapters()
    names = [name for name, _ in unet.named_parameters()]
    adapter.off()
    assert torch.equal(predicted(unet), bare)
    with pytest.raises(KeyboardInterrupt), adapter.on():
        assert not torch.allclose(predicted(unet), bare, atol=1e-3)
        raise KeyboardInterrupt
    assert torch.equal(predicted(unet), bare)
    assert [name for name, _ in unet.named_parameters()] == names
    assert not any(parameter.grad is not None for parameter in unet.parameters())


def test_a_large_network_is_not_held_twice(unet: UNet2DConditionModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reference_trainer.adapter.SMALL", 1000)
    assert not Adapter(unet, NAME, half=False).merged

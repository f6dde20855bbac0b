"""What of a UNet is trained, and in what precision its last layer is computed."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig
from torch import Tensor, nn

from reference_trainer.config import Lora
from sbv2bench.errors import InputError


def prepare(unet: UNet2DConditionModel, lora: Lora | None, name: str) -> None:
    """Make a UNet trainable: all of it, or an adapter that starts as nothing (B = 0). Raises InputError for unknown targets."""
    if lora is None:
        unet.requires_grad_(True)
        return
    unet.requires_grad_(False)
    known = [module for module, layer in unet.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    lost = [target for target in lora.targets if not any(module == target or module.endswith(f".{target}") for module in known)]
    if lost:
        endings = sorted({module.rpartition(".")[2] if not module[-1].isdigit() else module for module in known})[:12]
        raise InputError(
            f"{name}.lora.targets: the UNet has no layer {lost[0]!r}, expected ends of names such as {', '.join(endings)}"
        )
    unet.add_adapter(LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=list(lora.targets), bias="none"), name)
    for parameter in unet.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()  # half-precision weights would swallow small updates


def alike(own: Tensor, held: Tensor) -> bool:
    """Whether a float32 tensor rounds to the held one, but for the last place of half precision: float16 files, bfloat16 nets."""
    if own.shape != held.shape:
        return False
    if not held.is_floating_point():
        return torch.equal(own.to(held.dtype), held)
    return torch.allclose(own.to(held.dtype).float(), held.float(), rtol=2**-7, atol=1e-3)


def trainable(unet: nn.Module) -> dict[str, nn.Parameter]:
    """Name -> parameter of what takes a gradient."""
    return {name: parameter for name, parameter in unet.named_parameters() if parameter.requires_grad}


def last_layer_in_float32(unet: UNet2DConditionModel) -> None:
    """The one-step formula multiplies rounding errors of the output by up to 1 / alpha_T = 14.65, so it is not rounded.

    In bfloat16 the last layer alone would add noise of rms 0.024 to latents of deviation about 1.
    """
    layer = unet.conv_out
    layer.float()
    forward = layer.forward

    def in_float32(x: Tensor) -> Tensor:
        with nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False):
            output: Tensor = forward(x.float())
        return output

    layer.forward = in_float32

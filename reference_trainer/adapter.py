"""A LoRA in training, switched without a walk over the network, and computed in the cheaper of its two forms."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers import UNet2DConditionModel
from peft.tuners.lora import LoraLayer

SMALL = 2**24  # weights below an adapter of which a second copy and its gradient are no matter


class Adapter:
    """One adapter of a UNet: `on` computes with it, `off` makes the network what it was without it.

    Layer by layer it is W x + (alpha / rank) B A x, two more products each time. Merged it is (W + (alpha / rank) B A) x: one
    sum of weights for a whole batch, the same to rounding, and the gradient of A and B comes through it.
    """

    def __init__(self, unet: UNet2DConditionModel, name: str, *, half: bool) -> None:
        """half: whether weights or passes are, or are computed again in the backward pass: then layer by layer.

        Half precision would round small updates away, and what is computed again must find the sum still in its place. On the
        meta device, which counts what one sample takes, a sum for a whole batch would be counted as that sample's.
        """
        layers = [module for module in unet.modules() if isinstance(module, LoraLayer)]
        self._layers = [(layer, layer.lora_A[name], layer.lora_B[name], layer.scaling[name]) for layer in layers]
        weights = [layer.base_layer.weight for layer, *_ in self._layers]
        self.merged = not half and sum(weight.numel() for weight in weights) <= SMALL and not any(w.is_meta for w in weights)

    def off(self) -> None:
        """Until `on`. Not by peft's switch, which also freezes the adapter, so that a graph that waits gets no gradient."""
        for layer, *_ in self._layers:
            layer._disable_adapters = True

    @contextmanager
    def on(self) -> Iterator[None]:
        """For a forward pass, and layer by layer for the backward pass too where that computes layers again."""
        before = [(layer._disable_adapters, layer.base_layer.weight) for layer, *_ in self._layers]
        for layer, a, b, scale in self._layers:
            layer._disable_adapters = self.merged
            if self.merged:  # in the dictionary, whose order names the weights of a checkpoint
                weight = layer.base_layer.weight
                product = b.weight.flatten(1) @ a.weight.flatten(1)
                layer.base_layer._parameters["weight"] = torch.add(weight, product.view_as(weight), alpha=scale)
        try:
            yield
        finally:
            for (layer, *_), (disabled, weight) in zip(self._layers, before, strict=True):
                layer._disable_adapters = disabled
                layer.base_layer._parameters["weight"] = weight

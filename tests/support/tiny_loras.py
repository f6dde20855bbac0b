"""Random LoRAs of tiny networks, in the layouts in which trainers write them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import peft
import torch
from peft.utils import get_peft_model_state_dict

State = dict[str, torch.Tensor]
RANK = 3
TEXT_LAYERS = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]


def random_lora(network: torch.nn.Module, seed: int = 0, targets: Any = "all-linear") -> State:
    """A random adapter of rank 3 by the layers' own names, `LAYER.lora_A.weight` and `LAYER.lora_B.weight`."""
    config = peft.LoraConfig(r=RANK, target_modules=targets, init_lora_weights=False)
    state = get_peft_model_state_dict(peft.get_peft_model(copy.deepcopy(network), config))
    random = torch.Generator().manual_seed(seed)
    return {
        key.removeprefix("base_model.model."): 0.3 * torch.randn(value.shape, generator=random)
        for key, value in sorted(state.items())
    }


def folded(weights: Mapping[str, torch.Tensor], lora: State, scale: float, alphas: Mapping[str, float]) -> State:
    """The weights that a random adapter changes, with it. alphas: by layer; without one it is the rank."""
    layers = [key.removesuffix(".lora_A.weight") for key in lora if key.endswith("lora_A.weight")]
    found = {}
    for layer in layers:
        a, b = lora[f"{layer}.lora_A.weight"], lora[f"{layer}.lora_B.weight"]
        found[f"{layer}.weight"] = weights[f"{layer}.weight"] + scale * alphas.get(layer, RANK) / RANK * b @ a
    return found


def under(head: str) -> Callable[[State], State]:
    """Behind the name of a part, or of somebody's wrapper."""
    return lambda state: {f"{head}.{key}": value for key, value in state.items()}


def old_diffusers(state: State) -> State:
    """diffusers' own layout before peft's names."""
    return {key.replace("lora_A", "lora.down").replace("lora_B", "lora.up"): value for key, value in state.items()}


def alphas_of(state: State, *, equal: bool = False) -> dict[str, float]:
    """Layer -> an alpha that is not its rank, others for some; equal: the same for all."""
    layers = [key.removesuffix(".lora_A.weight") for key in state if "lora_A" in key]
    return {layer: 1.5 + (0 if equal else number % 3) for number, layer in enumerate(layers)}


def with_alphas(state: State, *, equal: bool = False) -> State:
    """lora_down, lora_up and alphas, as the Lightning LoRAs of Qwen-Image are written."""
    renamed = {key.replace("lora_A", "lora_down").replace("lora_B", "lora_up"): value for key, value in state.items()}
    return renamed | {f"{layer}.alpha": torch.tensor(alpha) for layer, alpha in alphas_of(state, equal=equal).items()}


def kohya(state: State, head: str = "lora_unet", *, equal: bool = False) -> State:
    """kohya-ss's layout: a layer's name in one word, with an alpha."""
    found = {}
    for key, value in with_alphas(state, equal=equal).items():
        layer, dot, rest = key.partition(".alpha" if key.endswith(".alpha") else ".lora_")
        found[f"{head}_{layer.replace('.', '_')}{dot}{rest}"] = value
    return found


def of_the_adapters_name(state: State) -> State:
    """With the name that peft gives an adapter while it trains."""
    return {key.replace(".weight", ".default.weight"): value for key, value in state.items()}

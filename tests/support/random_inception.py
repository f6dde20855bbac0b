"""A random FID Inception in pytorch-fid's layout of names, with features of the size that trained ones have."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from sbv2bench.features.inception import fid_inception

State = dict[str, torch.Tensor]


def random_state(seed: int = 0) -> State:
    """Every tensor of the state dict, batch statistics and counters too. As initialised by torch, activations would vanish
    on the way and any two implementations would agree on zeros."""
    generator = torch.Generator().manual_seed(seed)
    state: State = {}
    with torch.device("meta"):
        shapes = fid_inception().state_dict()
    for name, value in shapes.items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(0)
        elif value.ndim == 4:
            state[name] = torch.randn(value.shape, generator=generator) * (2 / value[0].numel()) ** 0.5
        elif name.endswith(("running_var", "bn.weight")):
            state[name] = 0.8 + 0.4 * torch.rand(value.shape, generator=generator)
        else:
            state[name] = 0.1 * torch.randn(value.shape, generator=generator)
    return state


def write_random_inception(path: Path, seed: int = 0) -> State:
    """Write `random_state` as safetensors to path, else as the pickle that everybody downloads is; returns it."""
    state = random_state(seed)
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return state

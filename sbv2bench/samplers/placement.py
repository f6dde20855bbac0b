"""Where a model's parts lie while it samples, and how its autoencoder decodes: what decides how much memory a run takes."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

Offload = Literal["none", "model", "sequential"]
OFFLOADS: tuple[Offload, ...] = ("none", "model", "sequential")  # from much memory to little


@dataclass(frozen=True)
class Placement:
    """offload: none, every part on the device; model, the part that is at work; sequential, the layer that is at work.

    vae_slicing: images are decoded one by one. vae_tiling: each in overlapping tiles, which changes pixels.
    """

    offload: Offload = "none"
    vae_slicing: bool = False
    vae_tiling: bool = False

    def sampling(self) -> AbstractContextManager[object]:
        """No gradients while it samples; weights that move do so as in diffusers, since those of inference mode stay in it."""
        import torch

        return torch.inference_mode() if self.offload == "none" else torch.no_grad()

    def __bool__(self) -> bool:
        """Whether anything is other than usual."""
        return self != USUAL


USUAL = Placement()


def place(pipeline: DiffusionPipeline, device: str, placement: Placement) -> None:
    """Put a pipeline's parts where they are to lie, by diffusers' own means. The parts come from the CPU."""
    if placement.offload == "model":
        pipeline.enable_model_cpu_offload(device=device)
    elif placement.offload == "sequential":
        pipeline.enable_sequential_cpu_offload(device=device)
    else:
        pipeline.to(device)
    vae = getattr(pipeline, "vae", None)
    for wanted, name in ((placement.vae_slicing, "enable_slicing"), (placement.vae_tiling, "enable_tiling")):
        if wanted and hasattr(vae, name):
            getattr(vae, name)()

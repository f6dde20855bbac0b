"""How much memory a recipe's step really takes on this machine, beside what `show` predicts."""

from __future__ import annotations

import sys
from typing import Any

import torch
from accelerate import Accelerator

from reference_trainer.config import Recipe
from reference_trainer.networks import Networks
from reference_trainer.pairs import Pairs
from reference_trainer.prompts import PromptSource
from reference_trainer.show import describe
from reference_trainer.step import Trainer
from sbv2bench.registry import Registry

STEPS = 2  # the optimisers' moments are there from the second on


def probe_memory(recipe: Recipe, device: str = "auto") -> dict[str, Any]:
    """Take two steps of a recipe on one device: {"device", "measured_bytes", "predicted_bytes", "images_per_step"}.

    On a GPU the allocator's peak; on a CPU the growth of the process's peak resident memory, which includes what reading
    the files took. Nothing is written but the cache. Raises what training raises.
    """
    accelerator = Accelerator(cpu=device == "cpu")
    before = _peak(accelerator.device)
    networks = Networks(recipe, accelerator.device, Registry.load())
    prompts = PromptSource(recipe.prompts)
    small = recipe.regularisation and recipe.regularisation.model_copy(update={"pairs": recipe.regularisation.batch_size})
    shortened = recipe.model_copy(update={"regularisation": small})
    pairs = Pairs(shortened, networks, prompts, lambda done, count: None) if small else None
    trainer = Trainer(shortened, networks, pairs)
    for _ in range(STEPS):
        trainer.take_step(prompts.prompts_at(recipe.seed, trainer.step, recipe.batch_size, trainer.rows(recipe.batch_size)))
    return {
        "device": str(accelerator.device),
        "measured_bytes": _peak(accelerator.device) - before,
        "predicted_bytes": describe(recipe)["memory"]["peak"],
        "images_per_step": recipe.batch_size,
    }


def _peak(device: torch.device) -> int:
    """Bytes at the worst moment so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

"""A recipe on random tiny models that takes a step in a tenth of a second, with every kind of loss at hand."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
import yaml
from tiny_clip import write_tiny_clip
from tiny_models import tiny_autoencoder, write_tiny_pipeline

from reference_trainer.config import Recipe
from reference_trainer.networks import Networks
from reference_trainer.pairs import Pairs
from reference_trainer.prompts import PromptSource
from reference_trainer.step import Trainer
from reference_trainer.training.checkpoint import Trained, checkpoint_name, snapshot, write
from sbv2bench.registry import Registry

CAPTIONS = [
    f"{colour} {shape} number {n}" for n, colour in enumerate(("red", "blue")) for shape in ("circle", "square", "star")
] + ["a photo of a red circle"]
CLIP = {"scorer": "tiny-clip", "threshold": 0.9, "weight": 0.1, "schedule": "linear"}
HPS = {"scorer": "tiny-hps", "threshold": 0.9, "weight": 0.1, "schedule": "constant"}
PAIRED = {"kind": "paired", "weight": 0.25, "batch_size": 2, "distance": "pixels", "pairs": 5, "teacher_steps": 2}
LORA = {"rank": 3, "alpha": 6, "targets": ["to_q", "to_v", "conv1"]}


def write_tiny_family(folder: Path, prediction_type: str = "v_prediction") -> Path:
    """Write teacher/, start/, taesd/, clip/, hps/, prompts.txt and catalog.yaml; returns the folder."""
    write_tiny_pipeline(folder / "teacher", prediction_type, seed=0)
    write_tiny_pipeline(folder / "start", prediction_type, seed=1)
    for part in ("vae", "text_encoder"):  # students share them with their teacher
        shutil.rmtree(folder / "start" / part)
        shutil.copytree(folder / "teacher" / part, folder / "start" / part)
    torch.manual_seed(2)
    tiny_autoencoder(8).save_pretrained(folder / "taesd")
    write_tiny_clip(folder / "clip", seed=2)
    write_tiny_clip(folder / "hps", seed=3)
    (folder / "prompts.txt").write_text("\n".join(CAPTIONS) + "\n")
    extractors = {f"tiny-{name}": {"kind": "open_clip", "location": str(folder / name)} for name in ("clip", "hps")}
    (folder / "catalog.yaml").write_text(yaml.safe_dump({"extractors": extractors}))
    return folder


def tiny_recipe(family: Path, **changes: Any) -> Recipe:
    """VSD from `start` with the LoRA teacher on `teacher`, batches of 4; changes replace top-level keys."""
    tree = {
        "name": "local/tiny",
        "family": "local",
        "teacher": str(family / "teacher"),
        "prediction_type": "v_prediction",
        "prompts": [{"source": str(family / "prompts.txt")}],
        "tiny_decoder": str(family / "taesd"),
        "student": {"start": str(family / "start"), "learning_rate": 1e-3},
        "lora_teacher": {"lora": LORA, "learning_rate": 1e-2, "null_share": 0.3},
        "vsd": {"teacher_guidance_scale": 4.5, "lora_teacher_guidance_scale": "same"},
        "ema": {"decay": 0.9},
        "steps": 6,
        "batch_size": 4,
        "seed": 5,
        "log_every": 2,
        "sample_every": 4,
        "checkpoint_every": 2,
    }
    return Recipe.model_validate(tree | changes)


def make_trainer(family: Path, rank: int = 0, processes: int = 1, **changes: Any) -> tuple[Trainer, PromptSource]:
    """A trainer at step 0 and its prompts."""
    recipe = tiny_recipe(family, **changes)
    networks = Networks(recipe, torch.device("cpu"), Registry.load(family / "catalog.yaml"))
    prompts = PromptSource(recipe.prompts)
    pairs = Pairs(recipe, networks, prompts, lambda done, count: None) if recipe.regularisation else None
    return Trainer(recipe, networks, prompts, pairs, rank=rank, processes=processes), prompts


def save_checkpoint(trainer: Trained, folder: Path, seconds: float = 0.0) -> Path:
    """The checkpoint of this moment, of no recipe; its folder."""
    return write(snapshot(trainer, {}, seconds), folder, checkpoint_name(trainer), 2)


def take_steps(trainer: Trainer, count: int) -> list[dict[str, float]]:
    """Figures of `count` steps, one after another."""
    return [trainer.take_step() for _ in range(count)]


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Copies of everything that is trained, and of the moving average."""
    found = {
        f"{name}.{key}": value.detach().clone() for name in trainer.optimisers for key, value in trainer.trained(name).items()
    }
    if trainer.networks.average is not None:
        found |= {f"average.{i}": value.clone() for i, value in enumerate(trainer.networks.average.shadow_params)}
    return found

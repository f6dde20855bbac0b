"""A program for a slow test: one true step of a paper recipe on Stable Diffusion 2.1-base's architecture, random weights.

python sd21_step.py RECIPE: prints a line of JSON. Text states are given, latents are 16 x 16, the average is off, the
teacher float32; everything else is the recipe's. Memory is counted by tensors, from before the networks are made: resident
memory also holds what the libraries keep for themselves, 4 GB of it here.
"""

from __future__ import annotations

import json
import sys
from importlib.resources import files
from types import SimpleNamespace
from typing import Any

import numpy as np
import open_clip
import torch
from diffusers import AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
from torch.nn import functional

import reference_trainer.networks as networks_module
from reference_trainer.accounting import LiveBytes
from reference_trainer.config import Recipe
from reference_trainer.networks import LORA_TEACHER, STUDENT, Networks
from reference_trainer.recipe_files import read_recipe
from reference_trainer.step import Trainer
from sbv2bench.registry import Registry

SIDE, BATCH = 16, 2
OVERRIDES = [f"batch_size={BATCH}", "ema=null", "precision=float32", "teacher_dtype=float32", "gradient_checkpointing=false"]


class RandomClip:
    """OpenCLIP ViT-B/32 as it is initialised."""

    def __init__(self) -> None:
        self.model = open_clip.create_model("ViT-B-32", pretrained=None).eval().requires_grad_(False)
        self.tokenize = open_clip.get_tokenizer("ViT-B-32")

    def embed_text(self, captions: list[str]) -> np.ndarray:
        with torch.inference_mode():
            return self.model.encode_text(self.tokenize(captions), normalize=True).numpy()

    def embed_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.model.encode_image(functional.interpolate(pixels, (224, 224), mode="bicubic", antialias=True), normalize=True)


def random_unet() -> Any:
    config = {
        k: v
        for k, v in json.loads((files("reference_trainer") / "architectures" / "sd21-base-unet.json").read_text()).items()
        if not k.startswith("_")
    }
    return UNet2DConditionModel.from_config(config).requires_grad_(False).eval()


def components(*_: Any) -> Any:
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="epsilon")
    states = torch.randn(1, 77, 1024, generator=torch.Generator().manual_seed(1))

    def encode_text(captions: list[str], guided: bool) -> torch.Tensor:
        return torch.cat([states * (len(caption) + 1) / 20 for caption in captions])

    parts = {"unet": random_unet(), "scheduler": scheduler, "prediction_type": "epsilon", "encode_text": encode_text}
    return SimpleNamespace(**parts, latent_shape=(4, SIDE, SIDE), resolution=SIDE * 8)


def main(name: str) -> None:
    with LiveBytes([]) as live:
        found = take_steps(read_recipe(name, OVERRIDES))
    print(json.dumps(found | {"bytes": live.peak}))


def take_steps(recipe: Recipe) -> dict[str, Any]:
    """Two steps: their figures, the share of trained tensors that moved, and whether every frozen one stands still."""
    torch.manual_seed(0)
    networks_module.load_components = components
    networks_module.load_unet = lambda *_: random_unet()
    Networks.check_other_parts = lambda self: None  # type: ignore[method-assign]
    Networks.load_tiny_decoder = lambda self: AutoencoderTiny().eval().requires_grad_(False) if recipe.clip else None  # type: ignore[method-assign]
    Networks.load_scorer = lambda self, loss: RandomClip()  # type: ignore[method-assign]
    networks = Networks(recipe, torch.device("cpu"), Registry.load())
    prompts = SimpleNamespace(prompts_at=lambda *_: ["a red circle", "a photograph of a blue square"])
    trainer = Trainer(recipe, networks, prompts, None)
    frozen = [(n, p) for unet in (networks.teacher, networks.student) for n, p in unet.named_parameters() if not p.requires_grad]
    sums = [float(p.sum()) for _, p in frozen]
    trained = {
        name: {k: p.detach().flatten()[:64].clone() for k, p in networks.trained(name).items()}
        for name in (STUDENT, LORA_TEACHER)
    }
    figures = [trainer.take_step() for _ in range(2)]
    moved = {
        name: float(np.mean([not torch.equal(old[k], p.detach().flatten()[:64]) for k, p in networks.trained(name).items()]))
        for name, old in trained.items()
    }
    still = all(value == float(p.sum()) for value, (_, p) in zip(sums, frozen, strict=True))
    return {"figures": figures, "moved": moved, "frozen_still": still}


if __name__ == "__main__":
    main(sys.argv[1])

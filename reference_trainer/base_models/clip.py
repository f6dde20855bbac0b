"""Two OpenCLIP-format CLIPs (one scores, one is for training losses) and the preference models fine-tuned from them.

A CLIP of this size saturates on colour: every image therefore also meets sentences of its own caption with one named
attribute made false (hard negatives).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from reference_trainer.base_models.pictures import write_grid
from reference_trainer.base_models.stage import Batch, Stage, StageConfig, pictures
from reference_trainer.base_models.tokenizer import CONTEXT_LENGTH, write_tokenizer
from sbv2bench.mini import world

_MEAN, _STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)  # the towers see pixels in [-1, 1]


class ClipConfig(StageConfig):
    embed_dim: int
    width: int
    vision_layers: int
    text_layers: int
    hard_negatives: int  # false sentences for each image


class ClipStage(Stage[open_clip.CLIP]):
    """Symmetric InfoNCE in which an image's false sentences stand among its candidates."""

    config: ClipConfig

    def build(self) -> open_clip.CLIP:
        tokenizer = self.inputs["tokenizer"]
        self.tokenize = WorldTokenizer(tokenizer)
        self.model_config = _model_config(self.config, self.tokenize.size)
        return open_clip.CLIP(**self.model_config)

    def loss(self, network: open_clip.CLIP, batch: Batch, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        texts = [world.captions(batch.scenes)]
        for k in range(self.config.hard_negatives):
            texts.append(world.captions(world.hard_negatives(batch.scenes, batch.keys * 8 + k, self.config.world_seed)))
        images = network.encode_image(batch.images, normalize=True)
        sentences = network.encode_text(self.tokenize([text for group in texts for text in group]), normalize=True)
        scale = network.logit_scale.exp().clamp(max=60.0)
        logits = scale * images @ sentences.T
        target = torch.arange(len(images))
        to_text = F.cross_entropy(logits, target)
        to_image = F.cross_entropy(logits[:, : len(images)].T, target)
        right = float((logits.argmax(1) == target).float().mean())
        return 0.5 * (to_text + to_image), {"image_to_text": right, "scale": float(scale.detach())}

    def export(self, network: open_clip.CLIP, folder: Path) -> None:
        _export(network, self.model_config, folder)

    def measure(self, network: open_clip.CLIP, folder: Path) -> dict[str, float]:
        chosen = self.choosing(2000)
        scenes, seen = chosen.scenes, chosen.images
        false = world.hard_negatives(scenes, chosen.keys, self.config.world_seed)
        images = network.encode_image(seen, normalize=True)
        true_text = network.encode_text(self.tokenize(world.captions(scenes)), normalize=True)
        false_text = network.encode_text(self.tokenize(world.captions(false)), normalize=True)
        paired, wrong = (images * true_text).sum(1), (images * false_text).sum(1)
        nearest = (true_text[:8] @ images.T).topk(16, dim=1).indices  # each row: the 16 pictures nearest to one caption
        write_grid(folder / "retrieved.png", seen[nearest.flatten()], columns=16)
        (folder / "retrieved.txt").write_text("\n".join(world.captions(scenes[:8])))
        found = (images[:512] @ true_text[:512].T).argmax(1) == torch.arange(512)
        return {
            "recall_at_1_of_512": float(found.float().mean()),
            "hard_negative_accuracy": float((paired > wrong).float().mean()),
            "cosine_true": float(paired.mean()),
            "cosine_hard_negative": float(wrong.mean()),
            "cosine_shuffled": float((images * true_text.roll(1, 0)).sum(1).mean()),
        }


class PreferenceConfig(StageConfig):
    parent: str  # the CLIP stage that it is fine-tuned from


class PreferenceStage(Stage[open_clip.CLIP]):
    """Which of two pictures is better for a caption (HPSv2's loss): the faithful rendering, or a wrong or damaged one."""

    config: PreferenceConfig

    def build(self) -> open_clip.CLIP:
        parent = self.inputs[self.config.parent]
        self.tokenize = WorldTokenizer(parent)
        self.model_config = _stored_config(parent)
        return load_clip(parent)

    def loss(self, network: open_clip.CLIP, batch: Batch, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        worse, _ = _worse_pictures(batch, self.config.world_seed)
        text = network.encode_text(self.tokenize(world.captions(batch.scenes)), normalize=True)
        images = network.encode_image(torch.cat([batch.images, worse]), normalize=True)
        better, worse_score = ((images * text.repeat(2, 1)).sum(1)).chunk(2)
        margin = 30.0 * (better - worse_score)
        return F.softplus(-margin).mean(), {"preferred": float((margin > 0).float().mean())}

    def export(self, network: open_clip.CLIP, folder: Path) -> None:
        _export(network, self.model_config, folder)

    def measure(self, network: open_clip.CLIP, folder: Path) -> dict[str, float]:
        batch = self.choosing(2000)
        images = batch.images
        worse, kinds = _worse_pictures(batch, self.config.world_seed)
        write_grid(folder / "pairs.png", torch.stack([images[:64], worse[:64]], 1).flatten(0, 1), columns=16)
        text = network.encode_text(self.tokenize(world.captions(batch.scenes)), normalize=True)
        better = (network.encode_image(images, normalize=True) * text).sum(1)
        margin = better - (network.encode_image(worse, normalize=True) * text).sum(1)
        names = ("wrong_attribute", "blurred", "noisy", "artefacts")
        figures = {name: float((margin[kinds == i] > 0).float().mean()) for i, name in enumerate(names)}
        return figures | {"score_faithful": float(100 * better.mean()), "mean_margin": float(100 * margin.mean())}


class WorldTokenizer:
    """Sentences to ids [N, 24], through the transformers tokenizer in a folder, each sentence looked up once."""

    def __init__(self, folder: Path) -> None:
        from transformers import CLIPTokenizer

        self.tokenizer = CLIPTokenizer.from_pretrained(folder)
        self.size = len(self.tokenizer)

    def __call__(self, sentences: list[str]) -> torch.Tensor:
        encoded = self.tokenizer(sentences, padding="max_length", truncation=True, max_length=CONTEXT_LENGTH, return_tensors="pt")
        ids: torch.Tensor = encoded.input_ids
        return ids


def load_clip(folder: Path) -> open_clip.CLIP:
    """The network that a CLIP stage exported, in training mode."""
    network = open_clip.CLIP(**_stored_config(folder))
    network.load_state_dict(load_file(folder / "open_clip_model.safetensors"))
    return network


def _stored_config(folder: Path) -> dict[str, Any]:
    stored: dict[str, Any] = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    return stored


def _model_config(config: ClipConfig, vocabulary: int) -> dict[str, object]:
    """An OpenCLIP model config (its `model_cfg`)."""
    return {
        "embed_dim": config.embed_dim,
        "vision_cfg": {
            "image_size": world.IMAGE_SIZE,
            "patch_size": 4,
            "layers": config.vision_layers,
            "width": config.width,
            "head_width": config.width // 4,
        },
        "text_cfg": {
            "context_length": CONTEXT_LENGTH,
            "vocab_size": vocabulary,
            "hf_tokenizer_name": "tokenizer files in this folder",
            "width": config.width,
            "heads": 4,
            "layers": config.text_layers,
        },
    }


def _export(network: open_clip.CLIP, model_config: dict[str, object], folder: Path) -> None:
    """OpenCLIP's local-dir layout: config, safetensors and tokenizer files."""
    write_tokenizer(folder)
    preprocess = {"mean": _MEAN, "std": _STD, "interpolation": "bicubic", "resize_mode": "shortest"}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model_config, "preprocess_cfg": preprocess}, indent=1))
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, folder / "open_clip_model.safetensors")


def _worse_pictures(batch: Batch, world_seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """For each picture a worse one and its kind: 0 a wrong attribute (40 %), 1 blurred, 2 noisy, 3 artefacts (20 % each)."""
    count = len(batch.images)
    draw = torch.rand(count, 4, generator=batch.generator)
    kinds = torch.bucketize(draw[:, 0], torch.tensor([0.4, 0.6, 0.8]))
    false = world.hard_negatives(batch.scenes, batch.keys * 8 + 7, world_seed)
    worse = pictures(false, batch.keys + 2**45, world_seed)
    for kind, damage in ((1, _blurred), (2, _noisy), (3, _with_artefacts)):
        rows = kinds == kind
        worse[rows] = damage(batch.images[rows], draw[rows, 1:], batch.generator)
    return worse, kinds


def _blurred(images: torch.Tensor, draw: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Gaussian blur of 0.6 to 1.8 pixels."""
    sigma = (0.6 + 1.2 * draw[:, 0])[:, None]
    kernel = torch.exp(-0.5 * (torch.arange(-4, 5)[None] / sigma) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(3, 0)[:, None, None, :]
    flat = F.pad(images, (4, 4, 4, 4), mode="replicate").reshape(1, -1, images.shape[-2] + 8, images.shape[-1] + 8)
    flat = F.conv2d(F.conv2d(flat, kernel, groups=len(kernel)), kernel.transpose(2, 3), groups=len(kernel))
    return flat.view_as(images)


def _noisy(images: torch.Tensor, draw: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Gaussian noise of deviation 0.08 to 0.5 (pixels in [-1, 1])."""
    level = (0.08 + 0.42 * draw[:, 0])[:, None, None, None]
    return (images + level * torch.randn(images.shape, generator=generator)).clamp(-1, 1)


def _with_artefacts(images: torch.Tensor, draw: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Some of the 4 x 4 blocks, 15 to 60 % of them, come from elsewhere in the picture."""
    blocks = F.unfold(images, 4, stride=4)
    moved = blocks[:, :, torch.randperm(blocks.shape[2], generator=generator)]
    chosen = torch.rand(len(images), 1, blocks.shape[2], generator=generator) < (0.15 + 0.45 * draw[:, :1])[:, :, None]
    return F.fold(torch.where(chosen, moved, blocks), images.shape[-2:], 4, stride=4)

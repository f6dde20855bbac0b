"""A random OpenCLIP model in its genuine local-dir layout, written in a second; and a random extractor beside it."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import torch
from safetensors.torch import save_file
from tiny_models import tiny_tokenizer

from sbv2bench.features.world_network import WorldNetwork

CONTEXT = 24


def write_tiny_clip(folder: Path, seed: int = 0, image_size: int = 32) -> Path:
    """Write open_clip_config.json, open_clip_model.safetensors and a CLIPTokenizer's files; returns the folder.

    Vision: 32 px, patch 8, width 32, one layer. Text: 24 tokens, width 32, one layer. Embeddings of 16.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = tiny_tokenizer()
    tokenizer.model_max_length = CONTEXT
    tokenizer.save_pretrained(folder)
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": image_size, "patch_size": 8, "layers": 1, "width": 32, "head_width": 8},
        "text_cfg": {
            "context_length": CONTEXT,
            "vocab_size": len(tokenizer),
            "hf_tokenizer_name": "tokenizer files in this folder",
            "width": 32,
            "heads": 4,
            "layers": 1,
        },
    }
    preprocess = {"mean": [0.5, 0.4, 0.3], "std": [0.5, 0.6, 0.7], "interpolation": "bicubic", "resize_mode": "shortest"}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = open_clip.CLIP(**config)
        # Freshly initialised embeddings are so small that every caption would mean the same.
        network.token_embedding.weight.data.mul_(50.0)
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, folder / "open_clip_model.safetensors")
    return folder


def write_tiny_extractor(folder: Path, seed: int = 0) -> Path:
    """Write model.safetensors of a random WorldNetwork; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = WorldNetwork()
        # As initialised, deep features hardly vary: make them of the size that trained ones have.
        network.features[1].weight.data.mul_(40.0)
    state = {name: value for name, value in network.state_dict().items() if "num_batches" not in name}
    save_file(state, folder / "model.safetensors")
    return folder

"""Random networks in the layouts in which the hub has the published ones, written from other people's implementations of them.

Each is made by a library that the extractors do not use (open_clip, timm), and its tensors get the names that the published files
have; so what an extractor makes of the file can be compared with the library's own network.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import timm
import torch
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

State = dict[str, torch.Tensor]
NOISE = torch.randn(1_000_003, generator=torch.Generator().manual_seed(0))  # a prime length, so that rows differ

TINY_CLIP: dict[str, Any] = {
    "embed_dim": 24,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 42, "layers": 2, "width": 128, "patch_size": 14},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}
TINY_DINOV2 = {"embed_dim": 64, "depth": 2, "num_heads": 2}
TINY_BLIP = {"embed_dim": 128, "depth": 2, "num_heads": 2}  # its text encoder has as many columns and layers
SPECIAL = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}


def noises(seed: int) -> Callable[..., torch.Tensor]:
    """A function of a shape that gives other normal numbers at each call: of a million, in turn, for billions take minutes."""
    place = seed * 7_919

    def noise(*shape: int) -> torch.Tensor:
        nonlocal place
        size = math.prod(shape)
        place += 104_729
        return NOISE.roll(place % len(NOISE)).repeat(size // len(NOISE) + 1)[:size].reshape(shape)

    return noise


def randomised(network: torch.nn.Module, seed: int, half: bool = False) -> torch.nn.Module:
    """A network whose tensors are drawn anew, of a size at which layers matter; rounded to float16 where it is stored so."""
    noise = noises(seed)
    for name, value in network.state_dict().items():
        if not value.is_floating_point() or name == "logit_scale":
            continue
        scale = value.shape[-1] ** -0.5 if value.ndim == 2 else value[0].numel() ** -0.5 if value.ndim > 2 else 0.1
        scale = 1.0 if name == "token_embedding.weight" else scale  # or every caption would mean the same
        shift = 1.0 if value.ndim == 1 and name.endswith("weight") else 0.0
        drawn = scale * noise(*value.shape) + shift
        value.copy_(drawn.half().float() if half else drawn)
    return network.eval()


def faint(network: VisionTransformer) -> VisionTransformer:
    """The network with patches and class token of a 64th of their size, beside which what a norm adds to a variance is seen."""
    for value in (network.patch_embed.proj.weight, network.patch_embed.proj.bias, network.cls_token, network.pos_embed):
        value.data.mul_(1 / 64)
    return network


def random_clip(config: dict[str, Any], seed: int = 0, half: bool = False) -> open_clip.CLIP:
    """An OpenCLIP network of a config with random tensors, its logit scale ln 98; half: of each what float16 can hold."""
    with torch.device("meta"):
        network = open_clip.CLIP(**config)
    network = randomised(network.to_empty(device="cpu"), seed, half)
    length = config["text_cfg"]["context_length"]
    network.attn_mask = torch.full((length, length), float("-inf")).triu(1)
    network.logit_scale.data.fill_(98.0).log_()
    if half:
        network.logit_scale.data = network.logit_scale.data.half().float()
    return network


def write_clip(
    folder: Path, network: open_clip.CLIP, config: dict[str, Any], *, half: bool = False, pickle: bool = False
) -> Path:
    """Write an OpenCLIP network as transformers' CLIPModel lies on the hub, with the BPE's two files; returns the folder.

    As in OpenAI's files there are buffers of position numbers besides. pickle: as pytorch_model.bin.
    """
    folder.mkdir(parents=True, exist_ok=True)
    vision, text, dimension = config["vision_cfg"], config["text_cfg"], config["embed_dim"]
    act = "quick_gelu" if config.get("quick_gelu") else "gelu"
    shared = {"projection_dim": dimension, "hidden_act": act}
    heads = vision["width"] // vision.get("head_width", 64)
    settings = {
        "model_type": "clip",
        "projection_dim": dimension,
        "vision_config": shared | {
            "hidden_size": vision["width"], "intermediate_size": int(vision["width"] * vision.get("mlp_ratio", 4)),
            "num_hidden_layers": vision["layers"], "num_attention_heads": heads,
            "image_size": vision["image_size"], "patch_size": vision["patch_size"],
        },
        "text_config": shared | {
            "hidden_size": text["width"], "intermediate_size": 4 * text["width"], "num_hidden_layers": text["layers"],
            "num_attention_heads": text["heads"], "eos_token_id": 2,
        },
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(settings))
    state = _clip_names(network.state_dict())
    state = {name: (value.half() if half else value).contiguous() for name, value in state.items()}
    state["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    if pickle:
        torch.save(state, folder / "pytorch_model.bin")
    else:
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    write_bpe(folder)
    return folder


def write_bpe(folder: Path) -> None:
    """Write CLIP's vocab.json and merges.txt, of the vocabulary that open_clip ships, its ends named as in the hub's files."""
    bpe = SimpleTokenizer()
    vocabulary = {SPECIAL.get(word, word): number for word, number in bpe.encoder.items()}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    pairs = sorted(bpe.bpe_ranks, key=bpe.bpe_ranks.__getitem__)
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *(" ".join(pair) for pair in pairs)]) + "\n")


def _clip_names(state: State) -> State:
    plain = {
        "logit_scale": "logit_scale", "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
        "positional_embedding": "text_model.embeddings.position_embedding.weight",
        "visual.class_embedding": "vision_model.embeddings.class_embedding",
        "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
        "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    }  # fmt: skip
    norms = {"ln_final": "text_model.final_layer_norm", "visual.ln_pre": "vision_model.pre_layrnorm",
             "visual.ln_post": "vision_model.post_layernorm"}  # fmt: skip
    layer = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2",
             "attn.out_proj": "self_attn.out_proj"}  # fmt: skip
    found: State = {}
    for name, value in state.items():
        stem, _, kind = name.rpartition(".")
        if name in plain:
            found[plain[name]] = value
        elif name in ("visual.proj", "text_projection"):
            found["visual_projection.weight" if "visual" in name else "text_projection.weight"] = value.T
        elif stem in norms:
            found[f"{norms[stem]}.{kind}"] = value
        else:
            tower = "vision_model" if name.startswith("visual.") else "text_model"
            number, _, inner = name.partition("resblocks.")[2].partition(".")
            place = f"{tower}.encoder.layers.{number}"
            if inner.startswith("attn.in_proj_"):
                kind = inner.removeprefix("attn.in_proj_")
                found |= {f"{place}.self_attn.{x}_proj.{kind}": part for x, part in zip("qkv", value.chunk(3), strict=True)}
            else:
                found[f"{place}.{layer[inner.rpartition('.')[0]]}.{kind}"] = value
    return found


def random_dinov2(seed: int = 0, half: bool = False, side: int = 518, **shape: int) -> VisionTransformer:
    """timm's DINOv2 with random tensors, for pictures of a side; by default the shape of ViT-L/14."""
    network = VisionTransformer(img_size=side, patch_size=14, init_values=1.0, num_classes=0, global_pool="token",
                                **({"embed_dim": 1024, "depth": 24, "num_heads": 16} | shape))  # fmt: skip
    return faint(randomised(network, seed, half))


def write_dinov2(folder: Path, network: VisionTransformer, half: bool = False) -> Path:
    """Write timm's network as facebook/dinov2-large lies on the hub; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "model_type": "dinov2", "hidden_size": network.embed_dim, "num_hidden_layers": len(network.blocks), "mlp_ratio": 4,
        "num_attention_heads": network.blocks[0].attn.num_heads, "image_size": network.patch_embed.img_size[0], "patch_size": 14,
        "hidden_act": "gelu", "layer_norm_eps": 1e-6, "qkv_bias": True, "use_swiglu_ffn": False,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(settings))
    plain = {"cls_token": "embeddings.cls_token", "pos_embed": "embeddings.position_embeddings"}
    found: State = {"embeddings.mask_token": torch.zeros(1, network.embed_dim)}
    for name, value in network.state_dict().items():
        if name in plain:
            found[plain[name]] = value
        elif name.startswith("patch_embed.proj."):
            found[name.replace("patch_embed.proj", "embeddings.patch_embeddings.projection")] = value
        elif name.startswith("norm."):
            found[name.replace("norm", "layernorm")] = value
        else:
            _, number, inner = name.split(".", 2)
            place, kind = f"encoder.layer.{number}", inner.rpartition(".")[2]
            if inner.startswith("attn.qkv."):
                parts = zip(("query", "key", "value"), value.chunk(3), strict=True)
                found |= {f"{place}.attention.attention.{x}.{kind}": part for x, part in parts}
            elif inner.startswith("attn.proj."):
                found[f"{place}.attention.output.dense.{kind}"] = value
            elif kind == "gamma":
                found[f"{place}.layer_scale{inner[2]}.lambda1"] = value
            else:
                found[f"{place}.{inner}"] = value
    stored = {name: (value.half() if half else value).contiguous() for name, value in found.items()}
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def random_blip_vision(seed: int = 0, half: bool = False, **shape: int) -> VisionTransformer:
    """timm's ViT/16, which BLIP's image encoder is, with random tensors; by default the shape of BLIP large."""
    network = timm.models.vision_transformer.VisionTransformer(
        img_size=224, patch_size=16, num_classes=0, **({"embed_dim": 1024, "depth": 24, "num_heads": 16} | shape)
    )
    return faint(randomised(network, seed, half))


def random_image_reward(
    vision: VisionTransformer, width: int = 768, layers: int = 12, words: int = 30524, seed: int = 0
) -> State:
    """The tensors of ImageReward.pt by their names: an image encoder, and a random text encoder and head for it.

    width, layers, words: of the text encoder, the published one's by default.
    """
    noise = noises(seed)
    state = {f"blip.visual_encoder.{name}": value for name, value in vision.state_dict().items()}
    own = "blip.text_encoder."
    linear: dict[str, tuple[int, int]] = {}
    norms = [f"{own}embeddings.LayerNorm"]
    for layer in range(layers):
        place = f"{own}encoder.layer.{layer}."
        for attention, seen in (("attention", width), ("crossattention", vision.embed_dim)):
            linear[f"{place}{attention}.self.query"] = (width, width)
            linear |= {f"{place}{attention}.self.{x}": (width, seen) for x in ("key", "value")}
            linear[f"{place}{attention}.output.dense"] = (width, width)
            norms.append(f"{place}{attention}.output.LayerNorm")
        linear |= {f"{place}intermediate.dense": (4 * width, width), f"{place}output.dense": (width, 4 * width)}
        norms.append(f"{place}output.LayerNorm")
    widths = (width, 1024, 128, 64, 16, 1)
    linear |= {f"mlp.layers.{n}": (widths[i + 1], widths[i]) for i, n in enumerate((0, 2, 4, 6, 7))}
    linear |= {"blip.vision_proj": (256, vision.embed_dim), "blip.text_proj": (256, width)}
    for name, shape in linear.items():
        state |= {f"{name}.weight": noise(*shape) * shape[-1] ** -0.5, f"{name}.bias": 0.1 * noise(shape[0])}
    for name in norms:
        state |= {f"{name}.weight": 1 + 0.1 * noise(width), f"{name}.bias": 0.1 * noise(width)}
    for name, count in (("word", words), ("position", 512)):
        state[f"{own}embeddings.{name}_embeddings.weight"] = noise(count, width) / 64  # see `faint`
    state[f"{own}embeddings.position_ids"] = torch.arange(512)[None]
    return state

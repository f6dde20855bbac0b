"""ImageReward v1.0 (Xu et al. 2023), a preference model: BLIP's ViT-L/16 and its text encoder, and five linear maps on top.

What THUDM/ImageReward does (ImageReward/ImageReward.py; now zai-org/ImageReward): the picture's shorter side to 224 by Pillow's
bicubic filter, antialiased, the centre cropped, OpenAI's mean and deviation; the prompt through bert-base-uncased's tokenizer,
cut to 35 tokens, its two ends counted, and padded; the text encoder's layers attend to all 197 of the image's tokens; the state
of [CLS] goes through the head, and the reward is (head - 0.1672) / 1.0333, about 0 with deviation 1 over the authors' pictures.
So words beyond the first 33 pieces never count. The head has no activation between its maps and is one affine map. BLIP puts
[ENC] in [CLS]'s place before a text that looks at an image; ImageReward does not. Dropout is off; float32.

ImageReward.pt is a pickle of tensors. Their names are turned into those of transformers' BLIP: each tensor has its place, or is
one of those that its score does not use, named below. The package image-reward needs transformers of 2023 and is not used.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import BertTokenizer, BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

from sbv2bench.data.assets import resolve_location
from sbv2bench.data.extractor_files import weights_file
from sbv2bench.errors import InputError, IntegrityError
from sbv2bench.features.base import to_tensor
from sbv2bench.features.pretrained import network_with, padded, reading
from sbv2bench.features.transformers_clip import MEAN, STD, prepared
from sbv2bench.specs import ExtractorSpec
from sbv2bench.weights import StateDict, compare_keys, load_state_dict

TOKENS = 35  # of a prompt, its two ends counted
REWARD_MEAN, REWARD_STD = 0.16717362830052426, 1.0333394966054072
HEAD = (1024, 128, 64, 16, 1)  # widths of the five maps
_HEAD_NAMES = ("mlp.layers.0", "mlp.layers.2", "mlp.layers.4", "mlp.layers.6", "mlp.layers.7")  # dropouts are in between
_OF_A_HEAD = 64  # columns of an attention head, in both of BLIP's encoders
# BLIP's projections for its contrastive loss, and a buffer 0, 1, 2, ... of its time.
_UNUSED = re.compile(r"blip\.(vision_proj|text_proj)\.|blip\.text_encoder\.embeddings\.position_ids$")
_ENCODERS = ("blip.visual_encoder.", "blip.text_encoder.")
# BLIP's names -> transformers'
_VISION = (
    (r"^cls_token$", "embeddings.class_embedding"),
    (r"^pos_embed$", "embeddings.position_embedding"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embedding."),
    (r"^norm\.", "post_layernorm."),
    (r"^blocks\.(\d+)\.norm([12])\.", r"encoder.layers.\1.layer_norm\2."),
    (r"^blocks\.(\d+)\.attn\.qkv\.", r"encoder.layers.\1.self_attn.qkv."),
    (r"^blocks\.(\d+)\.attn\.proj\.", r"encoder.layers.\1.self_attn.projection."),
    (r"^blocks\.(\d+)\.mlp\.", r"encoder.layers.\1.mlp."),
)


class ImageReward:
    """The reward of a picture for its caption, from ImageReward.pt (or the same tensors as safetensors).

    spec.tokenizer: where bert-base-uncased's vocab.txt is.
    """

    image_size = None

    def __init__(self, spec: ExtractorSpec, device: str = "cpu") -> None:
        """Raises InputError on a preparation or without a tokenizer, PrerequisiteError where files are not there, IntegrityError
        where they are not ImageReward's, or a pickle and SBV2BENCH_ALLOW_PICKLE is not 1."""
        if spec.preparation or not spec.tokenizer:
            found = f"preparation {spec.preparation!r}" if spec.preparation else "no tokenizer"
            raise InputError(f"extractor {spec.id}: found {found}, expected no preparation, and the location of a vocab.txt")
        self.device = device
        self.tokenizer = vocabulary(spec)
        path = weights_file(spec)
        state = {name: value for name, value in load_state_dict(path, known=True).items() if not _UNUSED.match(name)}
        vision, text = (_part(state, part) for part in _ENCODERS)
        head = {name: value for name, value in state.items() if not name.startswith(_ENCODERS)}
        try:
            configs = _vision_config(vision), _text_config(text)
        except (KeyError, IndexError, ZeroDivisionError) as error:
            raise IntegrityError(f"{path}: not ImageReward's tensors (found no {error})") from error
        if len(self.tokenizer) > configs[1].vocab_size:
            known = configs[1].vocab_size
            raise IntegrityError(f"{spec.tokenizer}: {len(self.tokenizer):,} words, expected at most {known:,}, of {path.name}")
        self.vision = network_with(BlipVisionModel, configs[0], _renamed(vision), path).to(device)
        self.text = network_with(BlipTextModel, configs[1], text, path, add_pooling_layer=False).to(device)
        self.head = _head(head, configs[1].hidden_size, str(path)).to(device)
        self.side = int(configs[0].image_size)
        self._mean, self._std = (torch.tensor(x, device=device).view(1, 3, 1, 1) for x in (MEAN, STD))

    def score(self, images_BHWC: NDArray[np.uint8], captions: Sequence[str]) -> NDArray[np.float32]:
        """Rewards [B] float32 of uint8 RGB images [B, H, W, 3] of any size, each for its caption."""
        to_tensor(images_BHWC[:1], "cpu")  # raises on another shape or dtype
        small = np.stack([np.asarray(prepared(Image.fromarray(image), self.side, "")) for image in images_BHWC])
        tokens = padded(self.tokenizer, captions, TOKENS).to(self.device)
        with torch.inference_mode():
            pixels = (to_tensor(small, self.device) / 255.0 - self._mean) / self._std
            seen = self.vision(pixel_values=pixels).last_hidden_state
            read = self.text(
                input_ids=tokens.input_ids,
                attention_mask=tokens.attention_mask,
                encoder_hidden_states=seen,
                encoder_attention_mask=torch.ones(seen.shape[:2], dtype=torch.long, device=self.device),
            ).last_hidden_state
            rewards = (self.head(read[:, 0]).squeeze(1) - REWARD_MEAN) / REWARD_STD
        return np.asarray(rewards.cpu().numpy(), dtype=np.float32)


def vocabulary(spec: ExtractorSpec) -> BertTokenizer:
    """The lower-casing WordPiece tokenizer of a spec's vocab.txt. Raises what `resolve_location` raises, and IntegrityError."""
    path = resolve_location(spec.tokenizer)
    with reading(path):
        return BertTokenizer(vocab=str(path))


def cut_captions(spec: ExtractorSpec, captions: Sequence[str]) -> tuple[int, int]:
    """(captions of which words are dropped, tokens that are read, the two ends counted), by the tokenizer alone."""
    lengths = [len(ids) for ids in vocabulary(spec)(list(captions), verbose=False).input_ids]
    return sum(own > TOKENS for own in lengths), TOKENS


def _part(state: StateDict, prefix: str) -> StateDict:
    """The tensors whose names begin so, without it."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _renamed(vision: StateDict) -> StateDict:
    found: StateDict = {}
    for name, value in vision.items():
        renamed = name
        for pattern, other in _VISION:
            renamed = re.sub(pattern, other, renamed)
        found[renamed] = value
    return found


def _layers(state: StateDict, prefix: str) -> int:
    numbers = {int(name.removeprefix(prefix).partition(".")[0]) for name in state if name.startswith(prefix)}
    return len(numbers)


def _vision_config(vision: StateDict) -> BlipVisionConfig:
    """BLIP's ViT as the shapes of its tensors say; the published one has 24 layers of 1024 columns, patches of 16, 224 px."""
    width, patch = vision["cls_token"].shape[-1], vision["patch_embed.proj.weight"].shape[-1]
    return BlipVisionConfig(
        hidden_size=width,
        intermediate_size=vision["blocks.0.mlp.fc1.weight"].shape[0],
        num_hidden_layers=_layers(vision, "blocks."),
        num_attention_heads=width // _OF_A_HEAD,
        image_size=math.isqrt(vision["pos_embed"].shape[1] - 1) * patch,
        patch_size=patch,
        hidden_act="gelu",
        layer_norm_eps=1e-6,  # timm's, of which BLIP's ViT is one; transformers' default is another
    )


def _text_config(text: StateDict) -> BlipTextConfig:
    """BLIP's text encoder likewise; the published one is bert-base with attention to 1024 columns, and 30,524 words."""
    words, layer = text["embeddings.word_embeddings.weight"], "encoder.layer.0."
    return BlipTextConfig(
        vocab_size=words.shape[0],
        hidden_size=words.shape[1],
        encoder_hidden_size=text[f"{layer}crossattention.self.key.weight"].shape[1],
        intermediate_size=text[f"{layer}intermediate.dense.weight"].shape[0],
        num_hidden_layers=_layers(text, "encoder.layer."),
        num_attention_heads=words.shape[1] // _OF_A_HEAD,
        max_position_embeddings=text["embeddings.position_embeddings.weight"].shape[0],
        hidden_act="gelu",
        layer_norm_eps=1e-12,
        is_decoder=True,  # has attention to the image; the text's own attention is of both directions all the same
    )


def _head(state: StateDict, width: int, what: str) -> torch.nn.Sequential:
    head = torch.nn.Sequential(*(torch.nn.Linear(a, b) for a, b in zip((width, *HEAD), HEAD, strict=False)))
    names = {f"{name}.{part}": f"{i}.{part}" for i, name in enumerate(_HEAD_NAMES) for part in ("weight", "bias")}
    expected: dict[str, Tensor] = {theirs: head.state_dict()[own] for theirs, own in names.items()}
    compare_keys(state, expected, f"{what}, its head and what is no part of BLIP")
    head.load_state_dict({names[name]: value.float() for name, value in state.items()})
    return head.eval().requires_grad_(False)

"""ImageReward against timm's image encoder and a text encoder written out in plain torch, on the same random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from hub_layouts import TINY_BLIP, State, random_blip_vision, random_image_reward
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn import functional as F

from sbv2bench.features.image_reward import ImageReward
from sbv2bench.registry import Registry
from sbv2bench.specs import ExtractorSpec

WORDS = ["[PAD]", *(f"[unused{i}]" for i in range(5)), "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz.,!'&",
         *(f"##{x}" for x in "abcdefghijklmnopqrstuvwxyz"), "red", "cat", "dog", "on", "the", "mat"]  # fmt: skip
CAPTIONS = ["A red cat on the mat", "the dogs", "dog " * 60, ""]


def images(height: int, width: int, count: int) -> np.ndarray:
    noise = np.random.default_rng(width).integers(0, 256, (count, height, width, 3))
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij")
    return ((noise + (x + 2 * y + 60 * c) % 256) // 2).astype(np.uint8)


def tokens(captions: list[str]) -> tuple[Tensor, Tensor]:
    """(ids, mask) [B, 35] by a greedy longest match over lower-cased words, cut so that the end token stays."""
    ids = torch.zeros(len(captions), 35, dtype=torch.long)
    for row, caption in enumerate(captions):
        found = []
        for word in caption.lower().split():
            at = 0
            while at < len(word):
                prefix = "##" if at else ""
                end = next(e for e in range(len(word), at, -1) if prefix + word[at:e] in WORDS)
                found.append(WORDS.index(prefix + word[at:end]))
                at = end
        whole = [WORDS.index("[CLS]"), *found[:33], WORDS.index("[SEP]")]
        ids[row, : len(whole)] = torch.tensor(whole)
    return ids, (ids != 0).float()


def text_states(state: State, ids: Tensor, mask: Tensor, seen: Tensor) -> Tensor:
    """BERT, post-norm, each layer with attention to the image between its own and the feed-forward part: [B, 35, D]."""
    own = {name.removeprefix("blip.text_encoder."): value for name, value in state.items()}

    def linear(name: str, x: Tensor) -> Tensor:
        return F.linear(x, own[f"{name}.weight"], own[f"{name}.bias"])

    def norm(name: str, x: Tensor) -> Tensor:
        weight = own[f"{name}.LayerNorm.weight"]
        return F.layer_norm(x, weight.shape, weight, own[f"{name}.LayerNorm.bias"], 1e-12)

    def attended(place: str, x: Tensor, keys: Tensor, bias: Tensor) -> Tensor:
        def heads(name: str, y: Tensor) -> Tensor:
            return linear(f"{place}.self.{name}", y).unflatten(-1, (-1, 64)).transpose(1, 2)

        q, k, v = heads("query", x), heads("key", keys), heads("value", keys)
        shares = (q @ k.transpose(-1, -2) / 8 + bias).softmax(-1)
        return norm(f"{place}.output", linear(f"{place}.output.dense", (shares @ v).transpose(1, 2).flatten(2)) + x)

    x = own["embeddings.word_embeddings.weight"][ids] + own["embeddings.position_embeddings.weight"][:35]
    x = norm("embeddings", x)
    hidden = (1 - mask)[:, None, None, :] * -10000.0
    layers = {name.split(".")[2] for name in own if name.startswith("encoder.layer.")}
    for layer in map(str, sorted(map(int, layers))):
        place = f"encoder.layer.{layer}."
        x = attended(f"{place}attention", x, x, hidden)
        x = attended(f"{place}crossattention", x, seen, torch.zeros(1))
        x = norm(f"{place}output", linear(f"{place}output.dense", F.gelu(linear(f"{place}intermediate.dense", x))) + x)
    return x


def theirs(vision: VisionTransformer, state: State, pictures: np.ndarray, captions: list[str]) -> np.ndarray:
    transform = open_clip.image_transform(224, is_train=False)  # torchvision's Resize and CenterCrop, as ImageReward's own
    with torch.no_grad():
        seen = vision.forward_features(torch.stack([transform(Image.fromarray(x)) for x in pictures]))
        x = text_states(state, *tokens(captions), seen)[:, 0]
        for number in (0, 2, 4, 6, 7):
            x = F.linear(x, state[f"mlp.layers.{number}.weight"], state[f"mlp.layers.{number}.bias"])
    return ((x.squeeze(1) - 0.16717362830052426) / 1.0333394966054072).numpy()


def spec(folder: Path, file: str) -> ExtractorSpec:
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    declared = Registry.load().extractor("image-reward-v1.0")
    return declared.model_copy(update={"location": str(folder), "tokenizer": str(folder / "vocab.txt"), "files": (file,)})


def assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == np.float32 and found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * np.abs(expected).max())
    assert np.ptp(expected) > 0.01


@pytest.mark.parametrize(("height", "width"), [(224, 224), (256, 256), (300, 401)])
def test_rewards_are_those_of_plain_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, height: int, width: int) -> None:
    """From the pickle, as it is published; prompts are cut after 35 tokens, and short ones padded."""
    monkeypatch.setenv("SBV2BENCH_ALLOW_PICKLE", "1")
    vision = random_blip_vision(seed=5, **TINY_BLIP)
    state = random_image_reward(vision, width=128, layers=2, words=len(WORDS) + 2, seed=6)
    torch.save(state, tmp_path / "ImageReward.pt")
    pictures = images(height, width, 4)
    assert_same(
        ImageReward(spec(tmp_path, "ImageReward.pt")).score(pictures, CAPTIONS), theirs(vision, state, pictures, CAPTIONS)
    )


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_published_architecture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """BLIP large with its head: 450 M parameters."""
    monkeypatch.setenv("SBV2BENCH_ALLOW_PICKLE", "1")
    vision = random_blip_vision(seed=7)
    state = random_image_reward(vision, seed=8)
    torch.save(state, tmp_path / "ImageReward.pt")
    extractor = ImageReward(spec(tmp_path, "ImageReward.pt"))
    assert extractor.vision.config.num_attention_heads == 16 and extractor.text.config.num_attention_heads == 12
    pictures = images(256, 256, 2)
    assert_same(extractor.score(pictures, CAPTIONS[:2]), theirs(vision, state, pictures, CAPTIONS[:2]))

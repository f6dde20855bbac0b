"""CLIP in transformers' layout against open_clip's networks, transforms and tokenizer, on the same random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from hub_layouts import TINY_CLIP, random_clip, write_clip
from open_clip.tokenizer import SimpleTokenizer
from PIL import Image

from sbv2bench.features.transformers_clip import ClipEmbeddings, ClipLogits, cut_captions
from sbv2bench.registry import Registry
from sbv2bench.specs import ExtractorSpec

CAPTIONS = [
    "A man with a red helmet on a small moped on a dirt road. ",
    "two dogs",
    "it's 20 naïve CATS!",
    "red " * 90,
    "",
]
SIZES = [(42, 42), (64, 64), (50, 71), (97, 40), (21, 30)]


def images(height: int, width: int, count: int = 2) -> np.ndarray:
    """Smooth shapes and noise, so that resizes matter and are not all."""
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij")
    noise = np.random.default_rng(height).integers(0, 256, (count, height, width, 3))
    return ((noise + (3 * x + 2 * y + 60 * c + 40 * np.arange(count)[:, None, None, None]) % 256) // 2).astype(np.uint8)


def spec(folder: Path, **more: object) -> ExtractorSpec:
    return ExtractorSpec.model_validate({"id": "x", "kind": "clip", "location": str(folder), **more})


def theirs(network: open_clip.CLIP, pictures: np.ndarray, captions: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Unit embeddings by open_clip alone: its transform of PIL images and its tokenizer."""
    transform = open_clip.image_transform(network.visual.image_size, is_train=False)
    with torch.no_grad():
        of_images = network.encode_image(torch.stack([transform(Image.fromarray(x)) for x in pictures]), normalize=True)
        of_texts = network.encode_text(SimpleTokenizer()(captions), normalize=True)
    return of_images.numpy(), of_texts.numpy()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, open_clip.CLIP]:
    network = random_clip(TINY_CLIP, seed=1)
    return write_clip(tmp_path_factory.mktemp("clip"), network, TINY_CLIP), network


def test_images_are_embedded_as_by_open_clip(tiny: tuple[Path, open_clip.CLIP]) -> None:
    embeddings = ClipEmbeddings(spec(tiny[0]))
    for height, width in SIZES:
        expected, _ = theirs(tiny[1], images(height, width), CAPTIONS[:1])
        found = embeddings.embed_images(images(height, width))
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)
        assert np.abs(expected[0] - expected[1]).max() > 1e-3


def test_texts_are_embedded_as_by_open_clip(tiny: tuple[Path, open_clip.CLIP]) -> None:
    """A prefix included, and a text of which words are dropped: the end token stays."""
    for prefix in ("", "A photo depicts "):
        _, expected = theirs(tiny[1], images(42, 42), [prefix + caption for caption in CAPTIONS])
        np.testing.assert_allclose(ClipEmbeddings(spec(tiny[0], prefix=prefix)).embed_text(CAPTIONS), expected, rtol=0, atol=2e-6)
        assert min(np.abs(expected[i] - expected[j]).max() for i in range(5) for j in range(i)) > 1e-3
    assert cut_captions(spec(tiny[0]), CAPTIONS) == (1, 77)
    assert cut_captions(spec(tiny[0], prefix="x " * 80), CAPTIONS) == (5, 77)


def test_logits_are_the_scaled_cosines(tiny: tuple[Path, open_clip.CLIP]) -> None:
    of_images, of_texts = theirs(tiny[1], images(42, 42), CAPTIONS[:2])
    scores = ClipLogits(spec(tiny[0], kind="clip_logits")).score(images(42, 42), CAPTIONS[:2])
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, 98.0 * (of_images * of_texts).sum(1), rtol=0, atol=2e-4)


LARGE = {
    "clip-vit-l-14-openai": "ViT-L-14-quickgelu",
    "clip-vit-l-14-336-openai": "ViT-L-14-336-quickgelu",
    "pickscore-v1": "ViT-H-14",
}


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", LARGE)
def test_published_architectures(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the catalog declares them, in the layout of the published files: up to a billion parameters, and a pickle."""
    monkeypatch.setenv("SBV2BENCH_ALLOW_PICKLE", "1")
    declared = Registry.load().extractor(name)
    config: dict[str, Any] = open_clip.get_model_config(LARGE[name])
    network = random_clip(config, seed=2, half=True)
    write_clip(tmp_path, network, config, half=True, pickle="pytorch_model.bin" in declared.files)
    side = network.visual.image_size
    side = side[0] if isinstance(side, tuple) else side
    square = images(300, 300)
    of_images, of_texts = theirs(network, square, CAPTIONS[:2])
    scale = network.logit_scale.exp().item()
    del network
    local = declared.model_copy(update={"location": str(tmp_path)})
    scorer = ClipLogits(local) if declared.kind == "clip_logits" else ClipEmbeddings(local)
    assert scorer.side == side
    assert {parameter.dtype for parameter in scorer.model.parameters()} == {torch.float32}
    np.testing.assert_allclose(scorer.embed_images(square), of_images, rtol=0, atol=1e-5)
    np.testing.assert_allclose(scorer.embed_text(CAPTIONS[:2]), of_texts, rtol=0, atol=1e-5)
    assert np.abs(of_images[0] - of_images[1]).max() > 1e-3 and np.abs(of_texts[0] - of_texts[1]).max() > 1e-3
    if isinstance(scorer, ClipLogits):
        np.testing.assert_allclose(scorer.score(square, CAPTIONS[:2]), scale * (of_images * of_texts).sum(1), rtol=0, atol=1e-3)

"""DINOv2's features against timm's network, Pillow's resize and bicubic interpolation written out, on the same random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hub_layouts import TINY_DINOV2, random_dinov2, write_dinov2
from PIL import Image
from timm.models.vision_transformer import VisionTransformer

from sbv2bench.features.dinov2 import Dinov2Features, resampled
from sbv2bench.registry import Registry
from sbv2bench.specs import ExtractorSpec


def images(height: int, width: int, count: int = 2) -> np.ndarray:
    noise = np.random.default_rng(width).integers(0, 256, (count, height, width, 3))
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij")
    return ((noise + (x + 2 * y + 60 * c) % 256) // 2).astype(np.uint8)


def keys(t: np.ndarray) -> np.ndarray:
    """Keys' cubic kernel, a = -0.75, which torch's bicubic has."""
    t, a = np.abs(t), -0.75
    near, far = ((a + 2) * t - (a + 3)) * t * t + 1, ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
    return np.where(t <= 1, near, np.where(t < 2, far, 0.0))


def interpolated(grid: np.ndarray, side: int, scale: float) -> np.ndarray:
    """[n, n, D] at side x side places, the i-th at (i + 1/2) / scale - 1/2; beyond the edge there is its last value."""
    n = len(grid)
    weights = np.zeros((side, n))
    for i in range(side):
        at = (i + 0.5) / scale - 0.5
        for j in range(int(np.floor(at)) - 1, int(np.floor(at)) + 3):
            weights[i, min(max(j, 0), n - 1)] += keys(np.array(at - j))
    return np.einsum("ia,jb,abd->ijd", weights, weights, grid)


def originals(positions: torch.Tensor, grid: int = 16, offset: float = 0.1) -> np.ndarray:
    """facebookresearch/dinov2: a scale of (grid + 0.1) / n; the class token's stays. [1, 1 + grid * grid, D] float64."""
    stored = positions[0].double().numpy()
    n = int(np.sqrt(len(stored) - 1))
    patches = interpolated(stored[1:].reshape(n, n, -1), grid, (grid + offset) / n)
    return np.concatenate([stored[:1], patches.reshape(grid * grid, -1)])[None]


def theirs(network: VisionTransformer, pictures: np.ndarray, shape: dict[str, int]) -> np.ndarray:
    """Class tokens by timm's network for 224 px, of pictures squashed by Pillow and normalised in float64."""
    small = [np.asarray(Image.fromarray(x).resize((224, 224), Image.Resampling.BICUBIC)) for x in pictures]
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    pixels = torch.from_numpy(((np.stack(small) / 255 - mean) / std).transpose(0, 3, 1, 2)).float()
    at_224 = random_dinov2(side=224, **shape)
    state = network.state_dict() | {"pos_embed": torch.from_numpy(originals(network.pos_embed.detach())).float()}
    at_224.load_state_dict(state)
    with torch.no_grad():
        return at_224(pixels).numpy()


def spec(folder: Path) -> ExtractorSpec:
    return ExtractorSpec(id="x", kind="dinov2", location=str(folder))


def assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == np.float32 and found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * np.abs(expected).max())
    assert np.abs(expected[0] - expected[1]).max() > 0.01


@pytest.mark.parametrize(("height", "width"), [(224, 224), (256, 256), (150, 333)])
def test_features_are_timms_with_the_originals_positions(tmp_path: Path, height: int, width: int) -> None:
    """Pictures that are not square are squashed, not cropped."""
    network = random_dinov2(seed=3, **TINY_DINOV2)
    extractor = Dinov2Features(spec(write_dinov2(tmp_path, network)))
    assert_same(extractor(images(height, width)), theirs(network, images(height, width), TINY_DINOV2))


def test_positions_are_the_originals_and_not_transformers(tmp_path: Path) -> None:
    """The offset of 0.1 moves every sample; without it one has transformers' own resampling, which gives other features."""
    positions = torch.randn(1, 1 + 37 * 37, 8, generator=torch.Generator().manual_seed(0))
    found = resampled(positions, 16).numpy()
    np.testing.assert_allclose(found, originals(positions), rtol=0, atol=1e-4)
    other = originals(positions, offset=0.0)
    size = (16, 16)
    plain = torch.nn.functional.interpolate(positions[:, 1:].reshape(1, 37, 37, 8).permute(0, 3, 1, 2), size, mode="bicubic")
    np.testing.assert_allclose(plain.permute(0, 2, 3, 1).reshape(1, 256, 8).numpy(), other[:, 1:], rtol=0, atol=1e-4)
    assert np.abs(found - other).max() > 0.1
    assert torch.equal(resampled(positions, 37), positions)


@pytest.mark.ci
@pytest.mark.timeout(1800)
def test_the_published_architecture(tmp_path: Path) -> None:
    """ViT-L/14 as the catalog declares it: 304 M parameters."""
    declared = Registry.load().extractor("dinov2-vit-l-14")
    network = random_dinov2(seed=4, half=True)
    write_dinov2(tmp_path, network, half=True)
    found = Dinov2Features(declared.model_copy(update={"location": str(tmp_path)}))(images(256, 256))
    assert found.shape == (2, 1024)
    assert_same(found, theirs(network, images(256, 256), {}))

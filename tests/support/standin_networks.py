"""Stand-ins for the big networks of the paper's suites: seeded projections in numpy, declared as `standin_networks:Class`."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from sbv2bench.data.assets import resolve_location
from sbv2bench.specs import ExtractorSpec

WIDTH = 6


def write_standin(folder: Path, seed: int) -> Path:
    """Write model.safetensors, a [48, 6] projection; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    projection = np.random.default_rng(seed).standard_normal((48, WIDTH), dtype=np.float32)
    save_file({"projection": projection}, folder / "model.safetensors")
    return folder


class Features:
    """Means over a 4 x 4 grid of a 256 px image, projected."""

    image_size = 256

    def __init__(self, spec: ExtractorSpec, device: str = "cpu") -> None:
        self.spec = spec
        self.projection = load_file(resolve_location(spec.location) / "model.safetensors")["projection"]

    def __call__(self, images_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """[B, 6] float32."""
        height, width = (side // 4 for side in images_BHWC.shape[1:3])
        cells = images_BHWC.reshape(-1, 4, height, 4, width, 3).astype(np.float32).mean(axis=(2, 4)).reshape(-1, 48)
        order = cells.reshape(-1, 16, 3)[:, :, ::-1].reshape(-1, 48) if self.spec.channels == "bgr" else cells
        return np.stack([row @ self.projection / 255 for row in order])  # row by row: no block can change a bit


class Scorer(Features):
    """The same, with texts embedded by their hash; takes images of any size that 4 divides."""

    image_size = None

    def embed_images(self, images_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Unit rows [B, 6]."""
        found = self(images_BHWC)
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    def embed_text(self, captions: Sequence[str]) -> NDArray[np.float32]:
        """Unit rows [N, 6]."""
        digests = [hashlib.sha256((self.spec.prefix + caption).encode()).digest()[:WIDTH] for caption in captions]
        found = np.array([list(digest) for digest in digests], np.float32) + 1
        return found / np.linalg.norm(found, axis=1, keepdims=True)

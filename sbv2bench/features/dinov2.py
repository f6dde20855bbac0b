"""DINOv2 (Oquab et al. 2023) as FD-DINOv2 sees with it: layer6ai-labs/dgm-eval, which it comes from (Stein et al. 2023).

What dgm-eval does (models/dinov2.py, representations.py): the whole picture, whatever its shape, to 224 x 224 by Pillow's
bicubic filter on uint8, with antialiasing and without a crop; / 255; ImageNet's mean and deviation; the class token after the
last layer norm, not normalised, float32. Its flag --clean_resize resizes float pictures instead; it is off in its README.
NVlabs/edm2, whose FD-DINOv2 papers quote, resizes tensors by torch's antialiased bicubic unless it is told otherwise.

The weights have position embeddings for 37 x 37 patches (518 px). The original resamples them to 16 x 16 by a scale of
(16 + 0.1) / 37, bicubic without antialiasing (facebookresearch/dinov2, vision_transformer.py, interpolate_pos_encoding);
transformers and timm use 16 / 37, and timm antialiases, so theirs are other features. Here they are the original's.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import Parameter, functional
from transformers import Dinov2Model

from sbv2bench.errors import InputError, IntegrityError
from sbv2bench.features.base import to_tensor
from sbv2bench.features.pretrained import network_of
from sbv2bench.specs import ExtractorSpec

SIDE = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_OFFSET = 0.1  # "to avoid floating point error in the interpolation"; it moves every sample


class Dinov2Features:
    """Class tokens [B, D] float32 of a DINOv2 in the layout of transformers: config.json and model.safetensors."""

    image_size = None

    def __init__(self, spec: ExtractorSpec, device: str = "cpu") -> None:
        """Raises InputError on a preparation, of which there is one, PrerequisiteError where the weights are not there,
        IntegrityError where they are not a DINOv2's."""
        if spec.preparation:
            raise InputError(f"extractor {spec.id}: found preparation {spec.preparation!r}, expected none")
        self.device = device
        model = network_of(Dinov2Model, spec)
        grid, uneven = divmod(SIDE, int(model.config.patch_size))
        if uneven:
            raise IntegrityError(f"extractor {spec.id}: patches of {model.config.patch_size} px, expected a divisor of {SIDE}")
        stored = model.embeddings.position_embeddings.data
        model.embeddings.position_embeddings = Parameter(resampled(stored, grid), requires_grad=False)
        self.model = model.to(device)
        self._mean, self._std = (torch.tensor(x, device=device).view(1, 3, 1, 1) for x in (MEAN, STD))

    def __call__(self, images_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Features [B, D] float32 of uint8 RGB images [B, H, W, 3] of any size."""
        to_tensor(images_BHWC[:1], "cpu")  # raises on another shape or dtype
        small = [Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC) for image in images_BHWC]
        with torch.inference_mode():
            pixels = to_tensor(np.stack([np.asarray(image) for image in small]), self.device) / 255.0
            features: NDArray[np.float32] = self.model((pixels - self._mean) / self._std).pooler_output.cpu().numpy()
        return features


def resampled(positions: torch.Tensor, grid: int) -> torch.Tensor:
    """Position embeddings [1, 1 + n * n, D] for a grid x grid of patches, [1, 1 + grid * grid, D], as the original has them."""
    count, width = positions.shape[1] - 1, positions.shape[2]
    side = math.isqrt(count)
    if side == grid:
        return positions
    square = positions[:, 1:].reshape(1, side, side, width).permute(0, 3, 1, 2)
    square = functional.interpolate(square, scale_factor=(grid + _OFFSET) / side, mode="bicubic")
    return torch.cat([positions[:, :1], square.permute(0, 2, 3, 1).reshape(1, grid * grid, width)], dim=1)

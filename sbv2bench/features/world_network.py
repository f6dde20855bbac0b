"""The network behind every `-mini` Frechet distance and the attribute accuracy: a small CNN that names what a picture shows."""

from __future__ import annotations

import torch
from torch import nn

from sbv2bench.mini.world import ATTRIBUTES


class WorldNetwork(nn.Module):
    """Convolutions, a 128-wide penultimate layer (the features), and one linear head for each attribute of the world.

    Trained by `reference_trainer.base_models.extractor`; the features play the part of Inception's pool3.
    """

    def __init__(self, width: int = 32, features: int = 128) -> None:
        super().__init__()
        channels = (width, 2 * width, 2 * width, 3 * width, 3 * width, 4 * width)
        strides = (1, 2, 1, 2, 1, 2)
        layers: list[nn.Module] = []
        before = 3
        for after, stride in zip(channels, strides, strict=True):
            layers += [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
            before = after
        self.trunk = nn.Sequential(*layers)
        self.features = nn.Sequential(nn.Flatten(), nn.Linear(before * 16, features), nn.ReLU(inplace=True))
        self.heads = nn.ModuleDict({name: nn.Linear(features, len(values)) for name, values in ATTRIBUTES.items()})

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """images: [B, 3, 32, 32] in [-1, 1]. Returns features [B, 128] (>= 0) and logits [B, values] by attribute name."""
        features = self.features(self.trunk(images))
        return features, {name: head(features) for name, head in self.heads.items()}

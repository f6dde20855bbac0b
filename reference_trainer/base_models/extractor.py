"""The extractor: trained to name every attribute of a picture, so that its features see what captions speak of."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from reference_trainer.base_models.pictures import write_grid
from reference_trainer.base_models.stage import Batch, Stage, StageConfig
from sbv2bench.features.world_network import WorldNetwork
from sbv2bench.mini import rendering, world


class ExtractorConfig(StageConfig):
    """No fields of its own."""


class ExtractorStage(Stage[WorldNetwork]):
    """Cross-entropy over every attribute that the picture shows, the objects numbered by place."""

    def build(self) -> WorldNetwork:
        return WorldNetwork()

    def loss(self, network: WorldNetwork, batch: Batch, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        _, logits = network(batch.images)
        labels = torch.from_numpy(rendering.complete(batch.scenes, batch.keys, self.config.world_seed))
        losses = {
            name: F.cross_entropy(logits[name], labels[:, column], ignore_index=world.FREE)
            for column, name in enumerate(world.ATTRIBUTES)
            if bool((labels[:, column] != world.FREE).any())
        }
        return torch.stack(list(losses.values())).sum(), {name: float(value.detach()) for name, value in losses.items()}

    def export(self, network: WorldNetwork, folder: Path) -> None:
        self._scale_features(network)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {k: v.contiguous() for k, v in network.state_dict().items() if "num_batches" not in k}
        save_file(tensors, folder / "model.safetensors")

    def _scale_features(self, network: WorldNetwork) -> None:
        """Give real pictures' features a mean square of 1, so that distances have a readable size; predictions stay as they are.

        A rectified layer may be scaled if what reads it is scaled back.
        """
        features, _ = network(self.choosing(4000).images)
        scale = float(features.square().mean().rsqrt())
        layer, *heads = network.features[1], *network.heads.values()
        assert isinstance(layer, nn.Linear)
        layer.weight.mul_(scale)
        layer.bias.mul_(scale)
        for head in heads:
            assert isinstance(head, nn.Linear)
            head.weight.div_(scale)

    def measure(self, network: WorldNetwork, folder: Path) -> dict[str, float]:
        chosen = self.choosing(4000)
        labels = torch.from_numpy(rendering.complete(chosen.scenes, chosen.keys, self.config.world_seed))
        named = torch.from_numpy(chosen.scenes.attributes) != world.FREE
        _, logits = network(chosen.images)
        right = torch.stack([logits[name].argmax(1) == labels[:, column] for column, name in enumerate(world.ATTRIBUTES)], 1)
        misread = (~right & named).any(1)
        write_grid(folder / "misread.png", chosen.images[misread][:64], columns=min(16, int(misread.sum()) or 1))
        figures = {name: float(right[named[:, c], c].float().mean()) for c, name in enumerate(world.ATTRIBUTES)}
        return figures | {"all_named": float((right | ~named).all(1).float().mean())}

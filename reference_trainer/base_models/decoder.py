"""A better decoder of the latents there are: the encoder stays as it is, so teacher and students stay valid."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from open_clip.transformer import VisionTransformer
from torch import nn
from torch.nn import functional as F

from reference_trainer.base_models.autoencoder import AutoencoderConfig, AutoencoderStage, picture_error
from reference_trainer.base_models.clip import load_clip
from reference_trainer.base_models.stage import Batch
from sbv2bench.data.reference import reference_blocks
from sbv2bench.features.base import load_extractor
from sbv2bench.features.world import WorldExtractor
from sbv2bench.metrics.frechet import frechet_distance
from sbv2bench.registry import Registry
from sbv2bench.samplers.base import to_uint8


class DecoderConfig(AutoencoderConfig):
    kl_weight: float = 0.0  # the encoder is not trained
    feature_weight: float  # of the distance between features of the CLIP for training losses, besides the pixels' error


class DecoderStage(AutoencoderStage):
    """The autoencoder's own errors, and LPIPS's form of error in clip-mini-train; latents as the encoder samples them."""

    config: DecoderConfig

    def build(self) -> AutoencoderKL:
        wide = super().build()
        widen(AutoencoderKL.from_pretrained(self.inputs["autoencoder"]), wide)
        wide.encoder.requires_grad_(False)
        wide.quant_conv.requires_grad_(False)
        self.features = load_clip(self.inputs["clip-train"]).visual.eval().requires_grad_(False)
        return wide

    def loss(self, network: AutoencoderKL, batch: Batch, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        images = batch.images.contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            latents = network.encode(images).latent_dist.sample(batch.generator)
        decoded = network.decode(latents).sample
        pixels, features = picture_error(decoded, images), feature_error(self.features, decoded, images)
        mse = F.mse_loss(decoded.detach(), images)
        figures = {"pixels": float(pixels.detach()), "features": float(features.detach())}
        return pixels + self.config.feature_weight * features, figures | {"psnr_db": float(10 * torch.log10(4.0 / mse))}

    def export(self, network: AutoencoderKL, folder: Path) -> None:
        """With the scaling that the latents have, to the digit: the teacher knows no other."""
        scaling = AutoencoderKL.load_config(self.inputs["autoencoder"])["scaling_factor"]
        network.register_to_config(scaling_factor=scaling)
        network.to(memory_format=torch.contiguous_format).save_pretrained(folder)

    def measure(self, network: AutoencoderKL, folder: Path) -> dict[str, float]:
        return super().measure(network, folder) | {"floor": floor(network, self.choosing(5000).images)}


@torch.no_grad()
def floor(network: AutoencoderKL, images: torch.Tensor) -> float:
    """FID-mini of pictures [N, 3, 32, 32] in [-1, 1] that went through an autoencoder, against mini-choosing's reference."""
    registry = Registry.load()
    extract = load_extractor(registry.extractor("world-128"))
    assert isinstance(extract, WorldExtractor)
    decoded = (network.decode(network.encode(part).latent_dist.mean).sample for part in images.split(200))
    found = [extract(to_uint8(part / 2 + 0.5)) for part in decoded]
    reference = [extract(block) for block in reference_blocks(registry.suite("mini-choosing"))]
    return frechet_distance(np.concatenate(found), np.concatenate(reference))


def feature_error(tower: VisionTransformer, decoded: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """LPIPS's distance (arXiv 1801.03924, without learnt weights) in the blocks of a vision transformer of OpenCLIP.

    Each patch's features [width] after each block are made unit vectors; the squared distance of the two pictures' is summed
    over width and averaged over patches, blocks and pictures. Pictures [B, 3, 32, 32] in [-1, 1]; 0 (equal) to 4.
    """
    found = [
        tower.forward_intermediates(x, output_fmt="NLC", intermediates_only=True)["image_intermediates"]
        for x in (decoded, images)
    ]
    distances = [F.normalize(a, dim=-1) - F.normalize(b, dim=-1) for a, b in zip(*found, strict=True)]
    return torch.stack([distance.square().sum(-1).mean() for distance in distances]).mean()


@torch.no_grad()
def widen(narrow: AutoencoderKL, wide: AutoencoderKL) -> None:
    """Give `wide`, of more channels in as many more normalisation groups, weights with which it computes what `narrow` does.

    The encoder's new channels are zero. The decoder's are random and read by nothing yet: what they are worth is learnt from
    the first step on. Raises ValueError where groups would mix old channels with new ones.
    """
    sizes = [[n // net.config.norm_num_groups for n in net.config.block_out_channels] for net in (narrow, wide)]
    if sizes[0] != sizes[1]:
        raise ValueError(f"widen: found groups of {sizes[1]} channels, expected {sizes[0]}, as in the narrower network")
    stored = narrow.state_dict()
    for name, weight in wide.named_parameters():
        _place(stored[name], weight, silent=name.startswith("encoder"), affine="norm" in name)
    width, wider = narrow.config.block_out_channels[-1], wide.config.block_out_channels[-1]
    for part in (wide.encoder, wide.decoder):
        for attention in part.mid_block.attentions:
            attention.to_k.weight[width:] = 0.0  # scores are the old channels' alone
            for parameter in attention.to_q.parameters():
                parameter.mul_(math.sqrt(wider / width))  # and divided by the root of the width


def _place(old: torch.Tensor, new: nn.Parameter, *, silent: bool, affine: bool) -> None:
    """The old weight or bias into the first rows and columns. affine: a normalisation's, whose new entries stay 1 and 0."""
    rows = len(old)
    if silent or (new.ndim == 1 and not affine):
        new.zero_()
    if new.ndim == 1:
        new[:rows] = old
    else:
        new[:rows, old.shape[1] :] = 0.0
        new[:rows, : old.shape[1]] = old

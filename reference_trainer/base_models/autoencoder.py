"""The latent space: an AutoencoderKL (f = 4), and the AutoencoderTiny that decodes it cheaply for training losses."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch.nn import functional as F

from reference_trainer.base_models.pictures import write_grid
from reference_trainer.base_models.stage import Batch, Stage, StageConfig
from sbv2bench.mini import world


class AutoencoderConfig(StageConfig):
    latent_channels: int
    block_out_channels: tuple[int, ...]
    kl_weight: float
    norm_groups: int = 8


class AutoencoderStage(Stage[AutoencoderKL]):
    """Absolute error of pixels and of their differences, and a little KL so that the decoder bears noise in the latents."""

    config: AutoencoderConfig

    def build(self) -> AutoencoderKL:
        stages = len(self.config.block_out_channels)
        return AutoencoderKL(
            block_out_channels=self.config.block_out_channels,
            down_block_types=("DownEncoderBlock2D",) * stages,
            up_block_types=("UpDecoderBlock2D",) * stages,
            layers_per_block=1,
            latent_channels=self.config.latent_channels,
            norm_num_groups=self.config.norm_groups,
            sample_size=world.IMAGE_SIZE,
        ).to(memory_format=torch.channels_last)

    def loss(self, network: AutoencoderKL, batch: Batch, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        images = batch.images.contiguous(memory_format=torch.channels_last)
        posterior = network.encode(images).latent_dist
        decoded = network.decode(posterior.sample(batch.generator)).sample
        pixels = picture_error(decoded, images)
        kl = 0.5 * (posterior.mean.square() + posterior.var - 1.0 - posterior.logvar).mean()
        mse = F.mse_loss(decoded.detach(), images)
        return pixels + self.config.kl_weight * kl, {"kl": float(kl.detach()), "psnr_db": float(10 * torch.log10(4.0 / mse))}

    def export(self, network: AutoencoderKL, folder: Path) -> None:
        latents = torch.cat([network.encode(x).latent_dist.mean for x in self.choosing(2000).images.split(200)])
        network.register_to_config(scaling_factor=round(float(1.0 / latents.std()), 5))
        network.to(memory_format=torch.contiguous_format).save_pretrained(folder)

    def measure(self, network: AutoencoderKL, folder: Path) -> dict[str, float]:
        images = self.choosing(2000).images
        decoded = torch.cat([network.decode(network.encode(x).latent_dist.mean).sample for x in images.split(200)])
        write_grid(folder / "reconstructions.png", torch.stack([images[:32], decoded[:32]], 1).flatten(0, 1), columns=16)
        return {"psnr_db": _psnr(decoded, images), "scaling_factor": network.config.scaling_factor}


class TinyAutoencoderConfig(StageConfig):
    width: int


class TinyAutoencoderStage(Stage[AutoencoderTiny]):
    """Learns both ways against the trained AutoencoderKL, in its *scaled* latents, as TAESD does for Stable Diffusion."""

    config: TinyAutoencoderConfig

    def build(self) -> AutoencoderTiny:
        self.full = AutoencoderKL.from_pretrained(self.inputs["autoencoder"]).eval().requires_grad_(False)
        channels = (self.config.width,) * len(self.full.config.block_out_channels)
        return AutoencoderTiny(
            encoder_block_out_channels=channels,
            decoder_block_out_channels=channels,
            num_encoder_blocks=(1, 1, 1),
            num_decoder_blocks=(2, 1, 1),
            latent_channels=self.full.config.latent_channels,
            scaling_factor=1.0,
        )

    def loss(self, network: AutoencoderTiny, batch: Batch, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        with torch.no_grad():
            latents = self.full.encode(batch.images).latent_dist.mean * self.full.config.scaling_factor
        noisy = latents + 0.05 * torch.randn(latents.shape, generator=batch.generator)
        pixels = picture_error(network.decode(noisy).sample, batch.images)
        encoded = F.l1_loss(network.encode(batch.images).latents, latents)
        return pixels + 0.1 * encoded, {"pixels": float(pixels.detach()), "latents": float(encoded.detach())}

    def export(self, network: AutoencoderTiny, folder: Path) -> None:
        network.save_pretrained(folder)

    def measure(self, network: AutoencoderTiny, folder: Path) -> dict[str, float]:
        images = self.choosing(2000).images
        latents = self.full.encode(images).latent_dist.mean * self.full.config.scaling_factor
        decoded = network.decode(latents).sample
        write_grid(folder / "reconstructions.png", torch.stack([images[:32], decoded[:32]], 1).flatten(0, 1), columns=16)
        return {"psnr_db": _psnr(decoded, images), "latents_mae": float(F.l1_loss(network.encode(images).latents, latents))}


def picture_error(decoded: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Mean absolute error of pixels, plus that of horizontal and vertical differences (edges), plus squared error."""
    error = decoded - images
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return error.abs().mean() + 0.5 * edges + error.square().mean()


def _psnr(decoded: torch.Tensor, images: torch.Tensor) -> float:
    """Decibels, of pixels in [-1, 1]."""
    return float(10 * torch.log10(4.0 / F.mse_loss(decoded.clamp(-1, 1), images)))

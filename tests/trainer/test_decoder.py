"""A widened autoencoder computes what the narrower one does; training it moves the decoder alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL

from reference_trainer.base_models.clip import load_clip
from reference_trainer.base_models.decoder import DecoderConfig, DecoderStage, feature_error, widen
from reference_trainer.base_models.stage import StageTrainer
from sbv2bench import paths

CLIP = paths.package_weights() / "clip-train"


def autoencoder(channels: tuple[int, ...], groups: int, seed: int) -> AutoencoderKL:
    torch.manual_seed(seed)
    blocks = len(channels)
    network = AutoencoderKL(
        block_out_channels=channels, down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks, layers_per_block=1, latent_channels=3, norm_num_groups=groups,
        sample_size=32, scaling_factor=0.75,
    )  # fmt: skip
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # normalisations and biases too
    return network


def config(**changes: object) -> DecoderConfig:
    values = {"stage": "decoder", "seed": 3, "steps": 4, "batch_size": 4, "learning_rate": 1e-2, "latent_channels": 3}
    values |= {"block_out_channels": (12, 24, 24), "norm_groups": 6, "feature_weight": 2.0, "warmup_steps": 1}
    return DecoderConfig.model_validate(values | changes)


@pytest.fixture
def narrow(tmp_path: Path) -> AutoencoderKL:
    autoencoder((8, 16, 16), 4, seed=0).save_pretrained(tmp_path / "narrow")
    return AutoencoderKL.from_pretrained(tmp_path / "narrow")


def test_it_computes_the_same(narrow: AutoencoderKL) -> None:
    wide = autoencoder((12, 24, 24), 6, seed=1)
    widen(narrow, wide)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        latents = narrow.encode(images).latent_dist.parameters
        torch.testing.assert_close(wide.encode(images).latent_dist.parameters, latents, atol=2e-5, rtol=1e-4)
        expected = narrow.decode(latents[:, :3]).sample
        torch.testing.assert_close(wide.decode(latents[:, :3]).sample, expected, atol=2e-5, rtol=1e-4)


def test_groups_that_would_mix_old_channels_with_new_are_refused(narrow: AutoencoderKL) -> None:
    with pytest.raises(ValueError, match="groups"):
        widen(narrow, autoencoder((16, 32, 32), 4, seed=1))


def test_training_moves_the_decoder_alone_and_keeps_the_scaling(narrow: AutoencoderKL, tmp_path: Path) -> None:
    trainer = StageTrainer(DecoderStage(config(), {"autoencoder": tmp_path / "narrow", "clip-train": CLIP}), 0, 1)
    before = {name: value.clone() for name, value in trainer.network.state_dict().items()}
    figures = [trainer.take_step() for _ in range(4)]
    moved = {name for name, value in trainer.network.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {name for name in before if name.startswith(("decoder", "post_quant"))}
    assert set(trainer.trained("network")) == moved  # of several processes a weight without a gradient would decay
    assert figures[-1]["loss"] == pytest.approx(figures[-1]["pixels"] + 2 * figures[-1]["features"], rel=1e-5)
    trainer.stage.export(trainer.network, tmp_path / "export")
    assert AutoencoderKL.load_config(tmp_path / "export")["scaling_factor"] == 0.75


def test_features_are_those_that_leave_each_block() -> None:
    tower = load_clip(paths.package_weights() / "clip-train").visual.eval()
    decoded, images = (torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(k)) * 2 - 1 for k in range(2))
    seen: list[torch.Tensor] = []
    for block in tower.transformer.resblocks:
        block.register_forward_hook(lambda _module, _inputs, output: seen.append(output[:, 1:]))
    tower(decoded)
    tower(images)
    blocks = len(tower.transformer.resblocks)
    cosines = [torch.cosine_similarity(a, b, dim=-1).mean() for a, b in zip(seen[:blocks], seen[blocks:], strict=True)]
    expected = torch.stack([2 - 2 * cosine for cosine in cosines]).mean()  # of unit vectors
    torch.testing.assert_close(feature_error(tower, decoded, images), expected)
    assert feature_error(tower, images, images) == 0

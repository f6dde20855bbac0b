"""The teacher: a text-conditioned latent diffusion UNet on Stable Diffusion's noise schedule, with its text encoder.

Velocity prediction: at this size an epsilon network's one-step x0, divided by alpha_T = 0.068, is noise.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import nn
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from reference_trainer.base_models.clip import WorldTokenizer
from reference_trainer.base_models.growth import deepen
from reference_trainer.base_models.pictures import write_grid
from reference_trainer.base_models.stage import Batch, Stage, StageConfig
from reference_trainer.base_models.tokenizer import CONTEXT_LENGTH
from sbv2bench.diffusion import Schedule
from sbv2bench.mini import world


class TeacherConfig(StageConfig):
    block_out_channels: tuple[int, ...]
    layers_per_block: int
    attention_heads: int
    text_width: int
    text_layers: int
    noises_per_picture: int  # noise levels that each encoded picture is used with; batch_size counts pictures
    null_share: float  # captions replaced by "" for classifier-free guidance
    min_snr: float | None = None  # Hang et al. 2023: clamp of the signal-to-noise ratio in the weight; None: plain velocity error
    reading_weight: float = 0.0  # of the loss by which the text encoder's last state must name what the caption says
    start_from: str = ""  # rung whose UNet, which may be shallower, and text encoder are trained on; "": from nothing
    shipped_guidance_scale: float = 1.0


class TeacherNetworks(nn.Module):
    """The two trained networks under one roof, and the heads of the reading loss, which are not exported."""

    def __init__(self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder
        width = text_encoder.config.hidden_size
        self.readers = nn.ModuleDict({name: nn.Linear(width, len(values)) for name, values in world.ATTRIBUTES.items()})

    def reading_loss(self, last_states: torch.Tensor, attributes: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of what each caption names, from the state [B, D] of its last token, which has seen the sentence.

        attributes: int64 [B, 9], objects numbered by place, `world.FREE` where nothing is named. Stable Diffusion's text
        encoder comes with CLIP's training; ours, taught by denoising alone, put two objects in an order at chance.
        """
        named = {name: attributes[:, column] for column, name in enumerate(world.ATTRIBUTES)}
        losses = [
            functional.cross_entropy(self.readers[name](last_states), label, ignore_index=world.FREE)
            for name, label in named.items()
            if bool((label != world.FREE).any())
        ]
        return torch.stack(losses).sum()


class TeacherStage(Stage[TeacherNetworks]):
    """Denoising by velocity; text encoder trained along; 10 % null prompts."""

    config: TeacherConfig

    def build(self) -> TeacherNetworks:
        torch.manual_seed(self.config.seed)
        self.vae = AutoencoderKL.from_pretrained(self.inputs["autoencoder"]).eval().requires_grad_(False)
        self.vae.to(memory_format=torch.channels_last)
        self.tokenize = WorldTokenizer(self.inputs["tokenizer"])
        self.scheduler = DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
            prediction_type="v_prediction",
            timestep_spacing="trailing",
        )
        schedule = Schedule.from_config(self.scheduler.config)
        self.alpha, self.sigma = (schedule.alphas_cumprod.sqrt().float(), (1 - schedule.alphas_cumprod).sqrt().float())
        self.weight = velocity_weight(schedule, self.config.min_snr)
        unet = UNet2DConditionModel(
            sample_size=world.IMAGE_SIZE // 4,
            in_channels=self.vae.config.latent_channels,
            out_channels=self.vae.config.latent_channels,
            block_out_channels=self.config.block_out_channels,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            layers_per_block=self.config.layers_per_block,
            cross_attention_dim=self.config.text_width,
            attention_head_dim=self.config.attention_heads,  # the UNet reads this as the number of heads
            norm_num_groups=8,
        ).to(memory_format=torch.channels_last)
        special = self.tokenize.tokenizer
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=self.tokenize.size,
                hidden_size=self.config.text_width,
                intermediate_size=4 * self.config.text_width,
                projection_dim=self.config.text_width,
                num_hidden_layers=self.config.text_layers,
                num_attention_heads=4,
                max_position_embeddings=CONTEXT_LENGTH,
                bos_token_id=special.bos_token_id,
                eos_token_id=special.eos_token_id,
                pad_token_id=special.pad_token_id,
            )
        )
        if self.config.start_from:
            start = self.inputs[self.config.start_from]
            deepen(UNet2DConditionModel.from_pretrained(start / "unet"), unet)
            text_encoder.load_state_dict(CLIPTextModel.from_pretrained(start / "text_encoder").state_dict())
        return TeacherNetworks(unet, text_encoder)

    def loss(self, network: TeacherNetworks, batch: Batch, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        repeats = self.config.noises_per_picture
        images = batch.images.contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            latents = (self.vae.encode(images).latent_dist.mean * self.vae.config.scaling_factor).repeat(repeats, 1, 1, 1)
        captions = ["", *world.captions(batch.scenes)]
        states = network.text_encoder(self.tokenize(captions)).last_hidden_state
        null = torch.rand(len(latents), generator=batch.generator) < self.config.null_share
        row = torch.arange(1, len(captions)).repeat(repeats).masked_fill(null, 0)
        timesteps = torch.randint(0, 1000, (len(latents),), generator=batch.generator)
        noise = torch.randn(latents.shape, generator=batch.generator)
        alpha, sigma = self.alpha[timesteps][:, None, None, None], self.sigma[timesteps][:, None, None, None]
        noised = (alpha * latents + sigma * noise).contiguous(memory_format=torch.channels_last)
        velocity = network.unet(noised, timesteps, states[row]).sample
        error = (velocity - (alpha * noise - sigma * latents)).square().mean((1, 2, 3))
        figures = {"velocity_mse": float(error.detach().mean())}
        loss = (self.weight[timesteps] * error).mean()
        if self.config.reading_weight:
            reading = network.reading_loss(states[1:, -1], torch.from_numpy(batch.scenes.attributes))
            loss, figures["reading"] = loss + self.config.reading_weight * reading, float(reading.detach())
        return loss, figures

    def export(self, network: TeacherNetworks, folder: Path) -> None:
        self.pipeline(network).save_pretrained(folder)
        for file in self.inputs["tokenizer"].iterdir():  # vocab.json and merges.txt too, which older transformers read
            shutil.copy(file, folder / "tokenizer" / file.name)
        spec = {
            "id": "mini/sd21",
            "family": "mini",
            "sampler": "multi_step",
            "location": "package:mini/sd21",
            "steps": 25,
            "guidance_scale": self.config.shipped_guidance_scale,
        }
        (folder / "sbv2bench.json").write_text(json.dumps(spec, indent=1))

    def pipeline(self, network: TeacherNetworks) -> StableDiffusionPipeline:
        """The networks as a genuine Stable Diffusion pipeline."""
        return StableDiffusionPipeline(
            vae=self.vae.to(memory_format=torch.contiguous_format),
            text_encoder=network.text_encoder,
            tokenizer=CLIPTokenizer.from_pretrained(self.inputs["tokenizer"]),
            unet=network.unet.to(memory_format=torch.contiguous_format),
            scheduler=self.scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )

    def measure(self, network: TeacherNetworks, folder: Path) -> dict[str, float]:
        pipeline = self.pipeline(network)
        pipeline.set_progress_bar_config(disable=True)
        captions = world.captions(world.scenes("choosing", np.arange(64), self.config.world_seed))
        generators = [torch.Generator().manual_seed(i) for i in range(64)]
        out = pipeline(captions, num_inference_steps=25, guidance_scale=3.0, generator=generators, output_type="pt").images
        write_grid(folder / "samples.png", out * 2 - 1, columns=16)
        (folder / "samples.txt").write_text("\n".join(captions))
        return {"parameters_millions": round(sum(p.numel() for p in network.parameters()) / 1e6, 3)}


def velocity_weight(schedule: Schedule, min_snr: float | None) -> torch.Tensor:
    """Weight of the squared velocity error at each timestep, float32 [T].

    E|v error|^2 = (snr + 1) |x0 error|^2, so min(snr, c) of the x0 loss is min(snr, c) / (snr + 1) on the velocity's: about
    alpha-bar at high noise, where the layout of a picture is decided. None weighs all alike.
    """
    if min_snr is None:
        return torch.ones(len(schedule))
    ratio = schedule.alphas_cumprod / (1 - schedule.alphas_cumprod)
    return (ratio.clamp(max=min_snr) / (ratio + 1)).float()

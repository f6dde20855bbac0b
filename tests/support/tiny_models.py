"""Random-weight models in genuine diffusers layouts, small enough that a test can write and sample one in a second.

They make noise, not pictures: what is tested is plumbing and arithmetic, never quality.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import peft
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

TOKENS = 16  # the text encoder's maximum length
IMAGE_SIZE = 32
CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789,.!-'"
_UNET: dict[str, Any] = {
    "sample_size": 8,
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 16,
    "attention_head_dim": 2,
    "norm_num_groups": 8,
}
WORDS = ("red", "blue", "circle", "square", "photo", "of", "large", "star")


def write_tiny_pipeline(
    folder: Path,
    prediction_type: str = "v_prediction",
    latent_channels: int = 8,
    seed: int = 0,
    *,
    vae: str = "AutoencoderKL",
    scheduler: object | None = None,
) -> Path:
    """Write a StableDiffusionPipeline folder (32 px images, 8x8 latents, 16 tokens, float32 safetensors); returns it.

    prediction_type: epsilon, v_prediction or sample. vae: AutoencoderKL or AutoencoderTiny (scaling_factor 1).
    scheduler: a diffusers scheduler; by default DDIM with Stable Diffusion's constants and trailing timesteps.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipeline = StableDiffusionPipeline(
            vae=tiny_autoencoder(latent_channels) if vae == "AutoencoderTiny" else _kl_vae(latent_channels),
            text_encoder=tiny_text_encoder(),
            tokenizer=tiny_tokenizer(),
            unet=tiny_unet(latent_channels),
            scheduler=sd_scheduler(prediction_type) if scheduler is None else scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipeline.save_pretrained(folder)
    return Path(folder)


def write_tiny_sdxl(folder: Path, seed: int = 0) -> Path:
    """Write a StableDiffusionXLPipeline folder (32 px images, two text encoders, force_upcast as SDXL's); returns it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipeline = StableDiffusionXLPipeline(
            vae=_kl_vae(4),
            text_encoder=tiny_text_encoder(),
            text_encoder_2=CLIPTextModelWithProjection(tiny_text_encoder().config),
            tokenizer=tiny_tokenizer(),
            tokenizer_2=tiny_tokenizer(),
            unet=UNet2DConditionModel(
                **_UNET | {"in_channels": 4, "out_channels": 4, "cross_attention_dim": 32},
                addition_embed_type="text_time",
                addition_time_embed_dim=8,
                projection_class_embeddings_input_dim=6 * 8 + 16,
            ),
            scheduler=sd_scheduler("epsilon"),
            force_zeros_for_empty_prompt=True,
            add_watermarker=False,
        )
    pipeline.save_pretrained(folder)
    return Path(folder)


def write_tiny_sd3(folder: Path, seed: int = 0) -> Path:
    """Write a StableDiffusion3Pipeline folder: a transformer, two of its three text encoders, 16 x 16 px images; returns it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipeline = StableDiffusion3Pipeline(
            transformer=SD3Transformer2DModel(
                sample_size=4, patch_size=1, in_channels=4, out_channels=4, num_layers=1, attention_head_dim=8,
                num_attention_heads=4, caption_projection_dim=32, joint_attention_dim=32, pooled_projection_dim=32,
            ),
            scheduler=FlowMatchEulerDiscreteScheduler(),
            vae=_kl_vae(4, shift_factor=0.06),
            text_encoder=CLIPTextModelWithProjection(tiny_text_encoder().config),
            tokenizer=tiny_tokenizer(),
            text_encoder_2=CLIPTextModelWithProjection(tiny_text_encoder().config),
            tokenizer_2=tiny_tokenizer(),
            text_encoder_3=None,
            tokenizer_3=None,
        )  # fmt: skip
    pipeline.save_pretrained(folder)
    return Path(folder)


def write_tiny_student(folder: Path, start: Path, seed: int) -> Path:
    """Write a copy of a pipeline folder whose UNet is another random one of the same shape: what training leaves; returns it."""
    shutil.copytree(start, folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(start / "unet"))
    unet.save_pretrained(folder / "unet")
    return folder


def sd_scheduler(
    prediction_type: str = "v_prediction", scheduler_class: type = DDIMScheduler, **changes: object
) -> DDIMScheduler:
    """A diffusers scheduler with Stable Diffusion's schedule: scaled_linear 0.00085 .. 0.012, 1000 steps, trailing."""
    constants = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "num_train_timesteps": 1000,
        "prediction_type": prediction_type,
        "timestep_spacing": "trailing",
        "steps_offset": 1,
    }
    if scheduler_class is DDIMScheduler:
        constants |= {"clip_sample": False, "set_alpha_to_one": False}
    return scheduler_class(**(constants | changes))


def tiny_tokenizer() -> CLIPTokenizer:
    """A CLIPTokenizer whose vocabulary is a few characters and a few words."""
    vocabulary: dict[str, int] = {}
    for character in CHARACTERS:
        vocabulary[character] = len(vocabulary)
        vocabulary[character + "</w>"] = len(vocabulary)
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        built = word[0]
        for place, character in enumerate(word[1:], start=2):
            piece = character + ("</w>" if place == len(word) else "")
            if (built, piece) not in merges:
                merges.append((built, piece))
            built += piece
            vocabulary.setdefault(built, len(vocabulary))
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocabulary[special] = len(vocabulary)
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=TOKENS)


def tiny_unet(latent_channels: int = 8) -> UNet2DConditionModel:
    """UNet2DConditionModel on [B, latent_channels, 8, 8], about 0.2 M parameters."""
    return UNet2DConditionModel(**_UNET | {"in_channels": latent_channels, "out_channels": latent_channels})


def write_tiny_adapter(folder: Path, unet: UNet2DConditionModel, base: str, seed: int = 0) -> Any:
    """Write a random LoRA on a UNet, which it changes, to folder/unet_lora in peft's layout, as base's; returns peft's model."""
    config = peft.LoraConfig(r=2, lora_alpha=4, target_modules=["to_q", "to_v", "conv1"], init_lora_weights=False)
    adapted = peft.get_peft_model(unet, config)
    random = torch.Generator().manual_seed(seed)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2, generator=random)
    adapted.save_pretrained(folder / "unet_lora")
    path = folder / "unet_lora" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": base}))
    return adapted.eval()


def tiny_text_encoder() -> CLIPTextModel:
    tokenizer = tiny_tokenizer()
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=32,
            projection_dim=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            initializer_factor=4.0,  # so that captions differ in the picture although nothing was trained
        )
    )


def _kl_vae(latent_channels: int, **changes: float) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=latent_channels,
        **changes,
        norm_num_groups=8,
        sample_size=IMAGE_SIZE,
        scaling_factor=0.18215,
    )


def tiny_autoencoder(latent_channels: int) -> AutoencoderTiny:
    vae = AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8),
        decoder_block_out_channels=(8, 8, 8),
        num_encoder_blocks=(1, 1, 1),
        num_decoder_blocks=(1, 1, 1),
        latent_channels=latent_channels,
        scaling_factor=1.0,
        upsampling_scaling_factor=2,
    )
    with torch.no_grad():
        vae.decoder.layers[-1].weight *= 20.0  # so that pictures are not all black although nothing was trained
        vae.decoder.layers[-1].bias += 0.5
    return vae

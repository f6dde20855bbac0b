"""A training step as published one-step trainers write it with diffusers, peft and accelerate: what ours is measured against.

Method, captions, batch and precision are the recipe's. What is plain: the frozen base in float32 under autocast, NCHW tensors,
both networks' gradients accumulated micro-batch by micro-batch, the moving average a tensor at a time, losses read for the log
after every micro-batch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch
from accelerate import Accelerator
from diffusers import AutoencoderTiny, DDPMScheduler, UNet2DConditionModel
from diffusers.training_utils import EMAModel
from peft import LoraConfig
from safetensors.torch import load_file
from torch.nn import functional
from transformers import CLIPTextModel, CLIPTokenizer

from reference_trainer.config import Lora, Recipe

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def plain_loop(recipe: Recipe, base: Path, taesd: Path, clip: Path, device: torch.device) -> Callable[[Sequence[str]], None]:
    """Load everything; returns a function that takes one step on a batch of captions.

    base: a StableDiffusionPipeline's folder, the teacher and the student's start. taesd, clip: read by a recipe with `clip`.
    """
    assert recipe.lora_teacher is not None and recipe.vsd is not None
    accelerator = Accelerator(
        mixed_precision="bf16" if recipe.precision == "bfloat16" else "no",
        gradient_accumulation_steps=recipe.batch_size // (recipe.micro_batch_size or recipe.batch_size),
        cpu=device.type == "cpu",
    )
    tokenizer = CLIPTokenizer.from_pretrained(base / "tokenizer")
    text_encoder = CLIPTextModel.from_pretrained(base / "text_encoder", dtype=torch.float32).to(device).requires_grad_(False)
    schedule = DDPMScheduler.from_pretrained(base / "scheduler")
    teacher = UNet2DConditionModel.from_pretrained(base / "unet", torch_dtype=torch.float32).requires_grad_(False)
    teacher.add_adapter(_lora(recipe.lora_teacher.lora))
    student = UNet2DConditionModel.from_pretrained(base / "unet", torch_dtype=torch.float32)
    if recipe.student.lora is not None:
        student.requires_grad_(False)
        student.add_adapter(_lora(recipe.student.lora))
    student.train()
    if recipe.gradient_checkpointing:
        teacher.enable_gradient_checkpointing()
        student.enable_gradient_checkpointing()
    teacher.to(device)
    student.to(device)
    trained = [[p for p in network.parameters() if p.requires_grad] for network in (student, teacher)]
    settings = recipe.optimiser
    rates = (recipe.student.learning_rate, recipe.lora_teacher.learning_rate)
    optimisers = [
        torch.optim.AdamW(own, lr=rate, betas=settings.betas, eps=settings.epsilon, weight_decay=settings.weight_decay)
        for own, rate in zip(trained, rates, strict=True)
    ]
    student, teacher, *prepared = accelerator.prepare(student, teacher, *optimisers)
    average = EMAModel(trained[0]) if recipe.ema is not None else None
    decoder = AutoencoderTiny.from_pretrained(taesd).to(device, torch.float32).requires_grad_(False) if recipe.clip else None
    scorer = _clip(clip, device) if recipe.clip else None
    alphas = schedule.alphas_cumprod.to(device)
    scale, channels, side = recipe.vsd.teacher_guidance_scale, student.config.in_channels, student.config.sample_size

    def encode(captions: Sequence[str]) -> torch.Tensor:
        ids = tokenizer(
            list(captions), padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
        ).input_ids  # fmt: skip
        with torch.no_grad(), accelerator.autocast():
            states: torch.Tensor = text_encoder(ids.to(device))[0]
        return states

    def guided(x_t: torch.Tensor, t: torch.Tensor, text: torch.Tensor, null: torch.Tensor) -> torch.Tensor:
        output = teacher(torch.cat([x_t] * 2), torch.cat([t] * 2), torch.cat([null, text])).sample
        without, with_text = output.float().chunk(2)
        return without + scale * (with_text - without)

    def clip_loss(x0: torch.Tensor, captions: Sequence[str]) -> torch.Tensor:
        assert decoder is not None and scorer is not None and recipe.clip is not None
        few = max(1, round(len(captions) * recipe.clip.share))
        with accelerator.autocast():
            pixels = decoder.decode(x0[:few] / decoder.config.scaling_factor).sample.float() / 2 + 0.5
        images = functional.interpolate(pixels.clamp(0, 1), scorer.visual.image_size, mode="bicubic", antialias=True)
        mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
        with torch.no_grad():
            words = scorer.encode_text(open_clip.tokenize(list(captions[:few])).to(device), normalize=True)
        cosine = (scorer.encode_image((images - mean) / std, normalize=True) * words).sum(1)
        return recipe.clip.weight * functional.relu(recipe.clip.threshold - cosine).mean()

    def noised(x0: torch.Tensor, first: int, last: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        t, noise = torch.randint(first, last + 1, (len(x0),), device=device), torch.randn_like(x0)
        return schedule.add_noise(x0, noise, t), noise, t

    def micro_step(captions: Sequence[str]) -> tuple[float, float]:
        text, null = encode(captions), encode([""] * len(captions))
        with accelerator.accumulate(student, teacher):
            z = torch.randn(len(captions), channels, side, side, device=device)
            alpha = alphas[recipe.student.timestep]
            x0 = (z - (1 - alpha).sqrt() * student(z, recipe.student.timestep, text).sample.float()) / alpha.sqrt()
            with torch.no_grad():
                x_t, _, t = noised(x0, recipe.vsd.first_timestep, recipe.vsd.last_timestep)  # type: ignore[union-attr]
                accelerator.unwrap_model(teacher).disable_adapters()
                real = guided(x_t, t, text, null)
                accelerator.unwrap_model(teacher).enable_adapters()
                fake = guided(x_t, t, text, null)
                gradient = (1 - alphas[t]).view(-1, 1, 1, 1) * (real - fake)
            loss = 0.5 * functional.mse_loss(x0, (x0 - gradient).detach())
            if recipe.clip is not None:
                loss = loss + clip_loss(x0, captions)
            accelerator.backward(loss)
            _update(accelerator, trained[0], prepared[0], settings.gradient_clip)
            if accelerator.sync_gradients and average is not None:
                average.step(trained[0])
            x_t, noise, t = noised(x0.detach(), 0, 999)
            error = (teacher(x_t, t, text).sample.float() - noise).square().flatten(1).mean(1)
            lora_loss = (alphas[t] * error).mean()
            accelerator.backward(lora_loss)
            _update(accelerator, trained[1], prepared[1], settings.gradient_clip)
        return float(loss.detach().item()), float(lora_loss.detach().item())

    def take_step(captions: Sequence[str]) -> None:
        size = recipe.micro_batch_size or len(captions)
        for start in range(0, len(captions), size):
            micro_step(captions[start : start + size])

    return take_step


def _update(accelerator: Accelerator, parameters: list[Any], optimiser: Any, clip: float) -> None:
    if accelerator.sync_gradients:
        accelerator.clip_grad_norm_(parameters, clip)
    optimiser.step()
    optimiser.zero_grad()


def _lora(lora: Lora) -> LoraConfig:
    return LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=list(lora.targets), init_lora_weights="gaussian")


def _clip(folder: Path, device: torch.device) -> Any:
    model = open_clip.CLIP(**json.loads((folder / "open_clip_config.json").read_text("utf-8"))["model_cfg"])
    model.load_state_dict(load_file(folder / "open_clip_model.safetensors"))
    return model.float().eval().requires_grad_(False).to(device)

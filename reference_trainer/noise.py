"""Every random number of a training run, keyed by (seed, step, sample): nothing to save, nothing that processes share.

Sample n of step k is row n of the global batch, whichever process or micro-batch it falls to, so a run that is resumed,
accumulated or spread over processes draws the same numbers. All draws are made on the CPU in float32.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reference_trainer.config import LoraTeacher, Range, Vsd


@dataclass(frozen=True)
class StudentDraws:
    """z [B, C, h, w]: the student's input. timesteps int64 [B], noise [B, C, h, w]: where and with what its image is noised."""

    z: Tensor
    timesteps: Tensor
    noise: Tensor


@dataclass(frozen=True)
class LoraTeacherDraws:
    """timesteps int64 [B], noise [B, C, h, w], null bool [B]: prompts replaced by the empty one."""

    timesteps: Tensor
    noise: Tensor
    null: Tensor


def student_draws(seed: int, step: int, samples: Sequence[int], shape: tuple[int, int, int], vsd: Vsd) -> StudentDraws:
    """Draws of the student's update; samples: row numbers in the global batch; shape: [C, h, w] of latents."""
    z, timesteps, noise = [], [], []
    for rng in _generators("student", seed, step, samples):
        z.append(torch.randn(shape, generator=rng))
        timesteps.append(torch.randint(vsd.first_timestep, vsd.last_timestep + 1, (), generator=rng))
        noise.append(torch.randn(shape, generator=rng))
    return StudentDraws(torch.stack(z), torch.stack(timesteps), torch.stack(noise))


def lora_teacher_draws(
    seed: int, step: int, turn: int, samples: Sequence[int], *, shape: tuple[int, int, int], teacher: LoraTeacher
) -> LoraTeacherDraws:
    """Draws of the LoRA teacher's update number `turn` of a step, independent of the student's."""
    timesteps, noise, null = [], [], []
    for rng in _generators(f"lora_teacher:{turn}", seed, step, samples):
        timesteps.append(torch.randint(teacher.first_timestep, teacher.last_timestep + 1, (), generator=rng))
        noise.append(torch.randn(shape, generator=rng))
        null.append(torch.rand((), generator=rng) < teacher.null_share)
    return LoraTeacherDraws(torch.stack(timesteps), torch.stack(noise), torch.stack(null))


def normal(stream: str, seed: int, step: int, samples: Sequence[int], shape: tuple[int, int, int]) -> Tensor:
    """Standard normal [B, C, h, w] of a named stream."""
    return torch.stack([torch.randn(shape, generator=rng) for rng in _generators(stream, seed, step, samples)])


def guidance_scale(setting: float | Range, seed: int, step: int) -> float:
    """A guidance scale, or one uniform draw of its range a step (one for the whole batch, as in NASA's runs)."""
    if not isinstance(setting, tuple):
        return setting
    low, high = setting
    (rng,) = _generators("guidance", seed, step, [0])
    return low + (high - low) * float(torch.rand((), generator=rng, dtype=torch.float64))


def _generators(stream: str, seed: int, step: int, samples: Sequence[int]) -> list[torch.Generator]:
    """A CPU generator a sample, seeded by blake2b of "stream:seed:step:sample"."""
    keys = (hashlib.blake2b(f"{stream}:{seed}:{step}:{sample}".encode(), digest_size=8).digest() for sample in samples)
    return [torch.Generator().manual_seed(int.from_bytes(key, "big")) for key in keys]

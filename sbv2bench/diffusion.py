"""The maths that sampling and training share: noise schedule, noising, prediction types, guidance.

Notation: x_t = alpha_t x_0 + sigma_t noise, alpha_t^2 = abar_t (`alphas_cumprod`), sigma_t^2 = 1 - abar_t (SwiftBrush v2,
section 3; alpha_999 = 0.0683 for Stable Diffusion, so x_0 from epsilon is amplified 14.6 times).
Everything is done in float32, or in float64 where an input has it; half-precision inputs are raised to float32 first.
alpha and sigma are numbers, or one per image: tensors [B] that go with the first axis of [B, ...].
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, overload

import torch
from torch import Tensor

from sbv2bench.errors import InputError

PredictionType = Literal["epsilon", "v_prediction", "sample"]
Level = float | Tensor  # alpha or sigma


@dataclass(frozen=True)
class Schedule:
    """A discrete noise schedule. alphas_cumprod: float64 [T], falling, abar_0 first."""

    alphas_cumprod: Tensor

    @classmethod
    def scaled_linear(cls, beta_start: float = 0.00085, beta_end: float = 0.012, steps: int = 1000) -> Schedule:
        """Stable Diffusion's schedule: the square roots of beta_t are evenly spaced (diffusers calls it scaled_linear)."""
        return cls._from_betas(torch.linspace(beta_start**0.5, beta_end**0.5, steps, dtype=torch.float64) ** 2)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Schedule:
        """The schedule of a diffusers scheduler's config. Raises InputError for a beta_schedule that is not known here."""
        steps = int(config.get("num_train_timesteps", 1000))
        start, end = float(config.get("beta_start", 0.0001)), float(config.get("beta_end", 0.02))
        kind = config.get("beta_schedule", "linear")
        if config.get("trained_betas") is not None:
            schedule = cls._from_betas(torch.tensor(config["trained_betas"], dtype=torch.float64))
        elif kind == "linear":
            schedule = cls._from_betas(torch.linspace(start, end, steps, dtype=torch.float64))
        elif kind == "scaled_linear":
            schedule = cls.scaled_linear(start, end, steps)
        elif kind == "squaredcos_cap_v2":
            schedule = cls._from_betas(_cosine_betas(steps))
        else:
            raise InputError(f"scheduler: beta_schedule is {kind!r}, expected linear, scaled_linear or squaredcos_cap_v2")
        return schedule._zero_terminal() if config.get("rescale_betas_zero_snr") else schedule

    @classmethod
    def _from_betas(cls, betas: Tensor) -> Schedule:
        return cls(torch.cumprod(1.0 - betas, dim=0))

    def _zero_terminal(self) -> Schedule:
        """Shifted and scaled so that abar_T is 0 and abar_0 stays (Lin et al. 2023, algorithm 1)."""
        alpha = self.alphas_cumprod.sqrt()
        return Schedule(((alpha - alpha[-1]) * (alpha[0] / (alpha[0] - alpha[-1]))) ** 2)

    def __len__(self) -> int:
        """Number of training timesteps T; the noisiest is T - 1."""
        return len(self.alphas_cumprod)

    @overload
    def alpha(self, t: int) -> float: ...
    @overload
    def alpha(self, t: Tensor) -> Tensor: ...
    def alpha(self, t: int | Tensor) -> float | Tensor:
        """sqrt(abar_t): a float for an int; for an int64 tensor of timesteps float64 of its shape, on the CPU.

        Not on t's device, which may have no float64 (MPS).
        """
        if isinstance(t, Tensor):
            return self.alphas_cumprod[t.cpu()].sqrt()
        return math.sqrt(float(self.alphas_cumprod[t]))

    @overload
    def sigma(self, t: int) -> float: ...
    @overload
    def sigma(self, t: Tensor) -> Tensor: ...
    def sigma(self, t: int | Tensor) -> float | Tensor:
        """sqrt(1 - abar_t), as `alpha`."""
        if isinstance(t, Tensor):
            return (1.0 - self.alphas_cumprod[t.cpu()]).sqrt()
        return math.sqrt(1.0 - float(self.alphas_cumprod[t]))


def add_noise(x0: Tensor, noise: Tensor, alpha: Level, sigma: Level) -> Tensor:
    """x_t = alpha x_0 + sigma noise. x0, noise: [B, ...]; returns the same shape."""
    x0, noise = _raised(x0, noise)
    return _along(alpha, x0) * x0 + _along(sigma, x0) * noise


def predict_x0(output: Tensor, x_t: Tensor, alpha: Level, sigma: Level, prediction_type: PredictionType) -> Tensor:
    """The clean latents that a network's output implies: [B, ...], as x_t.

    epsilon: (x_t - sigma output) / alpha. v_prediction: alpha x_t - sigma output. sample: the output.
    With x_t = z, pure noise, this is the one-step generator (SwiftBrush v2, equation 1; VinAIResearch/SwiftBrushV2:infer.py).
    """
    output, x_t = _raised(output, x_t)
    alpha, sigma = _along(alpha, x_t), _along(sigma, x_t)
    match prediction_type:
        case "epsilon":
            return (x_t - sigma * output) / alpha
        case "v_prediction":
            return alpha * x_t - sigma * output
        case "sample":
            return output
    raise _unknown(prediction_type)


def predict_epsilon(output: Tensor, x_t: Tensor, alpha: Level, sigma: Level, prediction_type: PredictionType) -> Tensor:
    """The noise that a network's output implies: [B, ...], as x_t.

    epsilon: the output. v_prediction: alpha output + sigma x_t. sample: (x_t - alpha output) / sigma.
    """
    output, x_t = _raised(output, x_t)
    alpha, sigma = _along(alpha, x_t), _along(sigma, x_t)
    match prediction_type:
        case "epsilon":
            return output
        case "v_prediction":
            return alpha * output + sigma * x_t
        case "sample":
            return (x_t - alpha * output) / sigma
    raise _unknown(prediction_type)


def predict_velocity(x0: Tensor, noise: Tensor, alpha: Level, sigma: Level) -> Tensor:
    """v = alpha noise - sigma x_0 (Salimans and Ho 2022, appendix D). x0, noise: [B, ...]; returns the same shape."""
    x0, noise = _raised(x0, noise)
    return _along(alpha, x0) * noise - _along(sigma, x0) * x0


def guide(unconditional: Tensor, conditional: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance: u + scale (c - u); 1 is no guidance (SwiftBrush v2, equation 3, with scale = 1 + gamma)."""
    unconditional, conditional = _raised(unconditional, conditional)
    return unconditional + scale * (conditional - unconditional)


def _cosine_betas(steps: int, largest: float = 0.999) -> Tensor:
    """Nichol and Dhariwal 2021, equation 17, cut at `largest`."""
    edge = torch.arange(steps + 1, dtype=torch.float64) / steps
    abar = torch.cos((edge + 0.008) / 1.008 * math.pi / 2) ** 2
    return (1.0 - abar[1:] / abar[:-1]).clamp(max=largest)


def _raised(*tensors: Tensor) -> tuple[Tensor, ...]:
    """In float32, or float64 where one has it."""
    dtype = torch.float64 if any(x.dtype == torch.float64 for x in tensors) else torch.float32
    return tuple(x.to(dtype) for x in tensors)


def _along(level: Level, x: Tensor) -> Level:
    """A level [B] as [B, 1, ...] beside x [B, ...], in x's dtype; a number as it is."""
    if not isinstance(level, Tensor):
        return level
    return level.to(x).reshape(level.shape + (1,) * (x.ndim - level.ndim))


def _unknown(prediction_type: str) -> InputError:
    return InputError(f"prediction_type: found {prediction_type!r}, expected epsilon, v_prediction or sample")

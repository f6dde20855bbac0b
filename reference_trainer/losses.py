"""The losses of SwiftBrush v2, pure: tensors in, one loss a sample out. B samples; the caller averages over the global batch.

Latents are [B, C, h, w]; alpha and sigma are levels [B] or numbers with x_t = alpha x_0 + sigma noise.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from reference_trainer.config import ScoreLoss

VsdWeight = Literal["sigma2", "dmd"]
DECAY_END = 0.0014  # an exponential schedule ends at this share of its weight (vaijsc/swiftcontrol: train_original.py)


def vsd_gradient(
    teacher_epsilon: Tensor,
    lora_teacher_epsilon: Tensor,
    *,
    x_t: Tensor,
    x0: Tensor,
    alpha: Tensor,
    sigma: Tensor,
    weight: VsdWeight,
) -> Tensor:
    """w(t) (eps_teacher - eps_lora_teacher), both guided, shape of x0 (equation 4). No gradient flows through it.

    sigma2: w = sigma^2, as SwiftBrush and ProlificDreamer do. dmd: the difference of the two x_0 over the mean absolute
    distance of x0 to the teacher's, per sample, so that all noise levels weigh alike (DMD, arXiv 2311.18828, section 3.2).
    """
    with torch.no_grad():
        alpha, sigma = (level.to(x0).reshape(-1, *[1] * (x0.ndim - 1)) for level in (alpha, sigma))
        difference = teacher_epsilon - lora_teacher_epsilon
        if weight == "sigma2":
            return sigma**2 * difference
        teacher_x0 = (x_t - sigma * teacher_epsilon) / alpha
        distance = (x0 - teacher_x0).abs().flatten(1).mean(1).clamp(min=1e-6).reshape(alpha.shape)
        return sigma / alpha * difference / distance  # x_0 = (x_t - sigma eps) / alpha


def stop_gradient_loss(x0: Tensor, gradient: Tensor) -> Tensor:
    """[B] whose mean over B has the gradient `gradient` / N with respect to x0, N its number of elements.

    0.5 mean((x0 - sg(x0 - g))^2): the value is that of 0.5 mean(g^2) and says nothing about progress.
    """
    target = (x0 - gradient).detach()
    return 0.5 * (x0 - target).square().flatten(1).mean(1)


def lora_teacher_loss(epsilon: Tensor, noise: Tensor, alpha: Tensor, weight: Literal["alpha_bar", "none"]) -> Tensor:
    """Denoising loss of the LoRA teacher on the student's images, [B]: alpha_bar_t |eps - noise|^2, or unweighted.

    epsilon: the prediction converted to noise, so that the weight is the same for every prediction type.
    """
    error = (epsilon - noise).square().flatten(1).mean(1)
    return error * alpha.to(error).square() if weight == "alpha_bar" else error


def score_loss(cosine: Tensor, threshold: float, clamped: bool) -> Tensor:
    """[B] of cosines [B]: max(0, threshold - cosine) per sample (equation 5), or 1 - cosine unclamped (Table 6, naive).

    Clamped per sample and not on the mean: a sample above the threshold is left alone while others are pushed.
    """
    return functional.relu(threshold - cosine) if clamped else 1.0 - cosine


def scheduled_weight(loss: ScoreLoss, step: int, steps: int) -> float:
    """The weight of a score loss at a step: constant, falling linearly to 0, or exponentially to 0.0014 of itself.

    The paper says "gradually reduced to zero"; the author group's code is exponential.
    """
    done = step / max(1, steps)
    match loss.schedule:
        case "exponential":
            return float(loss.weight * DECAY_END**done)
        case "linear":
            return loss.weight * (1.0 - done)
        case "constant":
            return loss.weight


def scored(samples: list[int], share: float) -> Tensor:
    """bool [B]: which samples of the global batch a score loss looks at, `share` of them, spread evenly over the batch."""
    return torch.tensor([int((n + 1) * share + 1e-9) > int(n * share + 1e-9) for n in samples])


def scored_count(batch_size: int, share: float) -> int:
    """How many of a global batch `scored` chooses."""
    return int(batch_size * share + 1e-9)


def image_distance(generated: Tensor, reference: Tensor) -> Tensor:
    """Smooth L1 between two batches of latents or of pictures [B, C, H, W]: [B]."""
    return functional.smooth_l1_loss(generated, reference, reduction="none").flatten(1).mean(1)

"""VSD where the truth is known: two classes, each a Gaussian on the line, teacher and student scores in closed form.

With equal guidance on both teachers the student finds the *unguided* teacher; with 4.5 on the frozen teacher alone it finds
another distribution, farther apart and collapsed.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from reference_trainer import losses
from sbv2bench.diffusion import Schedule, add_noise, guide

SCHEDULE = Schedule.scaled_linear()
MEANS, DEVIATIONS = torch.tensor([-1.0, 1.0]).double(), torch.tensor([0.5, 0.3]).double()
BATCH = 1024
LEARNED_GUIDANCE = 1.0  # more than 1 would amplify what is wrong with one Gaussian for no class, on one side only


def class_score(x_t: Tensor, mean: Tensor, deviation: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The noise that a perfect network predicts in x_t of N(mean, deviation^2) noised: -sigma times the score."""
    variance = (alpha * deviation) ** 2 + sigma**2
    return sigma * (x_t - alpha * mean) / variance


def perfect(
    x_t: Tensor, label: Tensor, alpha: Tensor, sigma: Tensor, *, means: Tensor, deviations: Tensor
) -> tuple[Tensor, Tensor]:
    """Unconditional and conditional noise predictions of two equally likely classes."""
    both = torch.stack([class_score(x_t, means[c], deviations[c], alpha, sigma) for c in (0, 1)])
    variances = torch.stack([(alpha * deviations[c]) ** 2 + sigma**2 for c in (0, 1)])
    logits = torch.stack([-0.5 * (x_t - alpha * means[c]) ** 2 / variances[c] - 0.5 * variances[c].log() for c in (0, 1)])
    unconditional = (both * logits.softmax(0)).sum(0)
    return unconditional, both.gather(0, label[None])[0]


def vsd_gradient(frozen: Tensor, lora: Tensor, x_t: Tensor, x0: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:  # noqa: PLR0917
    """The trainer's own, of numbers [B] as samples [B, 1]."""
    x_t, x0 = x_t[:, None], x0[:, None]
    return losses.vsd_gradient(frozen[:, None], lora[:, None], x_t=x_t, x0=x0, alpha=alpha, sigma=sigma, weight="sigma2")


class Student(nn.Module):
    """x0 = mean_c + deviation_c z."""

    def __init__(self) -> None:
        super().__init__()
        self.means = nn.Parameter(torch.tensor([-0.2, 0.3]).double())
        self.logs = nn.Parameter(torch.tensor([0.0, 0.0]).double())

    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        return self.means[label] + self.logs.exp()[label] * z


def distill(teacher_scale: float, lora_scale: float, steps: int) -> Student:
    generator = torch.Generator().manual_seed(0)
    student = Student()
    optimiser = torch.optim.Adam(student.parameters(), lr=0.02)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 0.03 * (1 - step / steps)
        z = torch.randn(BATCH, generator=generator, dtype=torch.float64)
        label = torch.arange(BATCH) % 2
        x0 = student(z, label)
        timesteps = torch.randint(20, 981, (BATCH,), generator=generator)
        alpha, sigma = SCHEDULE.alpha(timesteps), SCHEDULE.sigma(timesteps)
        x_t = add_noise(x0.detach(), torch.randn(BATCH, generator=generator, dtype=torch.float64), alpha, sigma)
        frozen = guide(*perfect(x_t, label, alpha, sigma, means=MEANS, deviations=DEVIATIONS), teacher_scale)
        lora = guide(
            *perfect(x_t, label, alpha, sigma, means=student.means.detach(), deviations=student.logs.detach().exp()), lora_scale
        )
        gradient = vsd_gradient(frozen, lora, x_t, x0, alpha, sigma)
        optimiser.zero_grad()
        losses.stop_gradient_loss(x0[:, None], gradient).mean().backward()
        optimiser.step()
    return student


@pytest.mark.ci
@pytest.mark.parametrize("scale", [1.0, 4.5])
def test_equal_guidance_finds_the_unguided_teacher(scale: float) -> None:
    student = distill(scale, scale, 2000)
    assert student.means.tolist() == pytest.approx(MEANS.tolist(), abs=0.01)
    assert student.logs.exp().tolist() == pytest.approx(DEVIATIONS.tolist(), rel=0.01)


@pytest.mark.ci
def test_guidance_on_the_frozen_teacher_alone_does_not() -> None:
    student = distill(4.5, 1.0, 2000)
    means = student.means.tolist()
    assert means == pytest.approx([-2.43, 2.29], abs=0.03)  # derived by hand too
    assert max(student.logs.exp().tolist()) < 0.2


class LearnedScore(nn.Module):
    """In the LoRA teacher's place: a Gaussian for each class (2: none), whose mean and deviation only its own loss teaches it."""

    def __init__(self) -> None:
        super().__init__()
        self.means, self.logs = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3))

    def forward(self, x_t: Tensor, label: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return class_score(x_t, self.means[label], self.logs.exp()[label], alpha, sigma)


@pytest.mark.ci
def test_a_learned_score_alternating_with_the_student_finds_the_teacher() -> None:
    """One update each in turn, 10 % null prompts a sample, as in training; within 10 %."""
    torch.manual_seed(0)
    student, score = Student().float(), LearnedScore()
    optimiser = torch.optim.Adam(student.parameters(), lr=0.02, betas=(0.5, 0.999))
    score_optimiser = torch.optim.Adam(score.parameters(), lr=2e-2)
    steps, batch = 1500, 512
    label = torch.arange(batch) % 2
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 0.02 * (1 - step / steps)
        x0 = student(torch.randn(batch), label)
        timesteps = torch.randint(20, 981, (batch,))
        alpha, sigma = SCHEDULE.alpha(timesteps).float(), SCHEDULE.sigma(timesteps).float()
        x_t = add_noise(x0.detach(), torch.randn(batch), alpha, sigma)
        frozen = guide(*perfect(x_t, label, alpha, sigma, means=MEANS.float(), deviations=DEVIATIONS.float()), LEARNED_GUIDANCE)
        with torch.no_grad():
            learned = guide(
                score(x_t, torch.full_like(label, 2), alpha, sigma), score(x_t, label, alpha, sigma), LEARNED_GUIDANCE
            )
        gradient = vsd_gradient(frozen, learned, x_t, x0, alpha, sigma)
        optimiser.zero_grad()
        losses.stop_gradient_loss(x0[:, None], gradient).mean().backward()
        optimiser.step()
        timesteps = torch.randint(0, 1000, (batch,))
        alpha, sigma, noise = SCHEDULE.alpha(timesteps).float(), SCHEDULE.sigma(timesteps).float(), torch.randn(batch)
        asked = torch.where(torch.rand(batch) < 0.1, 2, label)
        predicted = score(add_noise(x0.detach(), noise, alpha, sigma), asked, alpha, sigma)
        score_optimiser.zero_grad()
        losses.lora_teacher_loss(predicted[:, None], noise[:, None], alpha, "alpha_bar").mean().backward()
        score_optimiser.step()
    assert student.means.tolist() == pytest.approx(MEANS.tolist(), abs=0.1)
    assert student.logs.exp().tolist() == pytest.approx(DEVIATIONS.tolist(), rel=0.1)

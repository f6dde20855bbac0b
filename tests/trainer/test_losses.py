"""The losses alone: gradients against closed forms, clamps, weights and schedules."""

from __future__ import annotations

import pytest
import torch

from reference_trainer import losses
from reference_trainer.config import ScoreLoss
from sbv2bench.diffusion import Schedule, add_noise, predict_epsilon, predict_velocity, predict_x0

SCHEDULE = Schedule.scaled_linear()


def levels(timesteps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return SCHEDULE.alpha(timesteps), SCHEDULE.sigma(timesteps)


def test_gradient_of_the_vsd_loss_is_the_jacobian_times_g_over_n() -> None:
    torch.manual_seed(0)
    theta = torch.randn(5, 24, dtype=torch.float64, requires_grad=True)
    z = torch.randn(3, 5, dtype=torch.float64)
    g = torch.randn(3, 2, 3, 4, dtype=torch.float64)
    x0 = torch.tanh(z @ theta).reshape(3, 2, 3, 4)
    losses.stop_gradient_loss(x0, g).mean().backward()
    jacobian = torch.autograd.functional.jacobian(lambda p: torch.tanh(z @ p).flatten(), theta.detach())
    expected = torch.einsum("n,n...->...", g.flatten(), jacobian) / g.numel()
    assert torch.allclose(theta.grad, expected, atol=1e-12)


def test_two_predictions_types_of_one_network_have_one_gradient() -> None:
    torch.manual_seed(1)
    x0, noise = torch.randn(4, 2, 3, 3), torch.randn(4, 2, 3, 3)
    alpha, sigma = levels(torch.tensor([20, 400, 700, 980]))
    x_t = add_noise(x0, noise, alpha, sigma)
    teacher, lora = torch.randn(4, 2, 3, 3), torch.randn(4, 2, 3, 3)
    by_epsilon = losses.vsd_gradient(teacher, lora, x_t=x_t, x0=x0, alpha=alpha, sigma=sigma, weight="sigma2")
    velocities = [predict_velocity(predict_x0(e, x_t, alpha, sigma, "epsilon"), e, alpha, sigma) for e in (teacher, lora)]
    back = [predict_epsilon(v, x_t, alpha, sigma, "v_prediction") for v in velocities]
    assert torch.allclose(
        losses.vsd_gradient(*back, x_t=x_t, x0=x0, alpha=alpha, sigma=sigma, weight="sigma2"), by_epsilon, atol=1e-4
    )


@pytest.mark.parametrize("t", [20, 500, 980])
def test_weights_of_the_vsd_gradient(t: int) -> None:
    """sigma2 is sigma^2 (eps - eps'), dmd is (x0' - x0) over the mean absolute distance to the teacher's x0, a sample each."""
    torch.manual_seed(2)
    x0, noise, other = (torch.randn(2, 3, 4, 4, dtype=torch.float64) for _ in range(3))
    alpha, sigma = levels(torch.tensor([t, t]))
    x_t = add_noise(x0, noise, alpha, sigma)
    a, s = float(alpha[0]), float(sigma[0])
    teacher_x0, lora_x0 = ((x_t - s * eps) / a for eps in (other, noise))
    assert torch.allclose(
        losses.vsd_gradient(other, noise, x_t=x_t, x0=x0, alpha=alpha, sigma=sigma, weight="sigma2"), s**2 * (other - noise)
    )
    distance = (x0 - teacher_x0).abs().mean((1, 2, 3), keepdim=True)
    assert torch.allclose(
        losses.vsd_gradient(other, noise, x_t=x_t, x0=x0, alpha=alpha, sigma=sigma, weight="dmd"),
        (lora_x0 - teacher_x0) / distance,
    )


def test_lora_teacher_loss_is_weighted_by_alpha_bar() -> None:
    epsilon, noise = torch.zeros(2, 1, 2, 2), torch.ones(2, 1, 2, 2)
    alpha, _ = levels(torch.tensor([0, 999]))
    assert losses.lora_teacher_loss(epsilon, noise, alpha, "none").tolist() == [1.0, 1.0]
    weighted = losses.lora_teacher_loss(epsilon, noise, alpha, "alpha_bar")
    assert weighted.tolist() == pytest.approx([0.99915, 0.0046601], rel=1e-4)


def test_score_loss_is_clamped_for_each_sample_by_itself() -> None:
    cosine = torch.tensor([0.5, 0.35, 0.2], requires_grad=True)
    loss = losses.score_loss(cosine, 0.35, clamped=True)
    assert loss.tolist() == pytest.approx([0.0, 0.0, 0.15])
    loss.mean().backward()
    # The mean cosine is at the threshold: a clamp of the batch's mean would push nobody, or everybody.
    assert cosine.grad.tolist() == pytest.approx([0.0, 0.0, -1 / 3])
    naive = losses.score_loss(cosine.detach().requires_grad_(), 0.35, clamped=False)
    assert naive.tolist() == pytest.approx([0.5, 0.65, 0.8])


def loss(schedule: str) -> ScoreLoss:
    return ScoreLoss.model_validate({"scorer": "x", "threshold": 0.35, "weight": 0.1, "schedule": schedule})


def test_schedules_of_a_score_loss() -> None:
    ends = {
        name: [losses.scheduled_weight(loss(name), k, 1000) for k in (0, 500, 1000)]
        for name in ("exponential", "linear", "constant")
    }
    assert ends["exponential"] == pytest.approx([0.1, 0.1 * 0.0014**0.5, 1.4e-4])
    assert ends["linear"] == pytest.approx([0.1, 0.05, 0.0])
    assert ends["constant"] == [0.1, 0.1, 0.1]


@pytest.mark.parametrize(("batch", "share"), [(8, 0.5), (8, 1.0), (16, 0.125), (6, 1 / 3), (7, 0.5)])
def test_scored_samples_are_a_share_spread_over_micro_batches(batch: int, share: float) -> None:
    chosen = losses.scored(list(range(batch)), share)
    assert int(chosen.sum()) == losses.scored_count(batch, share) == int(batch * share + 1e-9)
    halves = [losses.scored(part, share) for part in (list(range(batch // 2)), list(range(batch // 2, batch)))]
    assert torch.equal(torch.cat(halves), chosen)
    assert abs(int(halves[0].sum()) - int(halves[1].sum())) <= 1

"""Schedule, prediction types and guidance, against closed forms and the constants of the paper's noise schedule."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler

from sbv2bench import diffusion
from sbv2bench.diffusion import Schedule, add_noise, guide, predict_epsilon, predict_velocity, predict_x0
from sbv2bench.errors import InputError

TYPES = ("epsilon", "v_prediction", "sample")
SD = Schedule.scaled_linear()


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize(
    ("t", "abar"),
    [
        (999, 0.0046600985),
        (749, 0.0566234916),
        (625, 0.1377690340),
        (499, 0.2776696505),
        (399, 0.4260863636),
        (249, 0.6754324137),
    ],
)
def test_stable_diffusions_schedule_has_its_known_values(t: int, abar: float) -> None:
    assert float(SD.alphas_cumprod[t]) == pytest.approx(abar, abs=1e-9)


def test_constants_of_the_last_timestep() -> None:
    alpha, sigma = SD.alpha(999), SD.sigma(999)
    assert alpha == pytest.approx(0.0682649142, abs=1e-9)
    assert sigma == pytest.approx(0.9976672298, abs=1e-9)
    assert 1 / alpha == pytest.approx(14.6488135, abs=1e-6)
    assert sigma / alpha == pytest.approx(14.6146412, abs=1e-6)
    assert alpha**2 + sigma**2 == pytest.approx(1.0, abs=1e-15)
    assert SD.alphas_cumprod.dtype == torch.float64
    assert len(SD) == 1000


def test_a_tensor_of_timesteps_gives_the_numbers_of_its_timesteps() -> None:
    t = torch.tensor([0, 399, 999])
    assert SD.alpha(t).tolist() == pytest.approx([SD.alpha(int(i)) for i in t], rel=1e-15)
    assert SD.sigma(t).tolist() == pytest.approx([SD.sigma(int(i)) for i in t], rel=1e-15)


@pytest.mark.parametrize(
    "config",
    [
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
        {"beta_schedule": "linear"},
        {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 500},
        {"trained_betas": [0.1, 0.2, 0.3], "num_train_timesteps": 3},
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "rescale_betas_zero_snr": True},
    ],
)
def test_schedule_of_a_config_is_that_of_diffusers(config: dict[str, object]) -> None:
    scheduler = DDIMScheduler(**config)
    ours = Schedule.from_config(scheduler.config)
    # diffusers multiplies in float32: a thousand roundings of 6e-8
    torch.testing.assert_close(ours.alphas_cumprod, scheduler.alphas_cumprod.double(), rtol=3e-5, atol=2e-7)


def test_an_unknown_beta_schedule_is_refused() -> None:
    with pytest.raises(InputError, match="sigmoid"):
        Schedule.from_config({"beta_schedule": "sigmoid"})


@pytest.mark.parametrize("t", [0, 500, 999])
@pytest.mark.parametrize("prediction_type", TYPES)
def test_predictions_are_inverses_of_noising(t: int, prediction_type: diffusion.PredictionType) -> None:
    x0, noise = normal(3, 4, 8, 8), normal(3, 4, 8, 8, seed=1)
    alpha, sigma = SD.alpha(t), SD.sigma(t)
    x_t = add_noise(x0, noise, alpha, sigma)
    output = {"epsilon": noise, "v_prediction": predict_velocity(x0, noise, alpha, sigma), "sample": x0}[prediction_type]
    torch.testing.assert_close(predict_x0(output, x_t, alpha, sigma, prediction_type), x0, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(predict_epsilon(output, x_t, alpha, sigma, prediction_type), noise, rtol=1e-11, atol=1e-11)


def test_levels_may_differ_between_images() -> None:
    x0, noise = normal(3, 4, 2, 2), normal(3, 4, 2, 2, seed=1)
    t = torch.tensor([10, 500, 990])
    together = add_noise(x0, noise, SD.alpha(t), SD.sigma(t))
    for row in range(3):
        alone = add_noise(x0[row : row + 1], noise[row : row + 1], SD.alpha(int(t[row])), SD.sigma(int(t[row])))
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-14, atol=0)
    back = predict_x0(noise, together, SD.alpha(t), SD.sigma(t), "epsilon")
    torch.testing.assert_close(back, x0, rtol=1e-11, atol=1e-11)


def test_one_step_from_epsilon_equal_to_z() -> None:
    z = normal(2, 4, 8, 8)
    x0 = predict_x0(z, z, SD.alpha(999), SD.sigma(999), "epsilon")
    torch.testing.assert_close(x0, z * (1 - 0.9976672298) / 0.0682649142, rtol=1e-6, atol=0)


@pytest.mark.parametrize("prediction_type", TYPES)
def test_one_step_of_an_oracle_returns_the_answer(prediction_type: diffusion.PredictionType) -> None:
    """An oracle that knows the clean latents a answers with the noise, velocity or sample that leads from z to a."""
    z, a = normal(2, 4, 8, 8), normal(2, 4, 8, 8, seed=1)
    alpha, sigma = SD.alpha(999), SD.sigma(999)
    epsilon = (z - alpha * a) / sigma
    output = {"epsilon": epsilon, "v_prediction": alpha * epsilon - sigma * a, "sample": a}[prediction_type]
    torch.testing.assert_close(predict_x0(output, z, alpha, sigma, prediction_type), a, rtol=1e-12, atol=1e-12)


def test_half_precision_is_raised_before_it_is_amplified() -> None:
    z, output = normal(1, 4, 8, 8, dtype=torch.float32), normal(1, 4, 8, 8, seed=1, dtype=torch.float32).bfloat16()
    x0 = predict_x0(output, z.bfloat16(), SD.alpha(999), SD.sigma(999), "epsilon")
    assert x0.dtype == torch.float32
    exact = predict_x0(output.double(), z.bfloat16().double(), SD.alpha(999), SD.sigma(999), "epsilon")
    torch.testing.assert_close(x0.double(), exact, rtol=1e-5, atol=1e-5)
    assert guide(output, output, 3.0).dtype == torch.float32


def test_an_unknown_prediction_type_is_refused() -> None:
    z = normal(1, 4, 2, 2)
    with pytest.raises(InputError, match="flow"):
        predict_x0(z, z, 0.5, 0.5, "flow")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="flow"):
        predict_epsilon(z, z, 0.5, 0.5, "flow")  # type: ignore[arg-type]


def test_guidance() -> None:
    u, c = normal(2, 4, 2, 2), normal(2, 4, 2, 2, seed=1)
    torch.testing.assert_close(guide(u, c, 1.0), c, rtol=1e-12, atol=1e-12)
    assert torch.equal(guide(u, c, 0.0), u)
    torch.testing.assert_close(guide(u, c, 4.5), 4.5 * c - 3.5 * u)


def test_ddpm_step_of_diffusers_at_the_end_is_the_one_step_formula() -> None:
    constants = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False}
    scheduler = DDPMScheduler(**constants)
    scheduler.set_timesteps(timesteps=[999])
    z, output = normal(1, 4, 8, 8, dtype=torch.float32), normal(1, 4, 8, 8, seed=1, dtype=torch.float32)
    theirs = scheduler.step(output, 999, z).prev_sample
    torch.testing.assert_close(predict_x0(output, z, SD.alpha(999), SD.sigma(999), "epsilon"), theirs, rtol=1e-4, atol=1e-4)


def test_one_euler_step_of_diffusers_is_another_picture_by_a_quarter_of_a_percent() -> None:
    """Trailing Euler starts from sigma_max z, shows the network 0.9977 z, and returns sigma_max (z - epsilon).

    Ours shows it z and returns (z - sigma epsilon) / alpha, so of the same epsilon z has 14.6488 in place of 14.6146.
    """
    scheduler = EulerDiscreteScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, timestep_spacing="trailing"
    )
    scheduler.set_timesteps(1)
    z, epsilon = normal(1, 4, 64, 64, dtype=torch.float32), normal(1, 4, 64, 64, seed=1, dtype=torch.float32)
    latents = z * scheduler.init_noise_sigma
    shown = scheduler.scale_model_input(latents, scheduler.timesteps[0])
    euler = scheduler.step(epsilon, scheduler.timesteps[0], latents).prev_sample
    ours = predict_x0(epsilon, z, SD.alpha(999), SD.sigma(999), "epsilon")
    ratio = SD.sigma(999) / SD.alpha(999)
    torch.testing.assert_close(shown, SD.sigma(999) * z, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(euler, ratio * (z - epsilon), rtol=1e-4, atol=1e-3)
    assert 1 - ratio * SD.alpha(999) == pytest.approx(0.0023328, abs=1e-6)
    difference = (ours - euler).square().mean().sqrt() / z.square().mean().sqrt()
    assert float(difference) == pytest.approx((1 - math.sqrt(1 - SD.alpha(999) ** 2)) / SD.alpha(999), rel=1e-3)
    assert float(difference) == pytest.approx(0.034, abs=0.0005)

"""Random numbers of a run: a function of (seed, step, sample), in their ranges, and unlike each other."""

from __future__ import annotations

import torch

from reference_trainer import noise
from reference_trainer.config import LoraTeacher, Vsd

SHAPE = (2, 3, 3)
VSD = Vsd.model_validate({"teacher_guidance_scale": (0.5, 4.0), "lora_teacher_guidance_scale": "same"})
LORA = LoraTeacher.model_validate({"lora": {"rank": 1, "alpha": 1, "targets": ["to_q"]}, "learning_rate": 1e-3})


def test_a_sample_draws_the_same_wherever_it_is_computed() -> None:
    whole = noise.student_draws(1, 7, range(6), SHAPE, VSD)
    halves = [noise.student_draws(1, 7, rows, SHAPE, VSD) for rows in ([0, 1, 2], [3, 4, 5])]
    for name in ("z", "timesteps", "noise"):
        assert torch.equal(getattr(whole, name), torch.cat([getattr(half, name) for half in halves]))


def test_draws_differ_between_seeds_steps_samples_and_streams() -> None:
    drawn = [
        noise.student_draws(seed, step, [row], SHAPE, VSD) for seed, step, row in ((1, 7, 0), (2, 7, 0), (1, 8, 0), (1, 7, 1))
    ]
    fields = [x for d in drawn for x in (d.z, d.noise)]
    fields += [noise.lora_teacher_draws(1, 7, turn, [0], shape=SHAPE, teacher=LORA).noise for turn in (0, 1)]
    flat = torch.stack([x.flatten() for x in fields])
    assert len({tuple(row.tolist()) for row in flat}) == len(flat)


def test_timesteps_are_uniform_in_their_ranges_and_differ_within_a_batch() -> None:
    student = torch.cat([noise.student_draws(0, k, range(100), (1, 1, 1), VSD).timesteps for k in range(200)])
    teacher = [noise.lora_teacher_draws(0, k, 0, range(100), shape=(1, 1, 1), teacher=LORA) for k in range(200)]
    lora = torch.cat([d.timesteps for d in teacher])
    for found, first, last in ((student, 20, 980), (lora, 0, 999)):
        counts = torch.bincount((found - first) * 10 // (last + 1 - first), minlength=10).double()
        assert len(counts) == 10 and ((counts - 2000).abs() < 5 * 2000**0.5).all()
        assert found.min() <= first + 2 and found.max() >= last - 2 and found.min() >= first and found.max() <= last
    assert len(set(student[:100].tolist())) > 80
    null = torch.cat([d.null for d in teacher]).double().mean()
    assert abs(float(null) - 0.1) < 0.01


def test_both_ends_of_a_range_of_timesteps_are_drawn() -> None:
    student, teacher = VSD.model_copy(update={"first_timestep": 978}), LORA.model_copy(update={"first_timestep": 997})
    drawn = noise.student_draws(0, 0, range(100), (1, 1, 1), student).timesteps
    assert set(drawn.tolist()) == {978, 979, 980}
    drawn = noise.lora_teacher_draws(0, 0, 0, range(100), shape=(1, 1, 1), teacher=teacher).timesteps
    assert set(drawn.tolist()) == {997, 998, 999}


def test_a_guidance_range_is_drawn_once_a_step() -> None:
    scales = [noise.guidance_scale((0.5, 4.0), 0, step) for step in range(400)]
    assert scales[3] == noise.guidance_scale((0.5, 4.0), 0, 3)
    assert min(scales) >= 0.5 and max(scales) <= 4.0
    assert abs(sum(scales) / 400 - 2.25) < 0.2
    assert noise.guidance_scale(4.5, 0, 3) == 4.5


def test_noise_is_standard_normal() -> None:
    z = noise.student_draws(0, 0, range(500), (4, 8, 8), VSD).z
    assert abs(float(z.mean())) < 0.01
    assert abs(float(z.std()) - 1) < 0.01

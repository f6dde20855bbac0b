"""One training step: its first loss, its parts, its independence of how the batch is cut, and what it does with a NaN."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_recipe import CLIP, HPS, LORA, PAIRED, make_trainer, take_steps, weights

from reference_trainer import noise
from reference_trainer.networks import STUDENT, Networks
from sbv2bench.errors import InputError, IntegrityError

EVERYTHING = {"clip": CLIP, "hps": HPS | {"share": 0.5}, "regularisation": PAIRED}


def test_the_first_vsd_loss_is_exactly_zero(family: Path) -> None:
    """The LoRA teacher begins as the frozen one: whatever is wrong between them shows here."""
    trainer, prompts = make_trainer(family)
    first, second = take_steps(trainer, prompts, 2)
    assert first["vsd"] == first["vsd_gradient_at_x0"] == 0.0
    assert second["vsd"] > 0.0


def test_figures_of_a_step(family: Path) -> None:
    trainer, prompts = make_trainer(family, **EVERYTHING)
    figures = take_steps(trainer, prompts, 2)[-1]
    expected = {"vsd", "clip_cosine", "clip_loss", "hps_cosine", "regularisation", "lora_teacher", "x0_mean", "x0_deviation"}
    expected |= {f"{loss}_gradient_at_x0" for loss in ("vsd", "clip", "hps", "regularisation")} | {"student_gradient_norm"}
    assert expected <= figures.keys()
    assert figures["clip_loss"] == pytest.approx(0.9 - figures["clip_cosine"], abs=1e-5)  # all are below the threshold
    assert figures["clip_under_threshold"] == figures["hps_under_threshold"] == 1.0
    assert sum(name.startswith("lora_teacher_t") for name in figures) > 1


def test_gradient_accumulation_is_the_large_batch(family: Path) -> None:
    ends = []
    for micro in (None, 1, 2):
        # Adam divides by a gradient's size: without a larger epsilon a rounding error near zero would be a whole step.
        trainer, prompts = make_trainer(family, micro_batch_size=micro, optimiser={"epsilon": 1e-3}, **EVERYTHING)
        figures = take_steps(trainer, prompts, 3)
        ends.append((weights(trainer), figures[-1]))
    for other, figures in ends[1:]:
        for key, value in ends[0][0].items():
            assert torch.allclose(value, other[key], atol=2e-5), key
        assert figures["vsd"] == pytest.approx(ends[0][1]["vsd"], rel=1e-3)
        assert figures["clip_cosine"] == pytest.approx(ends[0][1]["clip_cosine"], rel=1e-4)


def test_gradient_checkpointing_changes_memory_alone(family: Path) -> None:
    """What is computed again in the backward pass is what was computed before: the adapter must still be on."""
    ends = []
    for checkpointing in (False, True):
        trainer, prompts = make_trainer(family, gradient_checkpointing=checkpointing, clip=CLIP)
        take_steps(trainer, prompts, 2)
        ends.append(weights(trainer))
    assert all(torch.equal(value, ends[1][key]) for key, value in ends[0].items())


def test_parts_of_two_processes_add_up_to_the_whole_batch(family: Path) -> None:
    """Gradients before the first update: the sum over two processes' shares is the gradient of the batch."""
    gradients = []
    for rank, processes in ((0, 1), (0, 2), (1, 2)):
        trainer, prompts = make_trainer(family, rank, processes, **EVERYTHING)
        trainer._update = lambda name, step: {}  # type: ignore[method-assign]
        trainer._averaged = lambda report: {}  # type: ignore[method-assign]
        take_steps(trainer, prompts, 1)
        gradients.append({k: p.grad for n in trainer.rates for k, p in trainer.networks.trained(n).items()})
    for key, whole in gradients[0].items():
        assert torch.allclose(whole, gradients[1][key] + gradients[2][key], atol=1e-6), key


def test_the_lora_teacher_learns_from_latents_made_before_the_students_update(family: Path) -> None:
    trainer, prompts = make_trainer(family)
    kept = []
    original = trainer._lora_teacher_batch
    trainer._lora_teacher_batch = lambda *a: (kept.append(a[2]), original(*a))  # type: ignore[method-assign]
    networks: Networks = trainer.networks
    recipe = trainer.recipe
    z = noise.student_draws(recipe.seed, 0, range(4), networks.latent_shape, recipe.vsd).z
    with torch.no_grad():
        expected = networks.generate(z, networks.encode_text(prompts.prompts_at(recipe.seed, 0, 4, range(4))))
    take_steps(trainer, prompts, 1)
    assert torch.allclose(kept[0][0].x0, expected, atol=1e-5)
    assert not kept[0][0].x0.requires_grad


def test_what_the_teachers_are_shown(family: Path) -> None:
    """The student's image under fresh noise at the drawn level, and "" in place of the prompts that were drawn to be null."""
    trainer, prompts = make_trainer(family, lora_teacher={"lora": LORA, "learning_rate": 1e-2, "null_share": 0.5})
    networks, recipe, shown = trainer.networks, trainer.recipe, []
    for name in ("teacher_epsilon", "lora_teacher_epsilon"):
        original = getattr(networks, name)
        setattr(networks, name, lambda *a, original=original, **k: (shown.append(a), original(*a, **k))[1])
    own = noise.student_draws(recipe.seed, 0, range(4), networks.latent_shape, recipe.vsd)
    theirs = noise.lora_teacher_draws(recipe.seed, 0, 0, range(4), shape=networks.latent_shape, teacher=recipe.lora_teacher)
    text, null = networks.encode_text(prompts.prompts_at(recipe.seed, 0, 4, range(4))), networks.encode_text([""])
    with torch.no_grad():
        x0 = networks.generate(own.z, text)
    take_steps(trainer, prompts, 1)
    frozen, lora, update = shown
    for (x_t, timesteps, *_), draws in ((frozen, own), (lora, own), (update, theirs)):
        alpha, sigma = (level.reshape(-1, 1, 1, 1) for level in networks.levels(draws.timesteps))
        assert torch.equal(timesteps, draws.timesteps)
        assert torch.allclose(x_t, alpha * x0 + sigma * draws.noise, atol=1e-5)
    assert torch.equal(frozen[2], text) and torch.equal(frozen[3], null.expand_as(text))
    assert 0 < int(theirs.null.sum()) < 4
    assert torch.equal(update[2], torch.where(theirs.null[:, None, None], null, text))


def test_the_warm_up_draws_what_no_step_draws(family: Path) -> None:
    trainer, prompts = make_trainer(family)
    networks, recipe, kept = trainer.networks, trainer.recipe, []
    trainer._lora_teacher_batch = lambda *a: kept.append(a[2])  # type: ignore[method-assign]
    trainer._update = lambda name, step: {}  # type: ignore[method-assign]
    captions = prompts.prompts_at(recipe.seed, -1, 4, range(4))
    for turn in range(2):
        trainer.warm_up_lora_teacher(captions, turn)
    for step, (generated,) in ((-1, kept[0]), (-2, kept[1])):
        z = noise.student_draws(recipe.seed, step, range(4), networks.latent_shape, recipe.vsd).z
        with torch.no_grad():
            assert torch.allclose(generated.x0, networks.generate(z, networks.encode_text(captions)), atol=1e-5)


def test_more_lora_teacher_steps_than_student_steps(family: Path) -> None:
    settings = {"lora": LORA, "learning_rate": 1e-2, "steps_per_student_step": 3}
    trainer, prompts = make_trainer(family, lora_teacher=settings)
    take_steps(trainer, prompts, 2)
    counts = {name: {int(s["step"]) for s in o.state.values()} for name, o in trainer.optimisers.items()}
    assert counts == {"student": {2}, "lora_teacher": {6}}


def test_rates_warm_up_and_fall_along_a_cosine(family: Path) -> None:
    trainer, prompts = make_trainer(family, steps=6, optimiser={"warmup_steps": 2, "final_learning_rate": 0.1})
    figures = take_steps(trainer, prompts, 4)
    assert figures[0]["student_learning_rate"] == pytest.approx(0.5e-3)  # of 1e-3: half of the warm-up
    assert figures[3]["student_learning_rate"] == pytest.approx(0.55e-3)  # half way from all of it to a tenth
    assert figures[3]["lora_teacher_learning_rate"] == pytest.approx(0.55e-2)


def test_gradients_are_clipped_and_forgotten(family: Path) -> None:
    trainer, prompts = make_trainer(family, optimiser={"gradient_clip": 1e-3}, clip=CLIP)
    seen = []
    for name, optimiser in trainer.optimisers.items():
        parameters = list(trainer.networks.trained(name).values())

        def step(original=optimiser.step, parameters=parameters) -> None:  # type: ignore[no-untyped-def]
            seen.append(float(torch.stack([p.grad.norm() for p in parameters]).norm()))
            original()

        optimiser.step = step  # type: ignore[method-assign]
    figures = take_steps(trainer, prompts, 2)
    assert all(figure["student_gradient_norm"] > 1e-3 for figure in figures)  # what is logged is from before the clip
    assert max(seen) <= 1.001e-3
    assert all(p.grad is None for name in trainer.rates for p in trainer.networks.trained(name).values())


def test_moving_average_is_diffusers_formula(family: Path) -> None:
    trainer, prompts = make_trainer(family, ema={"decay": 0.24})
    networks = trainer.networks
    key = next(iter(networks.trained(STUDENT)))
    shadow = networks.trained(STUDENT)[key].detach().clone()
    for decay in (0.0, 2 / 11, 0.24, 0.24):
        take_steps(trainer, prompts, 1)
        shadow = decay * shadow + (1 - decay) * networks.trained(STUDENT)[key].detach()
        assert torch.allclose(networks.average.shadow_params[0], shadow, atol=1e-6)
    before = networks.trained(STUDENT)[key].detach().clone()
    with networks.averaged():
        assert torch.equal(networks.trained(STUDENT)[key], networks.average.shadow_params[0])
    assert torch.equal(networks.trained(STUDENT)[key], before)


def test_clip_weight_falls_to_zero_and_with_it_its_pull(family: Path) -> None:
    constant, linear = (make_trainer(family, clip=CLIP | {"schedule": s}, steps=2) for s in ("constant", "linear"))
    for equal in (True, False):  # at step 0 both weigh 0.1, at step 1 0.1 and 0.05
        ends = []
        for trainer, prompts in (constant, linear):
            take_steps(trainer, prompts, 1)
            ends.append(weights(trainer))
        key = next(iter(ends[0]))
        assert torch.equal(ends[0][key], ends[1][key]) == equal


def test_a_nan_stops_the_run_and_leaves_the_weights(family: Path) -> None:
    trainer, prompts = make_trainer(family)
    take_steps(trainer, prompts, 1)
    before = weights(trainer)
    trainer.networks.levels = lambda t: (torch.full(t.shape, float("nan")), torch.ones(t.shape))  # type: ignore[method-assign]
    with pytest.raises(IntegrityError, match=r"step 1: the gradient of the student is not a number"):
        take_steps(trainer, prompts, 1)
    assert all(torch.equal(value, before[key]) for key, value in weights(trainer).items())


def test_a_batch_that_processes_cannot_share_is_refused(family: Path) -> None:
    with pytest.raises(InputError, match="3 processes cannot share"):
        make_trainer(family, 0, 3)

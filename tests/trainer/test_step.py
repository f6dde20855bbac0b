"""One training step: its first loss, its parts, its independence of how the batch is cut, and what it does with a NaN."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_recipe import CLIP, HPS, LORA, PAIRED, make_trainer, take_steps, weights

from reference_trainer import noise
from reference_trainer.networks import STUDENT, Networks
from reference_trainer.report import Report
from reference_trainer.step import FRESH, Trainer
from reference_trainer.terms import Batch, Measured
from sbv2bench.errors import InputError, IntegrityError

WARMED = {"lora": LORA, "learning_rate": 1e-2, "warmup_steps": 3}
UNGUIDED = {"teacher_guidance_scale": 1.0, "lora_teacher_guidance_scale": "same"}
EVERYTHING = {"clip": CLIP, "hps": HPS | {"share": 0.5}, "regularisation": PAIRED}


def test_the_first_vsd_loss_is_exactly_zero(family: Path) -> None:
    """The LoRA teacher begins as the frozen one: whatever is wrong between them shows here."""
    trainer, _ = make_trainer(family)
    first, second = take_steps(trainer, 2)
    assert first["vsd_loss"] == first["vsd_gradient_at_x0"] == 0.0
    assert second["vsd_loss"] > 0.0


def test_figures_of_a_step(family: Path) -> None:
    trainer, _ = make_trainer(family, **EVERYTHING)
    figures = take_steps(trainer, 2)[-1]
    expected = {"loss", "lora_teacher_loss", "clip_cosine", "hps_cosine", "x0_mean", "x0_deviation", "skipped"}
    expected |= {f"{loss}_{what}" for loss in ("vsd", "clip", "hps", "regularisation") for what in ("loss", "weight")}
    expected |= {f"{loss}_gradient_at_x0" for loss in ("vsd", "clip", "hps", "regularisation")} | {"student_gradient_norm"}
    assert expected <= figures.keys()
    assert figures["clip_loss"] == pytest.approx(0.9 - figures["clip_cosine"], abs=1e-5)  # all are below the threshold
    assert figures["clip_under_threshold"] == figures["hps_under_threshold"] == 1.0
    assert sum(name.startswith("lora_teacher_t") for name in figures) > 1


@pytest.mark.ci
def test_gradient_accumulation_is_the_large_batch(family: Path) -> None:
    ends = []
    for micro in (None, 1, 2):
        # Adam divides by a gradient's size: without a larger epsilon a rounding error near zero would be a whole step.
        trainer, _ = make_trainer(family, micro_batch_size=micro, optimiser={"epsilon": 1e-3}, **EVERYTHING)
        figures = take_steps(trainer, 3)
        ends.append((weights(trainer), figures[-1]))
    for other, figures in ends[1:]:
        for key, value in ends[0][0].items():
            assert torch.allclose(value, other[key], atol=2e-5), key
        assert figures["vsd_loss"] == pytest.approx(ends[0][1]["vsd_loss"], rel=1e-3)
        assert figures["clip_cosine"] == pytest.approx(ends[0][1]["clip_cosine"], rel=1e-4)


@pytest.mark.ci
def test_gradient_checkpointing_changes_memory_alone(family: Path) -> None:
    """What is computed again in the backward pass is what was computed before: the adapter must still be on.

    Without it the adapter is merged into the weights: the same losses to rounding.
    """
    ends, figures = [], []
    for checkpointing in (False, True):
        trainer, _ = make_trainer(family, gradient_checkpointing=checkpointing, optimiser={"epsilon": 1e-3}, clip=CLIP)
        figures += take_steps(trainer, 3)[-1:]
        ends.append(weights(trainer))
    assert all(torch.allclose(value, ends[1][key], atol=2e-5) for key, value in ends[0].items())
    assert figures[0]["vsd_loss"] > 0.0
    for name in ("vsd_loss", "clip_loss", "lora_teacher_loss", "loss"):
        assert figures[0][name] == pytest.approx(figures[1][name], rel=1e-5, abs=1e-9), name


def test_the_mean_over_two_processes_is_the_whole_batch(family: Path) -> None:
    """Gradients before the first update: the mean over two processes, which DDP takes, is the gradient of the batch."""
    gradients = []
    for rank, processes in ((0, 1), (0, 2), (1, 2)):
        trainer, _ = make_trainer(family, rank, processes, **EVERYTHING)
        trainer.update = lambda name, figures: True  # type: ignore[method-assign]
        trainer.figures_of = lambda report: {}  # type: ignore[method-assign]
        take_steps(trainer, 1)
        gradients.append({k: p.grad for n in trainer.rates for k, p in trainer.networks.trained(n).items()})
    for key, whole in gradients[0].items():
        assert torch.allclose(whole, (gradients[1][key] + gradients[2][key]) / 2, atol=1e-6), key


def test_the_lora_teacher_learns_from_latents_made_before_the_students_update(family: Path) -> None:
    trainer, prompts = make_trainer(family)
    kept = []
    original = trainer.lora_teacher_batch
    trainer.lora_teacher_batch = lambda *a: (kept.append(a[2]), original(*a))  # type: ignore[method-assign]
    networks: Networks = trainer.networks
    recipe = trainer.recipe
    z = noise.student_draws(recipe.seed, 0, range(4), networks.latent_shape, recipe.vsd).z
    with torch.no_grad():
        expected = networks.generate(z, networks.encode_text(prompts.prompts_at(recipe.seed, 0, 4, range(4))))
    take_steps(trainer, 1)
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
    take_steps(trainer, 1)
    frozen, lora, update = shown
    for (x_t, timesteps, *_), draws in ((frozen, own), (lora, own), (update, theirs)):
        alpha, sigma = (level.reshape(-1, 1, 1, 1) for level in networks.levels(draws.timesteps))
        assert torch.equal(timesteps, draws.timesteps)
        assert torch.allclose(x_t, alpha * x0 + sigma * draws.noise, atol=1e-5)
    assert torch.equal(frozen[2], text) and torch.equal(frozen[3], null.expand_as(text))
    assert 0 < int(theirs.null.sum()) < 4
    assert torch.equal(update[2], torch.where(theirs.null[:, None, None], null, text))


def test_the_warm_up_draws_what_no_step_draws(family: Path) -> None:
    trainer, prompts = make_trainer(family, lora_teacher=WARMED)
    networks, recipe, kept = trainer.networks, trainer.recipe, []
    trainer.lora_teacher_batch = lambda *a: kept.append(list(a[2]))  # type: ignore[method-assign]
    trainer.update = lambda name, figures: True  # type: ignore[method-assign]
    for _ in range(2):
        trainer.warm_up_lora_teacher()
    for step, (generated,) in ((-1, kept[0]), (-2, kept[1])):
        z = noise.student_draws(recipe.seed, step, range(4), networks.latent_shape, recipe.vsd).z
        with torch.no_grad():
            text = networks.encode_text(prompts.prompts_at(recipe.seed, step, 4, range(4)))
            assert torch.allclose(generated.x0, networks.generate(z, text), atol=1e-5)


def test_the_warm_up_goes_at_the_lora_teachers_full_rate(family: Path) -> None:
    """The rate's own warm-up is for a first step that knows nothing: neither these updates nor those after them need it."""
    trainer, _ = make_trainer(family, lora_teacher=WARMED, optimiser={"warmup_steps": 50})
    figures = [trainer.warm_up_lora_teacher() for _ in range(2)]
    first = trainer.take_step()
    assert [f["lora_teacher_learning_rate"] for f in figures] == [1e-2, 1e-2]
    assert first["lora_teacher_learning_rate"] == pytest.approx(1e-2)
    assert first["student_learning_rate"] == pytest.approx(1e-3 / 50)
    assert {int(s["step"]) for s in trainer.optimisers["lora_teacher"].state.values()} == {3}


def test_a_further_update_of_the_lora_teacher_has_fresh_images(family: Path) -> None:
    """Of other noise and captions, made after the student's update: DMD2's two-time-scale rule."""
    settings = {"lora": LORA, "learning_rate": 1e-2, "steps_per_student_step": 3}
    trainer, prompts = make_trainer(family, lora_teacher=settings)
    networks, recipe, kept = trainer.networks, trainer.recipe, []
    original = trainer.lora_teacher_batch

    def note(teacher: object, turn: int, images: object, report: object) -> None:
        kept.append(list(images))  # type: ignore[call-overload]
        original(teacher, turn, kept[-1], report)  # type: ignore[arg-type]

    trainer.lora_teacher_batch = note  # type: ignore[method-assign]
    trainer.take_step()
    assert [len(images) for images in kept] == [1, 1, 1]
    first, *further = (images[0].x0 for images in kept)
    assert not any(torch.allclose(first, other) for other in further) and not torch.allclose(*further)
    z = noise.normal("student:1", recipe.seed, 0, range(4), networks.latent_shape)
    captions = prompts.prompts_at(recipe.seed + FRESH, 0, 4, range(4))
    with torch.no_grad():
        assert torch.allclose(networks.generate(z, networks.encode_text(captions)), further[0], atol=1e-5)


def test_more_lora_teacher_steps_than_student_steps(family: Path) -> None:
    settings = {"lora": LORA, "learning_rate": 1e-2, "steps_per_student_step": 3}
    trainer, _ = make_trainer(family, lora_teacher=settings)
    take_steps(trainer, 2)
    counts = {name: {int(s["step"]) for s in o.state.values()} for name, o in trainer.optimisers.items()}
    assert counts == {"student": {2}, "lora_teacher": {6}}


def test_rates_warm_up_and_fall_along_a_cosine(family: Path) -> None:
    trainer, _ = make_trainer(family, steps=6, optimiser={"warmup_steps": 2, "final_learning_rate": 0.1})
    figures = take_steps(trainer, 4)
    assert figures[0]["student_learning_rate"] == pytest.approx(0.5e-3)  # of 1e-3: half of the warm-up
    assert figures[3]["student_learning_rate"] == pytest.approx(0.55e-3)  # half way from all of it to a tenth
    assert figures[3]["lora_teacher_learning_rate"] == pytest.approx(0.55e-2)


def test_gradients_are_clipped_and_forgotten(family: Path) -> None:
    trainer, _ = make_trainer(family, optimiser={"gradient_clip": 1e-3}, clip=CLIP)
    seen = []
    for name, optimiser in trainer.optimisers.items():
        parameters = list(trainer.networks.trained(name).values())

        def step(original=optimiser.step, parameters=parameters) -> None:  # type: ignore[no-untyped-def]
            seen.append(float(torch.stack([p.grad.norm() for p in parameters]).norm()))
            original()

        optimiser.step = step  # type: ignore[method-assign]
    figures = take_steps(trainer, 2)
    assert all(figure["student_gradient_norm"] > 1e-3 for figure in figures)  # what is logged is from before the clip
    assert max(seen) <= 1.001e-3
    assert all(p.grad is None for name in trainer.rates for p in trainer.networks.trained(name).values())


def test_moving_average_is_diffusers_formula(family: Path) -> None:
    trainer, _ = make_trainer(family, ema={"decay": 0.24})
    networks = trainer.networks
    key = next(iter(networks.trained(STUDENT)))
    shadow = networks.trained(STUDENT)[key].detach().clone()
    for decay in (0.0, 2 / 11, 0.24, 0.24):
        take_steps(trainer, 1)
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
        for trainer, _ in (constant, linear):
            take_steps(trainer, 1)
            ends.append(weights(trainer))
        key = next(iter(ends[0]))
        assert torch.equal(ends[0][key], ends[1][key]) == equal


def with_broken_steps(trainer: Trainer, broken: set[int]) -> None:
    """Make the noise of these steps not a number, as a bad batch would."""
    original = trainer.networks.levels

    def levels(timesteps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        alpha, sigma = original(timesteps)
        return (alpha * float("nan"), sigma) if trainer.step in broken else (alpha, sigma)

    trainer.networks.levels = levels  # type: ignore[method-assign]


def test_a_gradient_that_is_not_a_number_skips_its_step(family: Path) -> None:
    trainer, _ = make_trainer(family)
    with_broken_steps(trainer, {1, 2})
    take_steps(trainer, 1)
    before, moments = weights(trainer), {n: len(o.state) for n, o in trainer.optimisers.items()}
    figures = take_steps(trainer, 2)
    assert [f["skipped"] for f in figures] == [1.0, 1.0] and trainer.skipped == 2 and trainer.step == 3
    assert all(torch.equal(value, before[key]) for key, value in weights(trainer).items())
    assert trainer.networks.average.optimization_step == 1 and {n: len(o.state) for n, o in trainer.optimisers.items()} == moments
    assert take_steps(trainer, 1)[0]["skipped"] == 0.0 and trainer.skipped == 0
    assert any(not torch.equal(value, before[key]) for key, value in weights(trainer).items())
    assert all(bool(value.isfinite().all()) for value in weights(trainer).values())


def test_too_many_skipped_steps_in_a_row_stop_the_run(family: Path) -> None:
    trainer, _ = make_trainer(family, skips_in_a_row=2)
    with_broken_steps(trainer, {1, 2, 3})
    take_steps(trainer, 3)
    where = r"step 3: gradients were not numbers in 3 steps in a row, 2 are allowed; .* seed 5, step 3, samples 0 to 3"
    with pytest.raises(IntegrityError, match=where) as error:
        take_steps(trainer, 1)
    assert "--continue-with student.learning_rate=0.0005" in str(error.value.fix)


def test_sizes_of_gradients_in_the_log_are_weighted(family: Path) -> None:
    """Twice the weight, twice the gradient; and the total is the terms' weighted sum."""
    found = []
    for weight in (0.1, 0.2):
        trainer, _ = make_trainer(family, **EVERYTHING | {"clip": CLIP | {"weight": weight, "schedule": "constant"}})
        found.append(take_steps(trainer, 1)[0])
    assert found[1]["clip_gradient_at_x0"] == pytest.approx(2 * found[0]["clip_gradient_at_x0"], rel=1e-5)
    assert found[0]["clip_weight"] == 0.1 and found[0]["vsd_weight"] == 1.0
    total = sum(found[0][f"{n}_weight"] * found[0][f"{n}_loss"] for n in ("vsd", "clip", "hps", "regularisation"))
    assert found[0]["loss"] == pytest.approx(total, rel=1e-5)


@pytest.mark.ci
def test_a_term_of_ones_own(family: Path) -> None:
    """The seam for a new loss: a class with a name, a weight and a loss at x0; the rest of the step knows nothing of it."""

    class Bright:
        name, figures, source = "bright", ("mean",), "prompts"

        def weight(self, step: int) -> float:
            return 0.5

        def measure(self, x0: torch.Tensor, batch: Batch) -> Measured:
            means = x0.flatten(1).mean(1)
            return Measured((1.0 - means).square(), 4, {"mean": means})

    trainer, _ = make_trainer(family, vsd=UNGUIDED)
    trainer.terms.append(Bright())
    figures = take_steps(trainer, 40)
    assert figures[-1]["bright_mean"] > figures[0]["bright_mean"]
    assert {"bright_loss", "bright_weight", "bright_gradient_at_x0"} <= figures[0].keys()


def test_processes_have_the_same_names_of_figures(family: Path) -> None:
    """Half of two samples are scored: one of two processes scores none, and its sums still meet the other's."""
    names = []
    for rank in (0, 1):
        trainer, _ = make_trainer(family, rank, 2, batch_size=2, clip=CLIP | {"share": 0.5})
        seen: list[Report] = []
        trainer.update = lambda name, figures: True  # type: ignore[method-assign]
        trainer.figures_of = lambda report, seen=seen: (seen.append(report), {})[1]  # type: ignore[method-assign]
        take_steps(trainer, 1)
        names.append((sorted(seen[0].means), sorted(seen[0].squares)))
    assert names[0] == names[1] and "clip_cosine" in names[0][0]


def test_a_batch_that_processes_cannot_share_is_refused(family: Path) -> None:
    with pytest.raises(InputError, match="3 processes cannot share"):
        make_trainer(family, 0, 3)

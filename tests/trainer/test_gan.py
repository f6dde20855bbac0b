"""A loss with a network of its own: made by a line in a recipe, learned, kept and resumed as everything that is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_recipe import make_trainer, save_checkpoint, take_steps, tiny_recipe, weights

from reference_trainer.show import describe
from reference_trainer.terms import gradient_at
from reference_trainer.training.checkpoint import resume
from sbv2bench.registry import Registry

GAN = {"gan": {"weight": 0.5, "learning_rate": 1e-2, "images": "world:training", "pictures": 8}}


@pytest.mark.ci
def test_the_head_learns_to_tell_and_the_student_to_pass(family: Path) -> None:
    vsd = {"teacher_guidance_scale": 1.0, "lora_teacher_guidance_scale": "same", "first_timestep": 20, "last_timestep": 300}
    trainer, _ = make_trainer(
        family, losses=GAN, vsd=vsd, batch_size=8, student={"start": str(family / "start"), "learning_rate": 1e-6}
    )
    head = {name: value.clone() for name, value in trainer.trained("gan").items()}
    figures = take_steps(trainer, 30)
    first, last = (sum(entry["gan_own_loss"] for entry in part) for part in (figures[:5], figures[-5:]))
    assert last < 0.8 * first  # against a student that stands still
    assert {"gan_loss", "gan_logit", "gan_weight", "gan_gradient_norm", "gan_learning_rate"} <= figures[0].keys()
    assert all(not torch.equal(value, head[name]) for name, value in trainer.trained("gan").items())


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_students_gradient_is_that_of_the_loss(family: Path, checkpointing: bool) -> None:
    """By a difference of two losses, with the adapter on: with checkpointing the UNet is computed again in the backward pass."""
    trainer, _ = make_trainer(family, losses=GAN, gradient_checkpointing=checkpointing)
    take_steps(trainer, 1)
    term = next(term for term in trainer.terms if term.name == "gan")
    batch = trainer.batch("prompts", [0, 1])
    x0 = torch.randn(2, *trainer.networks.latent_shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    measured = term.measure(x0, batch)
    assert measured is not None
    gradient = gradient_at(x0, measured)
    small = 1e-2 * gradient / gradient.norm()
    ends = [term.measure((x0 + sign * small).detach().requires_grad_(), batch) for sign in (1, -1)]
    found = (ends[0].loss.sum() - ends[1].loss.sum()) / (2 * 1e-2) / measured.count  # type: ignore[union-attr]
    assert found.item() == pytest.approx(gradient.norm().item(), rel=0.02)


@pytest.mark.ci
def test_a_learned_loss_resumes_to_the_same_bits(family: Path, tmp_path: Path) -> None:
    whole, broken, resumed = (make_trainer(family, losses=GAN)[0] for _ in range(3))
    take_steps(whole, 4)
    take_steps(broken, 2)
    save_checkpoint(broken, tmp_path)
    resume(resumed, tmp_path, {})
    take_steps(resumed, 2)
    kept = weights(whole)
    assert any(name.startswith("gan.") for name in kept)
    assert all(torch.equal(value, weights(resumed)[name]) for name, value in kept.items())


@pytest.mark.ci
def test_the_estimate_knows_it_without_a_line_of_its_own(family: Path) -> None:
    registry = Registry.load(family / "catalog.yaml")
    plain, found = (describe(tiny_recipe(family, losses=losses), registry=registry) for losses in ({}, GAN))
    assert found["work"]["tflop_an_image"]["gan"] > 0 and "gan" in found["memory"]["passes"]
    assert found["memory"]["components"]["losses"] > 0 == plain["memory"]["components"]["losses"]


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        ({"gun": {}}, "losses.gun: no such loss"),
        ({"gan": {"weight": 1.0}}, "losses.gan.learning_rate: Field required"),
        ({"gan": GAN["gan"] | {"weigth": 1.0}}, "losses.gan.weigth: Extra inputs"),
    ],
)
def test_a_loss_that_cannot_be_is_refused_with_the_recipe(family: Path, losses: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        tiny_recipe(family, losses=losses)


def test_a_recipe_without_losses_is_what_it_was(family: Path) -> None:
    assert "losses" not in tiny_recipe(family).identity() and "losses" in tiny_recipe(family, losses=GAN).identity()

"""Signs that a run goes well, while it runs: three figures, the ranges that healthy runs had, and what else is likely.

The ranges have a little room around what runs of the mini family had: x0_deviation 0.81 to 1.05, fake_score_ratio 0.85 to
0.97, clip_to_vsd 10.7 at most, falling with its weight. Another family's may differ: a warning is a question.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from reference_trainer import losses, noise
from reference_trainer.networks import Networks
from sbv2bench.diffusion import add_noise

HELD_OUT = 8  # images by which the fake score is measured, of noise that no step draws
_STREAM = "held-out"


@dataclass(frozen=True)
class Sign:
    """A figure, where healthy runs had it, and what a value below or above is likely to come from."""

    figure: str
    low: float
    high: float
    below: str
    above: str

    def complaint(self, value: float) -> str | None:
        """One line for a value outside of the range."""
        if self.low <= value <= self.high:
            return None
        cause = self.below if value < self.low else self.above
        return f"{self.figure} {value:.3g}, healthy runs had {self.low:g} to {self.high:g}: {cause}"


SIGNS = (
    Sign(
        "x0_deviation",
        0.8,
        1.1,
        "images lose contrast and variety (real latents have about 1): a LoRA teacher that lags, or the unguided teacher as aim",
        "images oversaturate (real latents have about 1): more guidance on the frozen teacher than the LoRA teacher can follow",
    ),
    Sign(
        "fake_score_ratio",
        0.0,
        0.98,
        "",
        "the LoRA teacher knows the student's images no better than the frozen one: warm it up (lora_teacher.warmup_steps), "
        "raise its rate, or let it take more steps (lora_teacher.steps_per_student_step)",
    ),
)
_RATIO = "_to_vsd"


def _sign_of_ratio(figure: str) -> Sign:
    drowned = "it drowns VSD: a smaller weight, or a warm-up of the LoRA teacher, without which VSD's gradient is nearly 0"
    return Sign(figure, 0.0, 12.0, "", drowned)


def held_out(networks: Networks, captions: list[str]) -> dict[str, float]:
    """Denoising losses of both teachers on images of the student that neither has learned from.

    fake_score_loss and frozen_loss: as `losses.lora_teacher_loss`, the LoRA teacher's and the frozen one's, unguided, over
    timesteps spread evenly; fake_score_ratio: the first over the second, below 1 where the LoRA teacher knows the student.
    captions: at least one; the first HELD_OUT are used. The same noise whenever it is asked.
    """
    settings, recipe = networks.recipe.lora_teacher, networks.recipe
    if settings is None:
        return {}
    captions = captions[:HELD_OUT]
    rows = range(len(captions))
    z, target = (noise.normal(f"{_STREAM}:{what}", recipe.seed, 0, rows, networks.latent_shape) for what in ("z", "noise"))
    places = (torch.arange(len(captions)) + 0.5) / len(captions)
    span = settings.last_timestep - settings.first_timestep
    timesteps = (settings.first_timestep + places * span).long().to(networks.device)
    target = target.to(networks.device)
    alpha, sigma = networks.levels(timesteps)
    with torch.no_grad():
        text = networks.encode_text(captions)
        x_t = add_noise(networks.generate(z.to(networks.device), text), target, alpha, sigma)
        found = {}
        for name, lora in (("frozen_loss", False), ("fake_score_loss", True)):
            epsilon = networks.teacher_epsilon(x_t, timesteps, text, networks.null_text, 1.0, lora=lora)
            found[name] = float(losses.lora_teacher_loss(epsilon, target, alpha, settings.loss_weight).mean())
    return found | {"fake_score_ratio": found["fake_score_loss"] / max(found["frozen_loss"], 1e-12)}


def ratios(figures: Mapping[str, float]) -> dict[str, float]:
    """`<term>_to_vsd`: each term's weighted gradient at x0 over VSD's, where VSD has one."""
    ending = "_gradient_at_x0"
    vsd = figures.get(f"vsd{ending}", 0.0)
    others = [name.removesuffix(ending) for name in figures if name.endswith(ending) and name != f"vsd{ending}"]
    return {f"{name}{_RATIO}": figures[f"{name}{ending}"] / vsd for name in others} if vsd > 0.0 else {}


def complaints(figures: Mapping[str, float]) -> dict[str, str]:
    """Figure -> one line, for every one that is outside of the range of healthy runs."""
    signs = [*SIGNS, *(_sign_of_ratio(name) for name in figures if name.endswith(_RATIO))]
    found = {sign.figure: sign.complaint(figures[sign.figure]) for sign in signs if sign.figure in figures}
    return {name: line for name, line in found.items() if line is not None}

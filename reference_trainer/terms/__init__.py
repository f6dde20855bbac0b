"""The student's losses as a list of terms: each a name, a weight that may follow the run, and a loss at x0.

What a step does with a term is the same for all: its gradient with respect to the student's images, times its weight, is
added up, and one backward pass carries the sum through the student. Log, total and sizes come from the same list.

A new loss is one file and a line in a recipe: `losses: {gan: {...}}` takes the class `Term` of `terms/gan.py`, and
`losses: {mine: {target: "package.module:Class", ...}}` a class of one's own, made as Class(settings, recipe, networks, data).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from pydantic import BaseModel, ValidationError
from torch import Tensor, nn

from reference_trainer import losses, noise
from reference_trainer.config import Recipe, Regularisation, ScoreLoss, Vsd
from reference_trainer.networks import Networks
from reference_trainer.pairs import Pairs
from sbv2bench.diffusion import add_noise

Source = Literal["prompts", "pairs"]


@dataclass(frozen=True)
class Batch:
    """What one micro-batch of the student's images is made from, all on the device.

    samples: row numbers in the global batch of a step. text: states [B, L, D]. z [B, C, h, w]: the student's input.
    draws: of prompts, where and with what their images are noised. target: of pairs, latents [B, C, h, w].
    """

    step: int
    samples: list[int]
    captions: list[str]
    text: Tensor
    z: Tensor
    draws: noise.StudentDraws | None = None
    target: Tensor | None = None


@dataclass(frozen=True)
class Measured:
    """A loss [n] of n samples of a micro-batch, of `count` samples of the global batch that the term looks at.

    figures: name -> [n], logged beside it as means over the same samples.
    """

    loss: Tensor
    count: int
    figures: dict[str, Tensor] = field(default_factory=dict)


class Term(Protocol):
    """One loss on the student's images."""

    name: str
    source: Source  # which images: those of the prompts, or those of the pairs
    figures: tuple[str, ...]  # names of what `measure` logs beside the loss

    def weight(self, step: int) -> float:
        """What its gradient is multiplied by at a step."""

    def measure(self, x0: Tensor, batch: Batch) -> Measured | None:
        """The loss of latents x0 [B, C, h, w], with gradient to them; None where it looks at none of these samples."""


@runtime_checkable
class Learner(Protocol):
    """A term with a network of its own, which the trainer updates after the LoRA teacher, keeps and resumes as it does others."""

    name: str
    network: nn.Module  # in float32, made the same on every process
    learning_rate: float

    def learn(self, x0: Tensor, batch: Batch, network: Callable[[Tensor], Tensor]) -> Measured:
        """The network's own loss at the student's latents x0, detached, with gradient to its weights.

        network: it, or what stands for it among processes; to be called once.
        """


def loss_class(name: str, settings: dict[str, object]) -> tuple[Callable[..., Term], BaseModel]:
    """The class of a recipe's `losses.<name>`, and its settings, validated by its `Settings` (a model of pydantic's).

    Raises ValueError where there is no such class, or where the settings are not as it expects them.
    """
    rest = dict(settings)
    module, _, attribute = str(rest.pop("target", f"{__name__}.{name}:Term")).partition(":")
    try:
        found: Any = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"losses.{name}: no such loss ({error}), expected a module of {__name__} or a target") from error
    try:
        return found, found.Settings.model_validate(rest)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"losses.{'.'.join([name, *map(str, first['loc'])])}: {first['msg']}") from error


def terms(
    recipe: Recipe, networks: Networks, pairs: Pairs | None, data: Callable[[Regularisation], Pairs] | None = None
) -> list[Term]:
    """A recipe's terms, in the order in which they are added up and logged. data: where `losses` get pictures and latents."""
    found: list[Term] = []
    if recipe.vsd is not None:
        found.append(VsdTerm(recipe.vsd, recipe, networks))
    for name, loss in (("clip", recipe.clip), ("hps", recipe.hps)):
        if loss is not None:
            found.append(ScoreTerm(name, loss, recipe, networks))
    if recipe.regularisation is not None and pairs is not None:
        found.append(RegularisationTerm(recipe.regularisation, pairs))
    for name, given in recipe.losses.items():
        kind, settings = loss_class(name, given)
        found.append(kind(settings, recipe, networks, data))
    return found


class VsdTerm:
    """Variational score distillation (equation 4): the two teachers' guided predictions on the noised image."""

    name = "vsd"
    figures: tuple[str, ...] = ()
    source: Source = "prompts"

    def __init__(self, vsd: Vsd, recipe: Recipe, networks: Networks) -> None:
        self.vsd, self.recipe, self.networks = vsd, recipe, networks

    def weight(self, step: int) -> float:
        """1: the other terms' weights are relative to it."""
        return 1.0

    def measure(self, x0: Tensor, batch: Batch) -> Measured:
        """The value is that of half the mean squared gradient and says nothing about progress."""
        networks, vsd, draws = self.networks, self.vsd, batch.draws
        assert draws is not None
        timesteps = draws.timesteps.to(networks.device)
        alpha, sigma = networks.levels(timesteps)
        x_t = add_noise(x0.detach(), draws.noise.to(networks.device), alpha, sigma)
        null = networks.null_text.expand_as(batch.text)
        scale = noise.guidance_scale(vsd.teacher_guidance_scale, self.recipe.seed, batch.step)
        lora_scale = scale if vsd.lora_teacher_guidance_scale == "same" else float(vsd.lora_teacher_guidance_scale)
        frozen = networks.teacher_epsilon(x_t, timesteps, batch.text, null, scale, lora=False)
        lora = networks.teacher_epsilon(x_t, timesteps, batch.text, null, lora_scale, lora=True)
        gradient = losses.vsd_gradient(frozen, lora, x_t=x_t, x0=x0, alpha=alpha, sigma=sigma, weight=vsd.weight)
        return Measured(losses.stop_gradient_loss(x0, gradient), self.recipe.batch_size)


class ScoreTerm:
    """The clamped loss of a score: cosines of decoded images and their captions (equation 5; HPS: section 8.1)."""

    source: Source = "prompts"
    figures: tuple[str, ...] = ("cosine", "under_threshold")

    def __init__(self, name: str, loss: ScoreLoss, recipe: Recipe, networks: Networks) -> None:
        """name: "clip" or "hps", whose scorer the networks have."""
        self.name, self.loss, self.recipe, self.networks = name, loss, recipe, networks

    def weight(self, step: int) -> float:
        """By the recipe's schedule."""
        return losses.scheduled_weight(self.loss, step, self.recipe.steps)

    def measure(self, x0: Tensor, batch: Batch) -> Measured | None:
        """Of the share of the samples that are scored."""
        loss = self.loss
        chosen = losses.scored(batch.samples, loss.share).nonzero().flatten()
        if not len(chosen):
            return None
        captions = [batch.captions[place] for place in chosen.tolist()]
        cosine = self.networks.cosines(self.name, x0[chosen.to(x0.device)], captions, loss.decoder)
        figures = {"cosine": cosine, "under_threshold": (cosine < loss.threshold).float()}
        count = losses.scored_count(self.recipe.batch_size, loss.share)
        return Measured(losses.score_loss(cosine, loss.threshold, loss.clamped), count, figures)


class RegularisationTerm:
    """The student's images of the pairs' inputs against the pairs' latents."""

    name = "regularisation"
    figures: tuple[str, ...] = ()
    source: Source = "pairs"

    def __init__(self, regularisation: Regularisation, pairs: Pairs) -> None:
        self.regularisation, self.pairs = regularisation, pairs

    def weight(self, step: int) -> float:
        """Constant."""
        return self.regularisation.weight

    def measure(self, x0: Tensor, batch: Batch) -> Measured:
        """By the distance that the recipe names."""
        assert batch.target is not None
        return Measured(self.pairs.distance(x0, batch.target), self.pairs.batch_size)


def gradient_at(x0: Tensor, measured: Measured) -> Tensor:
    """d (mean loss over the global batch) / d x0, shape of x0, for this micro-batch's part of it."""
    (gradient,) = torch.autograd.grad(measured.loss.sum() / measured.count, x0)
    return gradient

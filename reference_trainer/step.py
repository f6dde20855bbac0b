"""One training iteration (SwiftBrush v2, sections 3.2 and 4): student, then LoRA teacher, one update of each.

Losses are means over the global batch: every micro-batch on every process adds the gradient of its share of that mean, the
shares are summed, and only then a network's gradient is clipped and applied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn

from reference_trainer import losses, noise
from reference_trainer.config import LoraTeacher, Recipe, Regularisation
from reference_trainer.networks import LORA_TEACHER, STUDENT, Networks
from reference_trainer.pairs import Pairs
from reference_trainer.prompts import PromptSource
from reference_trainer.report import BINS, Report
from reference_trainer.terms import Batch, Learner, Source, Term, gradient_at, terms
from reference_trainer.training.schedule import rate_share
from reference_trainer.training.shared import SharedNetwork
from sbv2bench.diffusion import add_noise
from sbv2bench.errors import InputError, IntegrityError, PrerequisiteError

# Of both moments of a weight; in 8 bit two bytes, and two float32 scales for 256 weights.
MOMENT_BYTES = {"adamw": 8.0, "adamw8bit": 2.0 + 8 / 256}
FRESH = 2**32  # between the seeds of the captions' orders for further updates of the LoRA teacher


class Captions(Protocol):
    """Where captions come from: `prompts.PromptSource`, or a stand-in."""

    def prompts_at(self, seed: int, step: int, batch_size: int, samples: Sequence[int]) -> list[str]:
        """The captions of some rows of a step's global batch."""


@dataclass(frozen=True)
class Generated:
    """Images of the student without a graph: rows of the global batch, captions' text states, latents [B, C, h, w]."""

    samples: list[int]
    text: Tensor
    x0: Tensor


class Trainer:
    """Networks, their optimisers and how far they are: what a step changes.

    step: iterations done. warmed: updates of the LoRA teacher before the first of them. skipped: steps in a row, up to now,
    whose gradient was not a number.
    """

    def __init__(
        self, recipe: Recipe, networks: Networks, prompts: Captions, pairs: Pairs | None, *, rank: int = 0, processes: int = 1
    ) -> None:
        """rank: of this process among `processes`. Raises InputError for a batch that processes cannot share evenly,
        PrerequisiteError for an optimiser that is not to be had here.
        """
        self.recipe, self.networks, self.prompts, self.pairs = recipe, networks, prompts, pairs
        self.rank, self.processes = rank, processes
        for name, size in (("batch_size", recipe.batch_size), ("regularisation.batch_size", pairs.batch_size if pairs else 0)):
            if size % processes:
                raise InputError(f"{name} {size}: {processes} processes cannot share it evenly")
        self.terms = terms(recipe, networks, pairs, self.pairs_of)
        self.learners = {term.name: term for term in self.terms if isinstance(term, Learner)}
        self._shared: dict[str, SharedNetwork] = {}
        rates = {STUDENT: recipe.student.learning_rate}
        if recipe.lora_teacher is not None:
            rates[LORA_TEACHER] = recipe.lora_teacher.learning_rate
        self.rates = rates | {name: learner.learning_rate for name, learner in self.learners.items()}
        if recipe.optimiser.kind == "adamw8bit" and networks.device.type != "cuda":
            raise PrerequisiteError(f"optimiser.kind adamw8bit: needs a GPU, found {networks.device}", "optimiser.kind=adamw")
        self.optimisers = {name: _optimiser(recipe, self.trained(name), rate) for name, rate in self.rates.items()}
        self.step = self.warmed = self.skipped = 0

    @property
    def warm_up_steps(self) -> int:
        """Updates of the LoRA teacher that the recipe wants before the student's first."""
        return self.recipe.lora_teacher.warmup_steps if self.recipe.lora_teacher is not None else 0

    def trained(self, network: str) -> dict[str, nn.Parameter]:
        """Name -> parameter of what one of the optimisers trains, in a fixed order."""
        learner = self.learners.get(network)
        return self.networks.trained(network) if learner is None else dict(learner.network.named_parameters())

    def pairs_of(self, settings: Regularisation) -> Pairs:
        """Captions and latents for a term of one's own. Raises what `Pairs` raises."""
        assert isinstance(self.prompts, PromptSource)
        return Pairs(self.recipe.model_copy(update={"regularisation": settings}), self.networks, self.prompts, lambda *_: None)

    def share(self) -> None:
        """Train together with the processes of the group that this one has joined."""
        self.networks.share()
        self._shared = {name: SharedNetwork(learner.network) for name, learner in self.learners.items()}

    def kept(self) -> dict[str, dict[str, Tensor]]:
        """The moving average: what a step changes besides weights and moments."""
        average = self.networks.average
        return {} if average is None else {"average": dict(zip(self.trained(STUDENT), average.shadow_params, strict=True))}

    def counters(self) -> dict[str, int]:
        """How far the run is."""
        average = self.networks.average
        own = {"step": self.step, "warmed": self.warmed, "skipped": self.skipped}
        return own | {"average_step": 0 if average is None else average.optimization_step}

    def set_counters(self, counters: Mapping[str, int]) -> None:
        """Go on from there."""
        self.step, self.warmed, self.skipped = (counters[name] for name in ("step", "warmed", "skipped"))
        if self.networks.average is not None:
            self.networks.average.optimization_step = counters["average_step"]

    def part(self, name: str) -> AbstractContextManager[None]:
        """Around a part of a step, for whoever counts: a source, the moving average, or a network that learns."""
        return nullcontext()

    def take_step(self) -> dict[str, float]:
        """One iteration, and the figures to log of it, the same on every process.

        A network whose gradient is not a number is left as it was. Raises IntegrityError where that has happened in more
        steps in a row than the recipe allows.
        """
        report, figures = Report.of(self.terms), dict[str, float]()
        generated: list[Generated] = []
        seen: list[tuple[Batch, Tensor]] = []
        parts = [(source, samples) for source in self._sources() for samples in self._micro_batches(self._size(source))]
        for place, (source, samples) in enumerate(parts):
            batch = self.batch(source, samples)
            with self.networks.summing(STUDENT, now=place == len(parts) - 1), self.part(source):
                x0 = self.student_batch(batch, [term for term in self.terms if term.source == source], report)
            if source == "prompts":
                generated.append(Generated(batch.samples, batch.text, x0))
                seen += [(batch, x0)] if self.learners else []
        sound = self.update(STUDENT, figures)
        if sound:
            with self.part("moving_average"):
                self.networks.update_average()
        if self.recipe.lora_teacher is not None:
            for turn in range(self.recipe.lora_teacher.steps_per_student_step):
                images: Iterable[Generated] = generated if turn == 0 else self._fresh_images(turn)
                with self.part(LORA_TEACHER):
                    self.lora_teacher_batch(self.recipe.lora_teacher, turn, images, report)
                sound = self.update(LORA_TEACHER, figures) and sound
        for name, learner in self.learners.items():
            with self.part(name):
                self._learner_batches(learner, seen, report)
            sound = self.update(name, figures) and sound
        self.skipped = 0 if sound else self.skipped + 1
        self._stop_where_nothing_is_a_number()
        weights = {f"{term.name}_weight": term.weight(self.step) for term in self.terms}
        self.step += 1
        return figures | weights | {"skipped": float(not sound)} | self.figures_of(report)

    def warm_up_lora_teacher(self) -> dict[str, float]:
        """One update of the LoRA teacher at its full rate before the student's first step; figures as of a step."""
        settings = self.recipe.lora_teacher
        assert settings is not None
        report, figures = Report(), dict[str, float]()
        turn = -1 - self.warmed  # negative: no step of the student draws these
        self.lora_teacher_batch(settings, turn, self._images(turn, self.recipe.seed, "student"), report)
        self.skipped = 0 if self.update(LORA_TEACHER, figures) else self.skipped + 1
        self._stop_where_nothing_is_a_number()
        self.warmed += 1
        return figures | self.figures_of(report)

    def batch(self, source: Source, samples: list[int]) -> Batch:
        """Some rows of this step's global batch of prompts or of pairs."""
        networks, recipe, step = self.networks, self.recipe, self.step
        if source == "pairs":
            assert self.pairs is not None
            captions, z, target = self.pairs.batch(step, samples)
            text = networks.encode_text(captions)
            return Batch(step, samples, captions, text, z.to(networks.device), target=target.to(networks.device))
        assert recipe.vsd is not None
        captions = self.prompts.prompts_at(recipe.seed, step, recipe.batch_size, samples)
        draws = noise.student_draws(recipe.seed, step, samples, networks.latent_shape, recipe.vsd)
        return Batch(step, samples, captions, networks.encode_text(captions), draws.z.to(networks.device), draws)

    def _sources(self) -> list[Source]:
        """What the student's images of a step are made from, in order."""
        wanted: tuple[Source, ...] = ("prompts", "pairs")
        return [source for source in wanted if any(term.source == source for term in self.terms)]

    def _size(self, source: Source) -> int:
        return self.pairs.batch_size if source == "pairs" and self.pairs is not None else self.recipe.batch_size

    def _micro_batches(self, batch_size: int) -> list[list[int]]:
        share = batch_size // self.processes
        rows = list(range(self.rank * share, (self.rank + 1) * share))
        size = self.recipe.micro_batch_size or len(rows)
        return [rows[start : start + size] for start in range(0, len(rows), size)]

    def student_batch(self, batch: Batch, wanted: list[Term], report: Report) -> Tensor:
        """Each term's gradient with respect to x0, then one backward pass of their sum. Returns x0, detached."""
        x0 = self.networks.generate(batch.z, batch.text)
        leaf, total = x0.detach().requires_grad_(), torch.zeros_like(x0)
        for term in wanted:
            measured = term.measure(leaf, batch)
            if measured is None:
                continue
            weight = term.weight(batch.step)
            gradient = weight * gradient_at(leaf, measured)
            total += gradient
            report.add(f"{term.name}_loss", measured.loss, measured.count)
            report.add("loss", weight * measured.loss, measured.count)
            for name, values in measured.figures.items():
                report.add(f"{term.name}_{name}", values, measured.count)
            report.add_gradient(term.name, gradient)
        x0.backward(total * self.processes)  # type: ignore[no-untyped-call]  # of which the mean is taken
        if wanted[0].source == "prompts":
            flat = leaf.detach().flatten(1)
            report.add("x0_mean", flat.mean(1), self.recipe.batch_size)
            report.add("x0_deviation", flat.std(1), self.recipe.batch_size)
        return leaf.detach()

    def _fresh_images(self, turn: int) -> Iterator[Generated]:
        """New images of other captions, from the student as it is now: DMD2's two-time-scale rule for a further update."""
        return self._images(self.step, self.recipe.seed + FRESH * turn, f"student:{turn}")

    def _images(self, step: int, order: int, stream: str) -> Iterator[Generated]:
        """A global batch of the student's images, one micro-batch in memory at a time.

        order: seed of the captions' order. stream: of the noise. Neither depends on how processes share the rows.
        """
        networks, recipe = self.networks, self.recipe
        for samples in self._micro_batches(recipe.batch_size):
            text = networks.encode_text(self.prompts.prompts_at(order, step, recipe.batch_size, samples))
            z = noise.normal(stream, recipe.seed, step, samples, networks.latent_shape).to(networks.device)
            with torch.no_grad():
                x0 = networks.generate(z, text)
            yield Generated(samples, text, x0)

    def lora_teacher_batch(self, settings: LoraTeacher, turn: int, images: Iterable[Generated], report: Report) -> None:
        """Denoising of the student's latents by the LoRA teacher: gradients of its adapter."""
        networks, recipe = self.networks, self.recipe
        last = len(self._micro_batches(recipe.batch_size)) - 1
        for number, part in enumerate(images):
            draws = noise.lora_teacher_draws(
                recipe.seed, self.step, turn, part.samples, shape=networks.latent_shape, teacher=settings
            )
            timesteps, target = draws.timesteps.to(networks.device), draws.noise.to(networks.device)
            alpha, sigma = networks.levels(timesteps)
            text = torch.where(draws.null.to(networks.device)[:, None, None], networks.null_text, part.text)
            with networks.lora_teacher(), networks.summing(LORA_TEACHER, now=number == last):
                epsilon = networks.lora_teacher_epsilon(add_noise(part.x0, target, alpha, sigma), timesteps, text)
                per_sample = losses.lora_teacher_loss(epsilon, target, alpha, settings.loss_weight)
                (per_sample.sum() * self.processes / recipe.batch_size).backward()  # type: ignore[no-untyped-call]
            turns = settings.steps_per_student_step if turn >= 0 else 1
            report.add("lora_teacher_loss", per_sample, recipe.batch_size * turns)
            place = (draws.timesteps * BINS) // len(networks.schedule)
            error = (epsilon.detach() - target).square().flatten(1).mean(1).cpu()
            report.bins.index_add_(1, place, torch.stack([error, torch.ones_like(error)]))

    def _learner_batches(self, learner: Learner, seen: list[tuple[Batch, Tensor]], report: Report) -> None:
        """A term's own network learns from the student's images of this step."""
        shared = self._shared.get(learner.name)
        for number, (batch, x0) in enumerate(seen):
            with nullcontext() if shared is None else shared.summing(now=number == len(seen) - 1):
                measured = learner.learn(x0, batch, shared or learner.network)
                (measured.loss.sum() * self.processes / measured.count).backward()  # type: ignore[no-untyped-call]
            report.add(f"{learner.name}_own_loss", measured.loss, measured.count)

    def update(self, name: str, figures: dict[str, float]) -> bool:
        """Clip gradients, step, forget them. Returns whether they were numbers: if not, no weight moves.

        figures: gets the norm from before the clip, and the rate. Gradients are those of all processes, which decide alike.
        """
        parameters = list(self.trained(name).values())
        norm = nn.utils.clip_grad_norm_(parameters, self.recipe.optimiser.gradient_clip)
        sound = bool(norm.isfinite())
        optimiser, rate = self.optimisers[name], self.rates[name] * self._rate(name)
        if sound:
            for group in optimiser.param_groups:
                group["lr"] = rate
            optimiser.step()
        optimiser.zero_grad(set_to_none=self.processes == 1)  # of several they lie where they are sent from
        figures |= {f"{name}_gradient_norm": float(norm), f"{name}_learning_rate": rate}
        return sound

    def _rate(self, name: str) -> float:
        """Learning rate as a share of the recipe's: linear warm-up, then a cosine to `final_learning_rate`.

        A LoRA teacher that was warmed up has had small steps enough: it begins, and goes on, at its full rate.
        """
        settings = self.recipe.optimiser
        warmup = 0 if name == LORA_TEACHER and self.warm_up_steps > 0 else settings.warmup_steps
        return rate_share(self.step, self.recipe.steps, warmup, settings.final_learning_rate)

    def figures_of(self, report: Report) -> dict[str, float]:
        """A report's means, over all processes."""
        return report.over_processes(len(self.networks.schedule), self.networks.device if self.processes > 1 else None)

    def _stop_where_nothing_is_a_number(self) -> None:
        recipe = self.recipe
        if self.skipped <= recipe.skips_in_a_row:
            return
        where = f"step {self.step}" if self.warmed >= self.warm_up_steps else f"warm-up step {self.warmed}"
        raise IntegrityError(
            f"{where}: gradients were not numbers in {self.skipped} steps in a row, {recipe.skips_in_a_row} are allowed; "
            f"its noise is keyed by seed {recipe.seed}, step {self.step}, samples 0 to {recipe.batch_size - 1}",
            "the same command with --continue-with student.learning_rate="
            f"{recipe.student.learning_rate / 2:g}"
            + (", or --continue-with precision=float32" if recipe.precision != "float32" else ""),
        )


def _optimiser(recipe: Recipe, trained: dict[str, nn.Parameter], rate: float) -> torch.optim.Optimizer:
    settings = recipe.optimiser
    # On a CPU one pass over the weights in place of a dozen takes a third of the time; elsewhere torch chooses.
    fused = all(parameter.device.type == "cpu" for parameter in trained.values())
    make: Callable[..., torch.optim.Optimizer] = partial(torch.optim.AdamW, fused=fused or None)
    if settings.kind == "adamw8bit":
        try:
            from bitsandbytes.optim import AdamW8bit
        except ImportError as error:
            raise PrerequisiteError(
                "optimiser.kind adamw8bit: bitsandbytes is not installed", "pip install bitsandbytes"
            ) from error
        make = AdamW8bit
    return make(trained.values(), lr=rate, betas=settings.betas, eps=settings.epsilon, weight_decay=settings.weight_decay)

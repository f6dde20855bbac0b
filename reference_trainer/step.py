"""One training iteration (SwiftBrush v2, sections 3.2 and 4): student, then LoRA teacher, one update of each.

Losses are means over the global batch: every micro-batch on every process adds the gradient of its share of that mean, the
shares are summed, and only then a network's gradient is clipped and applied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from reference_trainer import losses, noise
from reference_trainer.config import LoraTeacher, Recipe
from reference_trainer.networks import LORA_TEACHER, STUDENT, Networks
from reference_trainer.pairs import Pairs
from reference_trainer.terms import Batch, Source, Term, gradient_at, terms
from sbv2bench.diffusion import add_noise
from sbv2bench.errors import InputError, IntegrityError, PrerequisiteError

BUCKET = 2**24  # gradients a message
# Of both moments of a weight; in 8 bit two bytes, and two float32 scales for 256 weights.
MOMENT_BYTES = {"adamw": 8.0, "adamw8bit": 2.0 + 8 / 256}
BINS = 10  # of timesteps, in which the LoRA teacher's loss is logged
FRESH = 2**32  # between the seeds of the captions' orders for further updates of the LoRA teacher


class Captions(Protocol):
    """Where captions come from: `prompts.PromptSource`, or a stand-in."""

    def prompts_at(self, seed: int, step: int, batch_size: int, samples: Sequence[int]) -> list[str]:
        """The captions of some rows of a step's global batch."""
        ...


@dataclass(frozen=True)
class Generated:
    """Images of the student without a graph: rows of the global batch, captions' text states, latents [B, C, h, w]."""

    samples: list[int]
    text: Tensor
    x0: Tensor


@dataclass
class Report:
    """This process's part of a step's figures: contributions to means over the global batch, and to sums of squares."""

    means: dict[str, float] = field(default_factory=dict)
    squares: dict[str, float] = field(default_factory=dict)  # of gradients with respect to x0
    bins: Tensor = field(default_factory=lambda: torch.zeros(2, BINS))  # sum and count of LoRA-teacher losses by timestep

    @classmethod
    def of(cls, terms: Sequence[Term]) -> Report:
        """An empty one with every name that terms can write: the same on a process whose samples a term passes over."""
        names = [f"{term.name}_{figure}" for term in terms for figure in ("loss", *term.figures)]
        images = ["x0_mean", "x0_deviation"] if any(term.source == "prompts" for term in terms) else []
        means = dict.fromkeys([*names, *images, *(["loss"] if terms else [])], 0.0)
        return cls(means, dict.fromkeys([term.name for term in terms], 0.0))

    def add(self, name: str, values: Tensor, count: int) -> None:
        """Add some samples' values [n] to a mean over `count` of them."""
        self.means[name] = self.means.get(name, 0.0) + float(values.detach().sum()) / count

    def add_gradient(self, name: str, gradient: Tensor) -> None:
        """Add the square of a gradient with respect to x0."""
        self.squares[name] += float(gradient.square().sum())


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
        self.terms = terms(recipe, networks, pairs)
        rates = {STUDENT: recipe.student.learning_rate}
        if recipe.lora_teacher is not None:
            rates[LORA_TEACHER] = recipe.lora_teacher.learning_rate
        self.rates = rates
        if recipe.optimiser.kind == "adamw8bit" and networks.device.type != "cuda":
            raise PrerequisiteError(f"optimiser.kind adamw8bit: needs a GPU, found {networks.device}", "optimiser.kind=adamw")
        self.optimisers = {name: _optimiser(recipe, networks.trained(name), rate) for name, rate in rates.items()}
        self.step = self.warmed = self.skipped = 0

    @property
    def warm_up_steps(self) -> int:
        """Updates of the LoRA teacher that the recipe wants before the student's first."""
        return self.recipe.lora_teacher.warmup_steps if self.recipe.lora_teacher is not None else 0

    def rows(self, batch_size: int) -> range:
        """The rows of a global batch that are this process's."""
        share = batch_size // self.processes
        return range(self.rank * share, (self.rank + 1) * share)

    def take_step(self) -> dict[str, float]:
        """One iteration, and the figures to log of it, the same on every process.

        A network whose gradient is not a number is left as it was. Raises IntegrityError where that has happened in more
        steps in a row than the recipe allows.
        """
        report, figures = Report.of(self.terms), dict[str, float]()
        generated: list[Generated] = []
        for source in ("prompts", "pairs"):
            wanted = [term for term in self.terms if term.source == source]
            for batch in self._batches(source) if wanted else ():
                x0 = self._student_batch(batch, wanted, report)
                if source == "prompts":
                    generated.append(Generated(batch.samples, batch.text, x0))
        sound = self._update(STUDENT, figures)
        if sound:
            self.networks.update_average()
        if self.recipe.lora_teacher is not None:
            for turn in range(self.recipe.lora_teacher.steps_per_student_step):
                images: Iterable[Generated] = generated if turn == 0 else self._fresh_images(turn)
                self._lora_teacher_batch(self.recipe.lora_teacher, turn, images, report)
                sound = self._update(LORA_TEACHER, figures) and sound
        self.skipped = 0 if sound else self.skipped + 1
        self._stop_where_nothing_is_a_number()
        weights = {f"{term.name}_weight": term.weight(self.step) for term in self.terms}
        self.step += 1
        return figures | weights | {"skipped": float(not sound)} | self._over_processes(report)

    def warm_up_lora_teacher(self) -> dict[str, float]:
        """One update of the LoRA teacher at its full rate before the student's first step; figures as of a step."""
        settings = self.recipe.lora_teacher
        assert settings is not None
        report, figures = Report(), dict[str, float]()
        turn = -1 - self.warmed  # negative: no step of the student draws these
        self._lora_teacher_batch(settings, turn, self._images(turn, self.recipe.seed, "student"), report)
        self.skipped = 0 if self._update(LORA_TEACHER, figures) else self.skipped + 1
        self._stop_where_nothing_is_a_number()
        self.warmed += 1
        return figures | self._over_processes(report)

    def _batches(self, source: Source) -> Iterator[Batch]:
        """This process's micro-batches of a step's prompts or pairs."""
        networks, recipe, step = self.networks, self.recipe, self.step
        if source == "pairs":
            assert self.pairs is not None
            for samples in self._micro_batches(self.pairs.batch_size):
                captions, z, target = self.pairs.batch(step, samples)
                text = networks.encode_text(captions)
                yield Batch(step, samples, captions, text, z.to(networks.device), target=target.to(networks.device))
            return
        assert recipe.vsd is not None
        for samples in self._micro_batches(recipe.batch_size):
            captions = self.prompts.prompts_at(recipe.seed, step, recipe.batch_size, samples)
            draws = noise.student_draws(recipe.seed, step, samples, networks.latent_shape, recipe.vsd)
            yield Batch(step, samples, captions, networks.encode_text(captions), draws.z.to(networks.device), draws)

    def _micro_batches(self, batch_size: int) -> Iterator[list[int]]:
        rows = list(self.rows(batch_size))
        size = self.recipe.micro_batch_size or len(rows)
        return (rows[start : start + size] for start in range(0, len(rows), size))

    def _student_batch(self, batch: Batch, wanted: list[Term], report: Report) -> Tensor:
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
        x0.backward(total)  # type: ignore[no-untyped-call]
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

    def _lora_teacher_batch(self, settings: LoraTeacher, turn: int, images: Iterable[Generated], report: Report) -> None:
        """Denoising of the student's latents by the LoRA teacher: gradients of its adapter."""
        networks, recipe = self.networks, self.recipe
        for part in images:
            draws = noise.lora_teacher_draws(
                recipe.seed, self.step, turn, part.samples, shape=networks.latent_shape, teacher=settings
            )
            timesteps, target = draws.timesteps.to(networks.device), draws.noise.to(networks.device)
            alpha, sigma = networks.levels(timesteps)
            text = torch.where(draws.null.to(networks.device)[:, None, None], networks.null_text, part.text)
            with networks.lora_teacher():
                epsilon = networks.lora_teacher_epsilon(add_noise(part.x0, target, alpha, sigma), timesteps, text)
                per_sample = losses.lora_teacher_loss(epsilon, target, alpha, settings.loss_weight)
                (per_sample.sum() / recipe.batch_size).backward()  # type: ignore[no-untyped-call]
            turns = settings.steps_per_student_step if turn >= 0 else 1
            report.add("lora_teacher_loss", per_sample, recipe.batch_size * turns)
            place = (draws.timesteps * BINS) // len(networks.schedule)
            error = (epsilon.detach() - target).square().flatten(1).mean(1).cpu()
            report.bins.index_add_(1, place, torch.stack([error, torch.ones_like(error)]))

    def _update(self, name: str, figures: dict[str, float]) -> bool:
        """Sum gradients over processes, clip, step, forget them. Returns whether they were numbers: if not, no weight moves.

        figures: gets the norm from before the clip, and the rate. The norm is of the sum, so every process decides alike.
        """
        parameters = list(self.networks.trained(name).values())
        if self.processes > 1:
            _sum_over_processes(parameters)
        norm = nn.utils.clip_grad_norm_(parameters, self.recipe.optimiser.gradient_clip)
        sound = bool(norm.isfinite())
        optimiser, rate = self.optimisers[name], self.rates[name] * self._rate(name)
        if sound:
            for group in optimiser.param_groups:
                group["lr"] = rate
            optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        figures |= {f"{name}_gradient_norm": float(norm), f"{name}_learning_rate": rate}
        return sound

    def _rate(self, name: str) -> float:
        """Learning rate as a share of the recipe's: linear warm-up, then a cosine to `final_learning_rate`.

        A LoRA teacher that was warmed up has had small steps enough: it begins, and goes on, at its full rate.
        """
        settings = self.recipe.optimiser
        warmed = name == LORA_TEACHER and self.warm_up_steps > 0
        warm = 1.0 if warmed else min(1.0, (self.step + 1) / max(1, settings.warmup_steps))
        cosine = 0.5 * (1 + torch.cos(torch.tensor(torch.pi * self.step / self.recipe.steps, dtype=torch.float64)).item())
        return warm * (settings.final_learning_rate + (1 - settings.final_learning_rate) * cosine)

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

    def _over_processes(self, report: Report) -> dict[str, float]:
        """A report's figures over the global batch, the same on every process."""
        names = sorted(report.means), sorted(report.squares)
        values = [report.means[n] for n in names[0]] + [report.squares[n] for n in names[1]]
        flat = torch.cat([torch.tensor(values, dtype=torch.float64), report.bins.flatten().double()])
        if self.processes > 1:
            shared = flat.to(self.networks.device)
            dist.all_reduce(shared)
            flat = shared.cpu()
        numbers = flat.tolist()
        figures = {name: numbers.pop(0) for name in names[0]}
        figures |= {f"{name}_gradient_at_x0": numbers.pop(0) ** 0.5 for name in names[1]}
        sums, counts = numbers[:BINS], numbers[BINS:]
        width = len(self.networks.schedule) // BINS
        bins = {f"lora_teacher_t{i * width:03d}": s / c for i, (s, c) in enumerate(zip(sums, counts, strict=True)) if c}
        return figures | bins


def _sum_over_processes(parameters: list[nn.Parameter]) -> None:
    """Gradients of all processes added up, some tens of megabytes a message: one a weight would cost more than a small step."""
    start = 0
    while start < len(parameters):
        end, size = start, 0
        while end < len(parameters) and (end == start or size + parameters[end].numel() <= BUCKET):
            size += parameters[end].numel()
            end += 1
        bucket = parameters[start:end]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        for parameter, gradient, part in zip(bucket, gradients, flat.split([p.numel() for p in bucket]), strict=True):
            parameter.grad = gradient.copy_(part.view(gradient.shape))
        start = end


def _optimiser(recipe: Recipe, trained: dict[str, nn.Parameter], rate: float) -> torch.optim.Optimizer:
    settings = recipe.optimiser
    make: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW
    if settings.kind == "adamw8bit":
        try:
            from bitsandbytes.optim import AdamW8bit
        except ImportError as error:
            raise PrerequisiteError(
                "optimiser.kind adamw8bit: bitsandbytes is not installed", "pip install bitsandbytes"
            ) from error
        make = AdamW8bit
    return make(trained.values(), lr=rate, betas=settings.betas, eps=settings.epsilon, weight_decay=settings.weight_decay)

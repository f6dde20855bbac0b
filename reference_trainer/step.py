"""One training step: the student's update, then the LoRA teacher's on the images that the student just made.

Micro-batches change nothing but memory: losses are sums over the global batch's samples divided by their number, every
micro-batch of the student comes before its optimiser step, and the LoRA teacher's use the latents kept from before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn

from reference_trainer import losses, noise
from reference_trainer.config import LoraTeacher, Recipe, Regularisation, Vsd
from reference_trainer.networks import LORA_TEACHER, STUDENT, Networks
from reference_trainer.pairs import Pairs
from sbv2bench.diffusion import add_noise
from sbv2bench.errors import InputError, IntegrityError, PrerequisiteError

BUCKET = 2**24  # gradients a message
BINS = 10  # of timesteps, in which the LoRA teacher's loss is logged


@dataclass(frozen=True)
class Generated:
    """One micro-batch of the student: its samples' numbers in the global batch, captions, text states, latents (detached)."""

    samples: list[int]
    captions: list[str]
    text: Tensor
    x0: Tensor


@dataclass
class Report:
    """Sums over this process's samples of a step, to be averaged over the global batch; see `figures`."""

    sums: dict[str, float] = field(default_factory=dict)
    squares: dict[str, float] = field(default_factory=dict)  # squared gradient norms
    bins: Tensor = field(default_factory=lambda: torch.zeros(2, BINS))  # sum and count of LoRA-teacher losses by timestep

    def add(self, name: str, per_sample: Tensor) -> None:
        """Add a value of each of some samples."""
        self.sums[name] = self.sums.get(name, 0.0) + float(per_sample.detach().sum())

    def add_gradient(self, name: str, gradient: Tensor) -> None:
        """Add the square of a gradient with respect to x0."""
        self.squares[name] = self.squares.get(name, 0.0) + float(gradient.square().sum())


class Trainer:
    """Networks, their optimisers and the number of steps done: what a step changes."""

    def __init__(self, recipe: Recipe, networks: Networks, pairs: Pairs | None, rank: int = 0, processes: int = 1) -> None:
        """rank: of this process among `processes`. Raises InputError for a batch that processes cannot share evenly."""
        self.recipe, self.networks, self.pairs, self.rank, self.processes = recipe, networks, pairs, rank, processes
        for name, size in (("batch_size", recipe.batch_size), ("regularisation.batch_size", pairs.batch_size if pairs else 0)):
            if size % processes:
                raise InputError(f"{name} {size}: {processes} processes cannot share it evenly")
        rates = {STUDENT: recipe.student.learning_rate}
        if recipe.lora_teacher is not None:
            rates[LORA_TEACHER] = recipe.lora_teacher.learning_rate
        self.rates = rates
        self.optimisers = {name: _optimiser(recipe, networks.trained(name), rate) for name, rate in rates.items()}
        self.step = 0

    def rows(self, batch_size: int) -> range:
        """The rows of a global batch that are this process's."""
        share = batch_size // self.processes
        return range(self.rank * share, (self.rank + 1) * share)

    def take_step(self, captions: Sequence[str]) -> dict[str, float]:
        """One iteration (trainer's section 1.1b) on this process's captions, and the figures to log of it.

        Raises IntegrityError where a loss is not a number; the weights are then those of before.
        """
        report = Report()
        recipe = self.recipe
        figures: dict[str, float] = {}
        generated: list[Generated] = []
        if recipe.vsd is not None and recipe.lora_teacher is not None:
            rows = list(self.rows(recipe.batch_size))
            generated = [self._student_batch(recipe.vsd, *part, report) for part in self._micro_batches(rows, captions)]
        if recipe.regularisation is not None and self.pairs is not None:
            self._regularise(recipe.regularisation, self.pairs, report)
        figures |= self._update(STUDENT, self.step)
        if self.networks.average is not None:
            self.networks.average.step(list(self.networks.trained(STUDENT).values()))
        if recipe.lora_teacher is not None:
            for turn in range(recipe.lora_teacher.steps_per_student_step):
                self._lora_teacher_batch(recipe.lora_teacher, turn, generated, report)
                figures |= self._update(LORA_TEACHER, self.step)
        self.step += 1
        return figures | self._averaged(report)

    def warm_up_lora_teacher(self, captions: Sequence[str], turn: int) -> None:
        """One update of the LoRA teacher before the student's first step, on what the student makes now."""
        recipe = self.recipe
        assert recipe.vsd is not None and recipe.lora_teacher is not None
        generated = []
        for samples, part in self._micro_batches(list(self.rows(recipe.batch_size)), captions):
            draws = noise.student_draws(recipe.seed, -1 - turn, samples, self.networks.latent_shape, recipe.vsd)
            text = self.networks.encode_text(part)
            with torch.no_grad():
                generated.append(Generated(samples, part, text, self.networks.generate(draws.z.to(self.networks.device), text)))
        self._lora_teacher_batch(recipe.lora_teacher, -1 - turn, generated, Report())
        self._update(LORA_TEACHER, 0)

    def _micro_batches(self, rows: list[int], captions: Sequence[str]) -> list[tuple[list[int], list[str]]]:
        size = self.recipe.micro_batch_size or len(rows)
        return [(rows[i : i + size], list(captions[i : i + size])) for i in range(0, len(rows), size)]

    def _student_batch(self, vsd: Vsd, samples: list[int], captions: list[str], report: Report) -> Generated:
        """Gradients of every loss with respect to x0, each by itself, then one backward pass through the student."""
        networks, recipe, total = self.networks, self.recipe, self.recipe.batch_size
        draws = noise.student_draws(recipe.seed, self.step, samples, networks.latent_shape, vsd)
        text = networks.encode_text(captions)
        x0 = networks.generate(draws.z.to(networks.device), text)
        leaf = x0.detach().requires_grad_()
        per_sample = self._vsd(vsd, leaf, draws, text)
        report.add("vsd", per_sample)
        gradient = _gradient("vsd", per_sample.sum() / total, leaf, report)
        for name, loss in (("clip", recipe.clip), ("hps", recipe.hps)):
            chosen = losses.scored(samples, loss.share) if loss is not None else torch.zeros(0)
            if loss is None or not bool(chosen.any()):
                continue
            count = losses.scored_count(total, loss.share)
            cosine = networks.cosines(
                name, leaf[chosen], [c for c, used in zip(captions, chosen, strict=True) if used], loss.decoder
            )
            value = losses.score_loss(cosine, loss.threshold, loss.clamped)
            report.add(f"{name}_cosine", cosine * total / count)
            report.add(f"{name}_loss", value * total / count)
            report.add(f"{name}_under_threshold", (cosine < loss.threshold).float() * total / count)
            weight = losses.scheduled_weight(loss, self.step, recipe.steps)
            gradient = gradient + weight * _gradient(name, value.sum() / count, leaf, report)
        x0.backward(gradient)  # type: ignore[no-untyped-call]
        flat = x0.detach().flatten(1)
        report.add("x0_mean", flat.mean(1))
        report.add("x0_deviation", flat.std(1))
        return Generated(samples, captions, text, x0.detach())

    def _vsd(self, vsd: Vsd, x0: Tensor, draws: noise.StudentDraws, text: Tensor) -> Tensor:
        """VSD loss [B] of latents x0."""
        networks = self.networks
        timesteps = draws.timesteps.to(networks.device)
        alpha, sigma = networks.levels(timesteps)
        x_t = add_noise(x0.detach(), draws.noise.to(networks.device), alpha, sigma)
        null = networks.encode_text([""]).expand_as(text)
        scale = noise.guidance_scale(vsd.teacher_guidance_scale, self.recipe.seed, self.step)
        lora_scale = scale if vsd.lora_teacher_guidance_scale == "same" else float(vsd.lora_teacher_guidance_scale)
        frozen = networks.teacher_epsilon(x_t, timesteps, text, null, scale, lora=False)
        lora = networks.teacher_epsilon(x_t, timesteps, text, null, lora_scale, lora=True)
        return losses.stop_gradient_loss(
            x0, losses.vsd_gradient(frozen, lora, x_t=x_t, x0=x0, alpha=alpha, sigma=sigma, weight=vsd.weight)
        )

    def _regularise(self, regularisation: Regularisation, pairs: Pairs, report: Report) -> None:
        """The student's images of the pairs' inputs against the pairs' latents; its own forward and backward pass."""
        networks, total = self.networks, regularisation.batch_size
        rows = list(self.rows(total))
        size = self.recipe.micro_batch_size or len(rows)
        for start in range(0, len(rows), size):
            captions, z, target = pairs.batch(self.step, rows[start : start + size])
            x0 = networks.generate(z.to(networks.device), networks.encode_text(captions))
            leaf = x0.detach().requires_grad_()
            per_sample = pairs.distance(leaf, target.to(networks.device))
            report.add("regularisation", per_sample * self.recipe.batch_size / total)
            x0.backward(regularisation.weight * _gradient("regularisation", per_sample.sum() / total, leaf, report))  # type: ignore[no-untyped-call]

    def _lora_teacher_batch(self, settings: LoraTeacher, turn: int, generated: list[Generated], report: Report) -> None:
        """Denoising of the student's latents by the LoRA teacher: gradients of its adapter."""
        networks, recipe = self.networks, self.recipe
        null = networks.encode_text([""])
        for part in generated:
            draws = noise.lora_teacher_draws(
                recipe.seed, self.step, turn, part.samples, shape=networks.latent_shape, teacher=settings
            )
            timesteps, target = draws.timesteps.to(networks.device), draws.noise.to(networks.device)
            alpha, sigma = networks.levels(timesteps)
            text = torch.where(draws.null.to(networks.device)[:, None, None], null, part.text)
            with networks.lora_teacher():
                epsilon = networks.lora_teacher_epsilon(add_noise(part.x0, target, alpha, sigma), timesteps, text)
                per_sample = losses.lora_teacher_loss(epsilon, target, alpha, settings.loss_weight)
                (per_sample.sum() / recipe.batch_size).backward()  # type: ignore[no-untyped-call]
            report.add("lora_teacher", per_sample / settings.steps_per_student_step)
            place = (draws.timesteps * BINS) // len(networks.schedule)
            error = (epsilon.detach() - target).square().flatten(1).mean(1).cpu()
            report.bins.index_add_(1, place, torch.stack([error, torch.ones_like(error)]))

    def _update(self, name: str, step: int) -> dict[str, float]:
        """Sum gradients over processes, clip, step, forget them. Raises IntegrityError where they are not numbers."""
        parameters = list(self.networks.trained(name).values())
        if self.processes > 1:
            _sum_over_processes(parameters)
        norm = nn.utils.clip_grad_norm_(parameters, self.recipe.optimiser.gradient_clip)
        if not bool(norm.isfinite()):
            raise IntegrityError(
                f"step {self.step}: the gradient of the {name.replace('_', ' ')} is not a number (norm {float(norm)})",
                "resume from the last checkpoint with a smaller learning rate, or precision=float32",
            )
        optimiser = self.optimisers[name]
        for group in optimiser.param_groups:
            group["lr"] = self.rates[name] * _rate(self.recipe, step)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        return {f"{name}_gradient_norm": float(norm), f"{name}_learning_rate": optimiser.param_groups[0]["lr"]}

    def _averaged(self, report: Report) -> dict[str, float]:
        """A report's figures over the global batch, the same on every process."""
        names = sorted(report.sums), sorted(report.squares)
        values = [report.sums[n] for n in names[0]] + [report.squares[n] for n in names[1]]
        flat = torch.cat([torch.tensor(values, dtype=torch.float64), report.bins.flatten().double()]).to(self.networks.device)
        if self.processes > 1:
            dist.all_reduce(flat)
        numbers = flat.tolist()
        figures = {name: numbers.pop(0) / self.recipe.batch_size for name in names[0]}
        figures |= {f"{name}_gradient_at_x0": numbers.pop(0) ** 0.5 for name in names[1]}
        sums, counts = numbers[:BINS], numbers[BINS:]
        width = len(self.networks.schedule) // BINS
        bins = {f"lora_teacher_t{i * width:03d}": s / c for i, (s, c) in enumerate(zip(sums, counts, strict=True)) if c}
        return figures | bins


def _gradient(name: str, loss: Tensor, x0: Tensor, report: Report) -> Tensor:
    """d loss / d x0, its size noted."""
    (gradient,) = torch.autograd.grad(loss, x0)
    report.add_gradient(name, gradient)
    return gradient


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


def _rate(recipe: Recipe, step: int) -> float:
    """Learning rate at a step as a share of the recipe's: linear warm-up, then a cosine to `final_learning_rate`."""
    settings = recipe.optimiser
    warm = min(1.0, (step + 1) / max(1, settings.warmup_steps))
    cosine = 0.5 * (1 + torch.cos(torch.tensor(torch.pi * step / recipe.steps, dtype=torch.float64)).item())
    return warm * (settings.final_learning_rate + (1 - settings.final_learning_rate) * cosine)

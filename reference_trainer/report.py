"""The figures of a step: means over the global batch, sizes of gradients, the LoRA teacher's loss by timestep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from reference_trainer.terms import Learner, Term

BINS = 10  # of timesteps, in which the LoRA teacher's loss is logged


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
        names += [f"{term.name}_own_loss" for term in terms if isinstance(term, Learner)]
        means = dict.fromkeys([*names, *images, *(["loss"] if terms else [])], 0.0)
        return cls(means, dict.fromkeys([term.name for term in terms], 0.0))

    def add(self, name: str, values: Tensor, count: int) -> None:
        """Add some samples' values [n] to a mean over `count` of them."""
        self.means[name] = self.means.get(name, 0.0) + float(values.detach().sum()) / count

    def add_gradient(self, name: str, gradient: Tensor) -> None:
        """Add the square of a gradient with respect to x0."""
        self.squares[name] += float(gradient.square().sum())

    def over_processes(self, timesteps: int, device: torch.device | None) -> dict[str, float]:
        """The figures over the global batch, the same on every process. device: of sums between processes, None for one alone.

        timesteps: of the noise schedule.
        """
        names = sorted(self.means), sorted(self.squares)
        values = [self.means[n] for n in names[0]] + [self.squares[n] for n in names[1]]
        flat = torch.cat([torch.tensor(values, dtype=torch.float64), self.bins.flatten().double()])
        if device is not None:
            shared = flat.to(device)
            dist.all_reduce(shared)
            flat = shared.cpu()
        numbers = flat.tolist()
        figures = {name: numbers.pop(0) for name in names[0]}
        figures |= {f"{name}_gradient_at_x0": numbers.pop(0) ** 0.5 for name in names[1]}
        sums, counts = numbers[:BINS], numbers[BINS:]
        width = timesteps // BINS
        bins = {f"lora_teacher_t{i * width:03d}": s / c for i, (s, c) in enumerate(zip(sums, counts, strict=True)) if c}
        return figures | bins

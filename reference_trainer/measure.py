"""Evaluation in the loop: the student in memory through sbv2bench, without a second copy of its networks."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np

from reference_trainer.config import Measure, Recipe
from reference_trainer.devices import Place
from reference_trainer.export import export_student
from reference_trainer.networks import Networks
from reference_trainer.pictures import StudentSampler
from sbv2bench.errors import InputError
from sbv2bench.evaluation.evaluate import Run
from sbv2bench.evaluation.generate import blocks
from sbv2bench.evaluation.measure import Rows
from sbv2bench.evaluation.options import EvalOptions
from sbv2bench.evaluation.plan import plan
from sbv2bench.machine.processes import joined_processes
from sbv2bench.registry import Registry


class StudentRun(Run):
    """An evaluation whose sampler is the student in training. Its rows are of this moment's weights, so none are kept."""

    networks: Networks

    @cached_property
    def sampler(self) -> StudentSampler:  # type: ignore[override]
        """The student, shared and not copied."""
        return StudentSampler.of_training(self.networks)

    def seed_rows(self, seed: int) -> Rows:
        """As `Run.seed_rows`, without the cache."""
        key = f"{self.plan.generated_key(seed)}-training"
        mine = [block for block in blocks(self.plan, self.plan.prompts, seed) if self.processes.owns(block.index)]
        parts = self.processes.gather(self.generate_and_measure(key, mine, keep_images=False))
        self.found.append("miss")
        by_block = {number: rows for part in parts for number, rows in part.items()}
        names = by_block[0] if by_block else ()
        self.cache.drop_blocks(key)
        return {name: np.concatenate([by_block[number][name] for number in sorted(by_block)]) for name in names}


def check_measure(recipe: Recipe, registry: Registry) -> None:
    """Raises InputError where a recipe's measurement cannot be: found before the first step, and not hours after it."""
    settings = recipe.measure
    if settings is None:
        return
    suite = registry.suite(settings.suite)
    for flag in EvalOptions.validated(limit=settings.limit, metrics=settings.metrics).metrics or ():
        registry.metric(flag)
    if settings.limit is not None and settings.limit > suite.num_generated:
        raise InputError(
            f"measure.limit: found {settings.limit}, suite {suite.id} has {suite.num_generated:,} captions",
            f"measure.limit={suite.num_generated}",
        )


def measure_student(networks: Networks, folder: Path, settings: Measure, step: int, place: Place) -> dict[str, float]:
    """Metrics of the averaged student: key -> value, the same on every process.

    Where everything is float32 they are those of a later `sbv2bench eval` of the export; in half precision they are of the
    passes that training makes. Its export without the teacher's parts is left in `folder`. Raises what evaluating raises.
    """
    if place.main:
        export_student(networks, folder, whole=False, record={"step": step})
    place.accelerator.wait_for_everyone()
    registry = Registry.load()
    options = EvalOptions.validated(limit=settings.limit, metrics=settings.metrics, device=str(place.device), dtype="float32")
    run = StudentRun(plan(str(folder), settings.suite, options, registry), registry, joined_processes())
    run.networks = networks
    with networks.averaged():
        result = run.result()
    return {name: metric.value for name, metric in result.metrics.items()}

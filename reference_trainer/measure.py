"""Evaluation in the loop: the student in memory through sbv2bench's Evaluator, without an export or a second copy."""

from __future__ import annotations

from reference_trainer.config import Measure, Recipe
from reference_trainer.devices import Place
from reference_trainer.networks import Networks
from reference_trainer.pictures import StudentSampler
from sbv2bench.errors import InputError
from sbv2bench.evaluation.evaluator import Evaluator
from sbv2bench.evaluation.options import EvalOptions
from sbv2bench.machine.processes import each, exact_arithmetic
from sbv2bench.registry import Registry
from sbv2bench.samplers.base import Images, PromptBlock, Stopwatch


def check_measure(recipe: Recipe, registry: Registry) -> None:
    """Raises InputError where a recipe's measurement cannot be: found before the first step, and not hours after it."""
    settings = recipe.measure
    if settings is None:
        return
    suite = registry.suite(settings.suite)
    registry.metrics_of(suite, EvalOptions.validated(limit=settings.limit, metrics=settings.metrics).named_metrics)
    if settings.limit is not None and settings.limit > suite.num_generated:
        raise InputError(
            f"measure.limit: found {settings.limit}, suite {suite.id} has {suite.num_generated:,} captions",
            f"measure.limit={suite.num_generated}",
        )


def measure_student(networks: Networks, settings: Measure, place: Place) -> dict[str, float]:
    """Metrics of the averaged student: key -> value, the same on every process.

    Where everything is float32 they are those of a later `sbv2bench eval` of the export, bit for bit on one machine; in half
    precision they are of the passes that training makes. Raises what evaluating raises.
    """
    evaluator = Evaluator(
        settings.suite,
        settings.metrics,
        model=networks.student_spec(),
        limit=settings.limit,
        device=str(place.device),
        dtype="float32",
    )
    with networks.averaged(), exact_arithmetic():
        sampler = StudentSampler.of_training(networks)

        def images(block: PromptBlock) -> Images:
            return sampler.generate(block, Stopwatch(str(place.device)))

        for block, made in each(images, [*evaluator.blocks()], evaluator.workers):
            evaluator.update(block, made)
        return {name: metric.value for name, metric in evaluator.compute().metrics.items()}

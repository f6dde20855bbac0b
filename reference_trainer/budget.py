"""A recipe made to fit the hours that there are: its length, and with it everything that is told in steps.

The hours are `show`'s estimate, not a measurement, so that the same command gives the same recipe on every machine and on
every day: a run is resumed by typing again what began it. A run that turns out slower than the estimate takes longer.
"""

from __future__ import annotations

import math
import os
from bisect import bisect_right

from reference_trainer import estimate
from reference_trainer.blank import BlankTrainer
from reference_trainer.config import Recipe
from reference_trainer.recipe_files import changed, flat
from reference_trainer.show import A100_TFLOP_PER_SECOND, check_processes
from sbv2bench.errors import InputError
from sbv2bench.machine.devices import number_of
from sbv2bench.registry import Registry

_DIGITS = 3  # that steps and 1 - decay are rounded to, so that a count which moves in its tenth digit moves no recipe
_LOOKS = 4  # grids, checkpoints and measurements of a run that would otherwise have none


def fit_budget(
    recipe: Recipe,
    hours: float,
    processes: int | None = None,
    *,
    tflop_per_second: float = A100_TFLOP_PER_SECOND,
    registry: Registry | None = None,
) -> tuple[Recipe, list[str]]:
    """The recipe shortened to `hours` on so many processes, and what was changed, a line each for people.

    processes: None for those that torchrun or accelerate launch started. Steps, the LoRA teacher's warm-up and the rates'
    warm-up shrink by one factor, the average's half-life with them; schedules of CLIP, HPS and rates are functions of
    step / steps and follow. Pairs are made whatever the length. A recipe that needs less is returned as it is.
    Raises InputError for hours or a rate that are not positive numbers, for a batch that the processes cannot share, and for
    hours that one step (after pairs and pictures) does not fit in; what finding the base's configs raises.
    """
    for option, value in (("--budget-hours", hours), ("--tflop-per-second", tflop_per_second)):
        if not 1e-9 <= value <= 1e9:
            raise InputError(f"{option} {value:g}: expected a number above 0", f"{option} {24 if 'hours' in option else 125}")
    processes = processes or number_of(os.environ, "WORLD_SIZE", 1)
    check_processes(recipe, processes)
    registry = registry or Registry.load()
    _, measured = estimate.measured_suite(recipe, registry)
    cost = estimate.costs(BlankTrainer(recipe, registry, None, processes, "cuda"))

    def needed(steps: int) -> float:
        shorter = _shortened(recipe, steps)
        return estimate.hours(estimate.work(shorter, cost, measured), processes, tflop_per_second)

    of_what = f"on {processes} x {tflop_per_second:g} TFLOP/s"
    if needed(recipe.steps) <= hours:
        return recipe, [
            f"budget {hours:g} h: {recipe.name} needs {needed(recipe.steps):.3g} h {of_what} (an estimate), nothing is changed"
        ]
    if needed(1) > hours:
        raise _too_small(recipe, hours, needed(1), of_what)
    steps = _rounded_down(bisect_right(range(1, recipe.steps), hours, key=needed))
    shorter = _shortened(recipe, steps)
    first = f"budget {hours:g} h {of_what} (an estimate: {needed(steps):.3g} h of the recipe's {needed(recipe.steps):.3g} h)"
    return shorter, [first, *_changes(recipe, shorter)]


def _shortened(recipe: Recipe, steps: int) -> Recipe:
    """The recipe in so many steps, everything else that is told in steps by the same factor."""
    if steps == recipe.steps:
        return recipe
    factor = steps / recipe.steps
    changes: dict[str, object] = {"steps": steps, "optimiser.warmup_steps": _scaled(recipe.optimiser.warmup_steps, factor)}
    if recipe.ema is not None and recipe.ema.decay > 0:
        # decay ** (1 / factor) has its half-life shortened by the factor: to first order, 1 - decay divided by it
        changes["ema.decay"] = 1.0 - _significant(-math.expm1(math.log(recipe.ema.decay) / factor))
    if recipe.lora_teacher is not None:
        changes["lora_teacher.warmup_steps"] = _scaled(recipe.lora_teacher.warmup_steps, factor)
    turns = {"sample_every": recipe.sample_every, "checkpoint_every": recipe.checkpoint_every}
    if recipe.measure is not None:
        turns["measure.every"] = recipe.measure.every
    changes |= {name: max(1, steps // _LOOKS) for name, every in turns.items() if every > steps}
    return changed(recipe, changes)


def _scaled(count: int, factor: float) -> int:
    """A number of steps by the factor; what was there does not go altogether."""
    return max(1, round(count * factor)) if count else 0


def _rounded_down(steps: int) -> int:
    """To `_DIGITS` significant digits."""
    unit = int(10 ** max(0, len(str(steps)) - _DIGITS))
    return steps // unit * unit


def _significant(value: float) -> float:
    """To `_DIGITS` significant digits, and below 1."""
    return min(float(f"{value:.{_DIGITS}g}"), 1.0)


def _changes(before: Recipe, after: Recipe) -> list[str]:
    """`key old -> new` of every leaf that differs."""
    old, new = flat(before.model_dump()), flat(after.model_dump())
    lines = [f"{key} {old[key]} -> {_shown(new[key])}" for key in old if old[key] != new[key]]
    following = [name for name in ("clip", "hps") if getattr(before, name) and getattr(before, name).schedule != "constant"]
    if before.optimiser.final_learning_rate < 1.0:
        following.append("learning rates")
    return lines + ([f"schedules that follow the length: {', '.join(following)}"] if following else [])


def _shown(value: object) -> str:
    return f"{value:.7g}" if isinstance(value, float) else str(value)


def _too_small(recipe: Recipe, hours: float, least: float, of_what: str) -> InputError:
    """What the shortest run takes, rounded up so that what is said to type works."""
    unit = 10.0 ** (math.floor(math.log10(least)) - 2)
    enough = f"{math.ceil(least / unit + 1e-9) * unit:.6g}"
    pairs = f" {recipe.regularisation.pairs:,} pairs and" if recipe.regularisation else ""
    return InputError(
        f"--budget-hours {hours:g}: {recipe.name} needs {enough} h for{pairs} one step {of_what}", f"--budget-hours {enough}"
    )

"""A recipe shortened to hours: everything that is told in steps, by one factor, and the same on every machine."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_recipe import CLIP, LORA, PAIRED, tiny_recipe

from reference_trainer.budget import fit_budget
from reference_trainer.config import Recipe
from reference_trainer.losses import scheduled_weight
from reference_trainer.show import describe
from sbv2bench.errors import InputError
from sbv2bench.registry import Registry

LONG = {"steps": 100_000, "sample_every": 1000, "checkpoint_every": 500, "ema": {"decay": 0.9999}}
WARM = {"lora": LORA, "learning_rate": 1e-2, "warmup_steps": 200}
RATE = 1e-3  # TFLOP/s: a laptop's, for so small a family


def registry(family: Path) -> Registry:
    return Registry.load(family / "catalog.yaml")


def fit(family: Path, recipe: Recipe, hours: float, processes: int | None = 1) -> tuple[Recipe, list[str]]:
    return fit_budget(recipe, hours, processes, tflop_per_second=RATE, registry=registry(family))


def hours(family: Path, recipe: Recipe, processes: int = 1) -> float:
    found = describe(recipe, processes=processes, tflop_per_second=RATE, registry=registry(family))
    return float(found["time"]["hours"])


def half_life(recipe: Recipe) -> float:
    assert recipe.ema is not None
    return math.log(0.5) / math.log(recipe.ema.decay)


@pytest.mark.ci
def test_everything_told_in_steps_shrinks_by_one_factor_and_fills_the_hours(family: Path) -> None:
    optimiser = {"warmup_steps": 1000, "final_learning_rate": 0.1}
    recipe = tiny_recipe(family, **LONG, lora_teacher=WARM, optimiser=optimiser, clip=CLIP)
    whole = hours(family, recipe)
    shorter, changes = fit(family, recipe, whole / 4)
    factor = shorter.steps / recipe.steps
    assert 0.98 * whole / 4 < hours(family, shorter) <= whole / 4
    assert factor == pytest.approx(0.25, rel=0.02)
    assert half_life(shorter) / half_life(recipe) == pytest.approx(factor, rel=0.01)
    assert shorter.lora_teacher is not None and shorter.lora_teacher.warmup_steps == round(200 * factor)
    assert shorter.optimiser.warmup_steps == round(1000 * factor)
    assert recipe.clip is not None  # at the same share of the run its weight is the same
    halfway = [scheduled_weight(recipe.clip, one.steps // 2, one.steps) for one in (recipe, shorter)]
    assert halfway[0] == halfway[1]
    assert shorter.fingerprint() != recipe.fingerprint()
    told = {"ema", "steps", "lora_teacher", "optimiser"}
    before, after = recipe.identity(), shorter.identity()
    assert {key for key in before if before[key] != after[key]} == told
    text = "\n".join(changes)
    assert f"steps 100000 -> {shorter.steps}" in text
    assert re.search(r"^ema\.decay 0\.9999 -> 0\.9995\d+$", text, re.MULTILINE)
    assert re.search(r"^lora_teacher\.warmup_steps 200 -> (49|50)$", text, re.MULTILINE)
    assert "schedules that follow the length: clip, learning rates" in text
    assert changes[0].startswith(f"budget {whole / 4:g} h on 1 x 0.001 TFLOP/s (an estimate")


@pytest.mark.ci
def test_typing_it_again_gives_the_same_recipe_and_more_devices_a_longer_one(
    family: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe(family, **LONG)
    budget = hours(family, recipe) / 10
    one, two = (fit(family, recipe, budget, count)[0] for count in (1, 2))
    assert fit(family, recipe, budget)[0].fingerprint() == one.fingerprint()
    assert two.steps == pytest.approx(2 * one.steps, rel=0.1)
    monkeypatch.setenv("WORLD_SIZE", "2")  # torchrun's
    assert fit(family, recipe, budget, None)[0] == two
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(InputError, match="WORLD_SIZE=two"):
        fit(family, recipe, budget, None)


@pytest.mark.ci
def test_a_recipe_that_needs_less_is_left_alone(family: Path) -> None:
    recipe = tiny_recipe(family, **LONG)
    same, changes = fit(family, recipe, 1.01 * hours(family, recipe))
    assert same is recipe
    assert len(changes) == 1 and changes[0].endswith("nothing is changed")


@pytest.mark.ci
def test_a_short_run_still_draws_saves_and_measures(family: Path) -> None:
    measure = {"every": 5000, "suite": "mini-choosing", "limit": 2}
    recipe = tiny_recipe(family, **LONG, measure=measure)
    shorter, changes = fit(family, recipe, hours(family, recipe) / 300)
    assert 200 < shorter.steps < 500
    assert shorter.sample_every == shorter.checkpoint_every == shorter.steps // 4
    assert shorter.measure is not None and shorter.measure.every == shorter.steps // 4
    assert f"sample_every 1000 -> {shorter.sample_every}" in changes
    longer = fit(family, recipe, hours(family, recipe) / 2)[0]
    assert (longer.sample_every, longer.checkpoint_every, longer.measure) == (1000, 500, recipe.measure)


@pytest.mark.parametrize("changes", [{}, {"regularisation": PAIRED | {"pairs": 3000}}], ids=["steps", "pairs"])
@pytest.mark.ci
def test_a_budget_for_less_than_a_step_names_what_is_needed(family: Path, changes: dict[str, Any]) -> None:
    recipe = tiny_recipe(family, **LONG, **changes)
    with pytest.raises(InputError) as caught:
        fit(family, recipe, 1e-9)
    message = str(caught.value)
    assert ("3,000 pairs" in message) == bool(changes)
    assert len(message.splitlines()) == 2
    enough = float(re.search(r"fix: --budget-hours (\S+)$", message)[1])  # type: ignore[index]
    assert fit(family, recipe, enough)[0].steps >= 1  # what it says to type works
    with pytest.raises(InputError):
        fit(family, recipe, 0.97 * enough)


@pytest.mark.parametrize("wrong", [0.0, -1.0, float("nan"), float("inf")])
def test_hours_and_rates_are_positive_numbers(family: Path, wrong: float) -> None:
    recipe = tiny_recipe(family)
    with pytest.raises(InputError, match=r"--budget-hours .* expected a number above 0"):
        fit(family, recipe, wrong)
    with pytest.raises(InputError, match=r"--tflop-per-second .* expected a number above 0"):
        fit_budget(recipe, 1.0, 1, tflop_per_second=wrong, registry=registry(family))
    with pytest.raises(InputError, match="3 processes cannot share it evenly"):
        fit(family, recipe, 1.0, 3)


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "reference_trainer", *arguments], capture_output=True, text=True, check=False)


@pytest.mark.weights
@pytest.mark.ci
def test_show_and_train_take_a_budget() -> None:
    budget = ("--budget-hours", "0.01", "--tflop-per-second", "0.01")
    shown = call("show", "mini/sbv2-a", *budget, "--json")
    assert shown.returncode == 0, shown.stderr
    found = json.loads(shown.stdout)
    assert 0.0095 < found["time"]["hours"] <= 0.01
    assert f"-> {found['settings']['steps']}\n" in shown.stderr
    assert found["measured_by"].endswith("train mini/sbv2-a --budget-hours=0.01 --processes=1 --tflop-per-second=0.01 --dry-run")
    done = call("train", "mini/sbv2-a", "--budget-hours", "1e-9")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("fix: --budget-hours ")
    assert "Traceback" not in done.stderr

"""What a run takes besides its steps' passes: pictures, pairs, warm-up, fresh images, measurements, checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tiny_recipe import CLIP, PAIRED, make_trainer, tiny_recipe
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from reference_trainer import estimate
from reference_trainer.blank import BlankTrainer
from reference_trainer.config import Recipe
from reference_trainer.estimate import Costs
from reference_trainer.pictures import sample_student
from reference_trainer.show import describe, print_description
from sbv2bench.errors import InputError
from sbv2bench.registry import Registry

TERA = 10**12
COST = Costs(
    text=1 * TERA, student=10 * TERA, generate=30 * TERA, terms={"vsd": 40 * TERA}, frozen=10 * TERA, lora_teacher=20 * TERA,
    decode=5 * TERA, show=2 * TERA, encode=4 * TERA,
)  # fmt: skip
LORA_TEACHER = {"lora": {"rank": 3, "alpha": 6, "targets": ["to_q", "to_v"]}, "learning_rate": 1e-2}


def work(family: Path, measured: int = 0, **changes: Any) -> dict[str, Any]:
    recipe = tiny_recipe(family, **changes)
    terms = ({"vsd": 40 * TERA} if recipe.vsd else {}) | ({"regularisation": 3 * TERA} if recipe.regularisation else {})
    return estimate.work(recipe, replace(COST, terms=terms), measured)


def described(family: Path, **changes: Any) -> dict[str, Any]:
    return describe(tiny_recipe(family, **changes), registry=Registry.load(family / "catalog.yaml"), device="cpu")


def counted(run: Callable[[], Any]) -> int:
    """Floating-point operations that really happen; attention as products, for its fused kernel on a CPU counts as nothing."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        run()
    return int(counter.get_total_flops())


def test_work_is_arithmetic_on_the_parts(family: Path) -> None:
    plain = work(family)  # 6 steps of 4; a grid at step 0, after 4 and at the end
    assert plain["tflop_an_image"] == {"student": 30, "text": 1, "teachers": 40, "lora_teacher": 20, "total": 91}
    pictures = 3 * (16 * (1 + 10 + 5) + 8 * (1 + 10 + 40 + 3 * 2))
    assert plain["tflop_for_pictures"] == pictures
    assert plain["tflop"] == 6 * 4 * 91 + pictures
    assert (plain["tflop_for_pairs"], plain["tflop_for_warmup"], plain["tflop_for_measurement"]) == (0, 0, 0)
    alone = estimate.hours(plain, 1, 1.0) * 3600
    assert alone == pytest.approx(plain["tflop"])
    assert estimate.hours(plain, 4, 1.0) * 3600 == pytest.approx(6 * 91 + pictures)  # three wait for the one that draws


@pytest.mark.ci
def test_a_real_warm_up_and_a_second_update_do_the_operations_that_were_counted(family: Path) -> None:
    settings = {**LORA_TEACHER, "steps_per_student_step": 2, "warmup_steps": 1}
    trainer, _ = make_trainer(family, lora_teacher=settings)
    found = estimate.work(trainer.recipe, estimate.costs(blank(trainer.recipe, family)))
    assert counted(trainer.warm_up_lora_teacher) == pytest.approx(found["tflop_for_warmup"] * TERA, rel=0.02)
    assert counted(trainer.take_step) == pytest.approx(4 * found["tflop_an_image"]["total"] * TERA, rel=0.02)


def test_each_further_update_of_the_lora_teacher_makes_images_of_its_own(family: Path) -> None:
    found = work(family, lora_teacher={**LORA_TEACHER, "steps_per_student_step": 3})
    assert found["tflop_an_image"]["lora_teacher"] == 3 * 20
    assert found["tflop_an_image"]["fresh_images"] == 2 * (10 + 1)
    assert found["passes_an_image"]["student_without_gradient"] == 2
    warm = work(family, lora_teacher={**LORA_TEACHER, "warmup_steps": 5})
    assert warm["tflop_for_warmup"] == 5 * 4 * (1 + 10 + 20)
    assert warm["tflop"] - work(family)["tflop"] == warm["tflop_for_warmup"]


def test_pairs_cost_what_their_kind_makes_them_of(family: Path) -> None:
    guided = work(family, regularisation=PAIRED)  # five pairs of two steps
    assert guided["tflop_for_pairs"] == 5 * (2 * 2 * 10 + 1)
    assert guided["tflop_an_image"]["regularisation"] == 2 / 4 * (30 + 1 + 3)
    plain = work(family, regularisation=PAIRED | {"teacher_guidance_scale": 1.0})
    assert plain["tflop_for_pairs"] == 5 * (2 * 10 + 1)
    assert work(family, regularisation=PAIRED | {"kind": "real", "images": "world:training"})["tflop_for_pairs"] == 5 * 4
    alone = work(family, regularisation=PAIRED, vsd=None, lora_teacher=None)
    assert set(alone["tflop_an_image"]) == {"student", "text", "regularisation", "total"}
    assert alone["tflop_an_image"]["total"] == 17
    assert alone["tflop_for_pictures"] == 3 * 16 * 16  # no panels without teachers


@pytest.mark.ci
def test_measurement_in_the_loop_counts_its_images(family: Path) -> None:
    measure = {"every": 2, "suite": "mini-choosing", "limit": 30}
    registry = Registry.load(family / "catalog.yaml")
    suite, images = estimate.measured_suite(tiny_recipe(family, measure=measure), registry)
    assert suite is not None and (suite.id, images) == ("mini-choosing", 30)
    assert estimate.measured_suite(tiny_recipe(family, measure=measure | {"limit": None}), registry)[1] == suite.num_generated
    assert work(family, 30, measure=measure)["tflop_for_measurement"] == 3 * 30 * (1 + 10 + 5)
    with pytest.raises(InputError, match="mini-chosing"):
        described(family, measure=measure | {"suite": "mini-chosing"})
    found = described(family, measure=measure)
    assert found["memory"]["passes"]["measurement"] > found["memory"]["passes"]["pictures"]  # blocks of fifty
    assert found["work"]["tflop_for_measurement"] > 0


@pytest.mark.ci
def test_a_real_step_and_real_pictures_do_the_operations_that_were_counted(family: Path) -> None:
    trainer, prompts = make_trainer(family, clip=CLIP)
    recipe = trainer.recipe
    captions = prompts.prompts_at(recipe.seed, 0, 4, range(4))
    cost = estimate.costs(blank(recipe, family))
    parts = estimate.work(recipe, cost)["tflop_an_image"]
    assert counted(trainer.take_step) == pytest.approx(4 * parts["total"] * TERA, rel=0.05)
    assert counted(lambda: sample_student(trainer.networks, captions)) == pytest.approx(
        4 * (cost.text + cost.student + cost.decode), rel=0.02
    )


def blank(recipe: Recipe, family: Path) -> BlankTrainer:
    return BlankTrainer(recipe, Registry.load(family / "catalog.yaml"), None, 1, "cpu")


@pytest.mark.ci
def test_a_real_grid_takes_the_memory_that_was_predicted(family: Path) -> None:
    trainer, prompts = make_trainer(family)
    captions = prompts.prompts_at(0, 0, 4, range(4))
    sample_student(trainer.networks, captions)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        sample_student(trainer.networks, captions)
    now = peak = 0
    for event in sorted(
        (event for event in found.profiler.kineto_results.events() if event.name() == "[memory]"), key=lambda e: e.start_ns()
    ):
        now += event.nbytes()
        peak = max(peak, now)
    predicted = described(family, ema=None, vsd=None, lora_teacher=None, regularisation=PAIRED)["memory"]["passes"]["pictures"]
    assert predicted == pytest.approx(peak, rel=0.1)  # no panels


@pytest.mark.ci
def test_pictures_and_pairs_are_made_a_few_at_a_time(family: Path) -> None:
    big = described(family, batch_size=64, regularisation=PAIRED, ema=None)["memory"]["passes"]
    small = described(family, batch_size=64, regularisation=PAIRED, ema=None, micro_batch_size=1)["memory"]["passes"]
    assert 3.5 < big["pictures"] / small["pictures"] < 4.5  # four at most, or the micro-batch
    assert big["pairs"] < big["student"] / 4
    plain = described(family, regularisation=PAIRED | {"teacher_guidance_scale": 1.0})["memory"]["passes"]["pairs"]
    assert described(family, regularisation=PAIRED)["memory"]["passes"]["pairs"] == pytest.approx(2 * plain, rel=0.15)
    real = described(family, regularisation=PAIRED | {"kind": "real", "images": "world:training"})
    assert real["memory"]["passes"]["pairs"] > 0 and real["work"]["tflop_for_pairs"] > 0
    averaged = described(family, batch_size=64)
    assert averaged["memory"]["passes"]["pictures"] >= 4 * averaged["parameters"]["student_trained"]


@pytest.mark.parametrize("lora", [None, {"rank": 2, "alpha": 2, "targets": ["to_q"]}])
@pytest.mark.ci
def test_a_checkpoint_takes_what_the_run_holds(family: Path, lora: dict[str, Any] | None) -> None:
    student = {"start": str(family / "start"), "learning_rate": 1e-3, "lora": lora}
    trainer, _ = make_trainer(family, student=student)
    trainer.take_step()
    held = 0
    for name, optimiser in trainer.optimisers.items():
        for parameter in trainer.networks.trained(name).values():
            moments = [value for key, value in optimiser.state[parameter].items() if key != "step"]
            held += sum(tensor.nbytes for tensor in (parameter, *moments))
    assert trainer.networks.average is not None
    held += sum(tensor.nbytes for tensor in trainer.networks.average.shadow_params)
    found = described(family, student=student)["storage"]
    assert found["checkpoint"] == found["host_snapshot"] == held
    assert found["disk"] == 3 * held  # two that are kept, and the one that is being written


@pytest.mark.ci
def test_what_is_kept_on_disk_and_in_host_memory(family: Path) -> None:
    plain = described(family)["storage"]
    assert (plain["host_ema"], plain["checkpoints_kept"]) == (0, 3)
    assert plain["host"] == plain["host_snapshot"] + plain["host_weights_under_the_average"]
    other = described(family, ema_on_cpu=True, keep_checkpoints=9, optimiser={"kind": "adamw8bit"})["storage"]
    assert other["host_ema"] == plain["host_weights_under_the_average"]
    assert other["checkpoints_kept"] == 3  # six steps, one every two
    assert other["checkpoint"] < 0.7 * plain["checkpoint"]
    none = described(family, ema=None, checkpoint_every=100)["storage"]
    assert (none["host"], none["checkpoints_kept"]) == (none["checkpoint"], 1)


@pytest.mark.ci
def test_show_says_that_it_is_an_estimate_and_what_measures(family: Path) -> None:
    found = described(family, lora_teacher={**LORA_TEACHER, "warmup_steps": 2})
    assert found["kind"] == "estimate"
    shown = StringIO()
    print_description(found, Console(file=shown, width=60))
    text = shown.getvalue()
    assert "an estimate by counting" in text
    assert "train local/tiny --dry-run" in text  # in one line, to be copied
    assert "once: warmup" in text and "worst of pictures" in text and "one checkpoint" in text

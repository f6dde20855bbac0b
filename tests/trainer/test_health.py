"""Health signals: what they measure, and the words that come when they are out of the range of healthy runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_recipe import CAPTIONS, CLIP, LORA, make_trainer, take_steps, tiny_recipe

from reference_trainer import health
from reference_trainer.training.monitor import Monitor


@pytest.mark.ci
def test_the_fake_scores_ratio_falls_as_the_lora_teacher_learns_the_student(family: Path) -> None:
    """1 exactly before its first update, whatever the networks are; less and less after some."""
    teacher = {"lora": LORA, "learning_rate": 3e-2, "warmup_steps": 30}
    trainer, _ = make_trainer(family, lora_teacher=teacher)
    found = [health.held_out(trainer.networks, CAPTIONS)]
    for count in (4, 26):
        for _ in range(count):
            trainer.warm_up_lora_teacher()
        found.append(health.held_out(trainer.networks, CAPTIONS))
    assert found[0]["fake_score_ratio"] == 1.0 and found[0]["frozen_loss"] > 0
    assert found[2]["fake_score_ratio"] < found[1]["fake_score_ratio"] < 0.98
    assert found[0]["frozen_loss"] == found[2]["frozen_loss"]  # the same images, the same noise, a frozen teacher
    assert set(health.complaints(found[0])) == {"fake_score_ratio"} and not health.complaints(found[2])


def test_weighted_gradients_are_compared_with_vsds(family: Path) -> None:
    trainer, _ = make_trainer(family, clip=CLIP)
    first, second = take_steps(trainer, 2)
    assert health.ratios(first) == {}  # VSD's first gradient is nothing
    expected = second["clip_gradient_at_x0"] / second["vsd_gradient_at_x0"]
    assert health.ratios(second) == {"clip_to_vsd": expected}


@pytest.mark.parametrize(
    ("figures", "words"),
    [
        ({"x0_deviation": 1.6}, "x0_deviation 1.6, healthy runs had 0.8 to 1.1: images oversaturate"),
        ({"x0_deviation": 0.5}, "images lose contrast"),
        ({"clip_to_vsd": 40.0}, "clip_to_vsd 40, healthy runs had 0 to 12: it drowns VSD"),
        ({"fake_score_ratio": 1.2}, "warm it up"),
    ],
)
def test_a_complaint_names_the_figure_its_range_and_a_cause(figures: dict[str, float], words: str) -> None:
    (line,) = health.complaints(figures).values()
    assert words in line


def test_a_warning_is_said_once_while_it_lasts_and_goes_into_the_log(
    family: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monitor = Monitor(tiny_recipe(family, log_every=1, steps=100), tmp_path, 0)
    for step in (1, 2, 3):
        monitor.add(step, {"x0_deviation": 1.6, "vsd_gradient_at_x0": 0.1, "clip_gradient_at_x0": 0.2})
    monitor.add(4, {"x0_deviation": 1.0})
    monitor.add(5, {"x0_deviation": 1.7, "skipped": 1.0, "student_gradient_norm": float("nan")})
    monitor.close()
    told = capfd.readouterr().err
    assert told.count("warning: x0_deviation 1.6") == 1 and told.count("warning: x0_deviation 1.7") == 1
    assert "clip_to_vsd 2" in told and "warning: step 4 was skipped" in told
    entries = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert entries[0]["clip_to_vsd"] == 2.0 and "student_gradient_norm" not in entries[4]

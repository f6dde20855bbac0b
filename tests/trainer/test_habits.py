"""What people expect of a trainer: a bar, trackers, validation prompts, exports on the way, a LoRA file, a push to the hub."""

from __future__ import annotations

import json
import re
import sys
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from rich.console import Console
from standin_hub import StandinHub, standin
from tiny_recipe import LORA, tiny_recipe

from reference_trainer import hub, loop
from reference_trainer.loop import Asked, train
from reference_trainer.training import trackers
from reference_trainer.training.monitor import Monitor
from sbv2bench.errors import InputError, PrerequisiteError

__all__ = ["standin"]  # the fixture
SHORT = {"steps": 2, "checkpoint_every": 1, "sample_every": 2, "ema": None, "report_to": ()}


def told(tmp_path: Path, family: Path, *, terminal: bool, steps: int) -> str:
    shown = StringIO()
    console = Console(file=shown, force_terminal=terminal, width=120)
    monitor = Monitor(tiny_recipe(family, steps=100, log_every=50), tmp_path, 0, console=console)
    for step in range(1, steps + 1):
        monitor.add(step, {"loss": 1.0})
    if terminal:
        monitor.bar.refresh()  # type: ignore[union-attr]
    monitor.close()
    return shown.getvalue()


def test_a_bar_from_the_first_step_and_a_line_where_there_is_no_terminal(family: Path, tmp_path: Path) -> None:
    bar = told(tmp_path, family, terminal=True, steps=1)
    assert "1/100" in bar and re.search(r"images/s +\d+:\d\d:\d\d left", bar)
    lines = told(tmp_path, family, terminal=False, steps=3).splitlines()
    assert len(lines) == 1 and re.fullmatch(r"local/tiny 1/100  \S+ images/s  \d+:\d\d:\d\d left", lines[0])


@pytest.mark.ci
def test_figures_go_to_the_trackers_that_are_asked_for(family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, list[Any]] = {"init": [], "log": [], "finish": []}

    def init(**options: Any) -> SimpleNamespace:
        seen["init"].append(options)
        return SimpleNamespace(
            log=lambda values, step=None, **_: seen["log"].append((step, values)),
            finish=lambda: seen["finish"].append(True),
            config=SimpleNamespace(update=lambda *_, **__: None),
        )

    config = SimpleNamespace(update=lambda values, **_: seen.setdefault("config", []).append(values))
    for name in ("wandb", "trackio"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(init=init, config=config, finish=lambda: None))  # type: ignore[arg-type]
    monkeypatch.setattr(trackers, "find_spec", lambda name: True)
    recipe = tiny_recipe(family, **SHORT | {"log_every": 1, "report_to": ("wandb", "trackio", "tensorboard")})
    assert train(recipe, tmp_path / "run", Asked(device="cpu", whole_export=False))
    assert [options["project"] for options in seen["init"]] == ["reference_trainer"] * 2
    assert {step for step, _ in seen["log"]} == {1, 2} and "loss" in seen["log"][0][1]
    assert seen["config"][0]["student.learning_rate"] == 1e-3
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))


def test_a_tracker_that_is_not_installed_costs_nothing(family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(PrerequisiteError, match="report_to: trackio is not installed") as raised:
        train(tiny_recipe(family, report_to=("trackio",)), tmp_path / "run", Asked(device="cpu"))
    assert raised.value.fix == "pip install trackio" and not (tmp_path / "run").exists()


@pytest.mark.ci
def test_validation_prompts_exports_on_the_way_and_a_lora_file(
    family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = {"start": str(family / "start"), "learning_rate": 1e-2, "lora": LORA}
    changes = {"student": student, "validation_prompts": ("a red star", "two blue circles"), "export_every": 1}
    run = tmp_path / "run"
    assert train(tiny_recipe(family, **SHORT | changes), run, Asked(device="cpu"))
    assert [path.name for path in sorted((run / "validation").glob("*.png"))] == ["00000001.png", "00000002.png"]
    assert (run / "validation" / "captions.txt").read_text() == "a red star\ntwo blue circles\n"
    (midway,) = (run / "exports").iterdir()
    assert json.loads((midway / "training.json").read_text())["steps"] == 1 and (midway / "sbv2bench.json").is_file()
    whole = StableDiffusionPipeline.from_pretrained(run / "export", safety_checker=None)
    based = StableDiffusionPipeline.from_pretrained(family / "start", safety_checker=None)
    text, z = (
        torch.randn(1, 5, whole.unet.config.cross_attention_dim),
        torch.randn(1, 8, 8, 8)[:, : whole.unet.config.in_channels],
    )
    before = based.unet(z, 999, text).sample
    based.load_lora_weights(run / "export", weight_name="pytorch_lora_weights.safetensors")
    found, expected = based.unet(z, 999, text).sample, whole.unet(z, 999, text).sample
    assert torch.allclose(found, expected, atol=1e-5) and not torch.allclose(before, expected, atol=1e-4)


def test_a_finished_export_is_pushed(family: Path, tmp_path: Path, standin: StandinHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_stand_in")
    run = tmp_path / "run"
    recipe = tiny_recipe(family, **SHORT | {"steps": 1})
    assert train(recipe, run, Asked(device="cpu", whole_export=False, push_to_hub="me/student"))
    files = {
        path.relative_to(run / "export").as_posix(): path.read_bytes() for path in (run / "export").rglob("*") if path.is_file()
    }
    assert standin.pushed["me/student"] == files
    standin.answers["create"] = (403, b"{}")
    with pytest.raises(PrerequisiteError, match=r"the hub did not take it .*; the export is whole in"):
        train(recipe, run, Asked(device="cpu", whole_export=False, push_to_hub="me/student"))


def test_a_push_that_cannot_be_is_refused_before_training(
    family: Path, tmp_path: Path, standin: StandinHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "get_token", lambda: None)
    monkeypatch.setattr(loop, "Networks", lambda *_: pytest.fail("it began"))
    with pytest.raises(PrerequisiteError, match="no token"):
        train(tiny_recipe(family), tmp_path, Asked(device="cpu", push_to_hub="me/student"))
    with pytest.raises(InputError, match="--push-to-hub a/b/c"):
        train(tiny_recipe(family), tmp_path, Asked(device="cpu", push_to_hub="a/b/c"))

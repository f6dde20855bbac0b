"""Both UNets compiled in training: the same figures as eager ones, and nothing compiled again. Dynamo without inductor."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_recipe import CLIP, LORA, PAIRED, make_trainer, take_steps, tiny_recipe
from torch import nn
from torch._dynamo.utils import counters

from reference_trainer import loop
from reference_trainer.step import Trainer
from sbv2bench.errors import PrerequisiteError

CHANGES: dict[str, Any] = {
    "lora_teacher": {"lora": LORA, "learning_rate": 1e-2, "warmup_steps": 1, "steps_per_student_step": 2},
    "vsd": {"teacher_guidance_scale": 2.0, "lora_teacher_guidance_scale": 1.0},
    "clip": CLIP,
    "regularisation": PAIRED,
}


@pytest.fixture(autouse=True)
def without_inductor(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Graphs are made and guarded as ever, and then run as they are."""
    whole = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, dynamic: whole(self, dynamic=dynamic, backend="eager"))
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.ci
def test_figures_are_the_eager_ones_and_graphs_are_made_in_the_first_step(family: Path) -> None:
    figures: dict[bool, list[dict[str, float]]] = {}
    graphs: list[int] = []
    for compiled in (False, True):
        trainer, _ = make_trainer(family, compile=compiled, **CHANGES)
        trainer.warm_up_lora_teacher()
        figures[compiled] = []
        for _ in range(2):
            figures[compiled] += take_steps(trainer, 1)
            graphs += [counters["stats"]["unique_graphs"]]
    assert graphs[1] == 0 < graphs[2] == graphs[3]
    for eager, found in zip(figures[False], figures[True], strict=True):
        assert found == pytest.approx(eager, rel=1e-5, abs=1e-6)


def test_a_compiler_that_fails_is_named(family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(self: Any) -> None:
        raise torch._dynamo.exc.TorchRuntimeError("no C++ compiler")

    monkeypatch.setattr(nn.Module, "compile", lambda self, dynamic: None)
    monkeypatch.setattr(Trainer, "take_step", failing)
    recipe = tiny_recipe(family, compile=True)
    with pytest.raises(PrerequisiteError, match=r"torch\.compile failed on cpu") as error:
        loop.train(recipe, tmp_path)
    assert error.value.fix == "the same command with --continue-with compile=false"


def test_a_recipe_that_is_not_compiled_is_what_it_was(family: Path) -> None:
    assert "compile" not in tiny_recipe(family).identity()
    assert tiny_recipe(family, compile=True).fingerprint() != tiny_recipe(family).fingerprint()

"""What may change while a run goes on, what may not, and that each change is written down."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_recipe import tiny_recipe

from reference_trainer.continuation import FILE, Continuation
from reference_trainer.loop import Asked, train
from reference_trainer.training.checkpoint import checkpoints
from sbv2bench.errors import InputError, IntegrityError


@pytest.fixture(autouse=True)
def catalog(family: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SBV2BENCH_CATALOG", str(family / "catalog.yaml"))


def run(family: Path, folder: Path, *continue_with: str, stop: float | None = None, **changes: Any) -> bool:
    recipe = tiny_recipe(family, **changes)
    asked = Asked(device="cpu", whole_export=False, continue_with=continue_with, stop_after_seconds=stop)
    return train(recipe, folder, asked)


def entries(folder: Path) -> dict[int, dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {line["step"]: line for line in lines}


@pytest.mark.ci
def test_a_rate_changes_from_the_checkpoint_on_and_stays_changed(family: Path, tmp_path: Path) -> None:
    assert not run(family, tmp_path, stop=0.0)
    wanted = ("student.learning_rate=2e-4", "micro_batch_size=2")
    assert not run(family, tmp_path, *wanted, stop=0.0)
    changes = [{"step": 1, "changes": {"student.learning_rate": 2e-4, "micro_batch_size": 2}}]
    assert json.loads((tmp_path / FILE).read_text()) == changes
    assert run(family, tmp_path)  # without saying it again
    assert entries(tmp_path)[6]["student_learning_rate"] == pytest.approx(2e-4)
    assert json.loads((tmp_path / FILE).read_text()) == changes
    assert json.loads((tmp_path / "done.json").read_text())["changes"] == changes
    assert json.loads((tmp_path / "export" / "training.json").read_text())["changes"] == changes
    assert run(family, tmp_path, *wanted)  # done, and the same command finds it so


@pytest.mark.ci
def test_a_finished_run_can_be_made_longer(family: Path, tmp_path: Path) -> None:
    """To the same bits as one that was stopped and told so half way: the schedules know the new length from then on."""
    assert run(family, tmp_path / "a")
    assert run(family, tmp_path / "a", "steps=8")
    assert [c.name for c in checkpoints(tmp_path / "a" / "checkpoints")][-1] == "00000008"
    assert json.loads((tmp_path / "a" / "done.json").read_text())["steps"] == 8
    assert run(family, tmp_path / "b", steps=8)
    newest = [load_file(checkpoints(tmp_path / x / "checkpoints")[-1] / "student.safetensors") for x in ("a", "b")]
    assert all(torch.equal(value, newest[1][key]) for key, value in newest[0].items())  # constant rates, no scheduled weight


def test_what_must_stay_is_refused_by_name(family: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(family)
    for text, words in (
        ("seed=3", "seed must stay as it is in a run, expected one of steps, student.learning_rate"),
        ("student.learning_rat=1", "must stay as it is"),
        ("steps=many", "steps: Input should be a valid integer"),
        ("steps", "expected key=value"),
        ("precision=[", "its value: not YAML"),
    ):
        with pytest.raises(InputError, match=words):
            Continuation(recipe, tmp_path, [text], 0)
    with pytest.raises(InputError, match=r"steps=4: found 5 steps done, expected more"):
        Continuation(recipe, tmp_path, ["steps=4"], 5)
    (tmp_path / FILE).write_text("{")
    with pytest.raises(IntegrityError, match="not the changes of a run"):
        Continuation(recipe, tmp_path, [], 5)


def test_a_finished_run_of_other_prompts_or_code_is_not_the_answer(
    family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from reference_trainer import identity

    assert run(family, tmp_path / "run", steps=1)
    other = tmp_path / "prompts.txt"
    other.write_text("a red circle\na blue square\nanother\nand one more\n")
    source = str(family / "prompts.txt")
    kept = Path(source).read_bytes()
    try:
        Path(source).write_bytes(other.read_bytes())
        with pytest.raises(InputError, match=r"done\.json: of other prompts: sha256 is"):
            run(family, tmp_path / "run", steps=1)
    finally:
        Path(source).write_bytes(kept)
    assert run(family, tmp_path / "run", steps=1)
    monkeypatch.setattr(identity, "training_code", lambda: "other")
    with pytest.raises(InputError, match="another version of the trainer's code"):
        run(family, tmp_path / "run", steps=1)
    (tmp_path / "run" / "done.json").write_text("[]")
    with pytest.raises(IntegrityError, match="not the record of a finished run"):
        run(family, tmp_path / "run", steps=1)


@pytest.mark.parametrize(
    "text", ['[{"step": 0, "changes": {"seed": 5}}]', "{}", "[" * 5000, '[{"step": 1, "changes": {"steps": "x"}}]']
)
def test_changes_that_cannot_be_are_refused(family: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(IntegrityError, match=FILE):
        Continuation(tiny_recipe(family), tmp_path, [], 5)


@pytest.mark.ci
def test_a_finished_run_takes_no_change_without_a_length(family: Path, tmp_path: Path) -> None:
    assert run(family, tmp_path, steps=1)
    with pytest.raises(InputError, match=r"finished at step 1, so student\.learning_rate would change nothing"):
        run(family, tmp_path, "student.learning_rate=1e-5", steps=1)
    assert not (tmp_path / FILE).exists()
    assert run(family, tmp_path, "student.learning_rate=1e-5", "steps=2", steps=1)

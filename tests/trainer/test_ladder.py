"""The ladder: what a rung needs, which recipe it has, when it is done."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from reference_trainer import ladder
from reference_trainer.identity import identity_of, training_code
from reference_trainer.ladder import RUNGS, climb
from reference_trainer.prompts import PromptSource
from reference_trainer.recipe_files import read_recipe
from sbv2bench.errors import InputError, PrerequisiteError, TerminatedRun
from sbv2bench.registry import Registry


def test_ladder_refuses_what_it_cannot_climb(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="full"):
        climb("full", tmp_path, "sd21", 1, None)
    with pytest.raises(InputError, match="sd12"):
        climb("mini", tmp_path, "sd12", 1, None)
    with pytest.raises(InputError, match="--start: found 'sd12'"):
        climb("mini", tmp_path, "sd21", 1, None, start="sd12")


def test_a_rung_needs_a_run_or_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a run has made comes first, then the package's own weights; neither is an error that says what to train."""
    assert ladder.input_of("mini", "autoencoder", tmp_path) == ladder.paths.package_weights() / "sd21" / "vae"
    (tmp_path / "autoencoder" / "export").mkdir(parents=True)
    assert ladder.input_of("mini", "autoencoder", tmp_path) == tmp_path / "autoencoder" / "export"
    with pytest.raises(PrerequisiteError, match="--until sd21-start"):
        ladder.input_of("mini", "sd21-start", tmp_path)
    assert ladder.model_of("mini", "sd21", tmp_path) == "mini/sd21"
    monkeypatch.setattr(ladder.paths, "package_weights", lambda: tmp_path / "nothing")
    with pytest.raises(PrerequisiteError, match="--until sd21"):
        ladder.model_of("mini", "sd21", tmp_path)


def test_students_of_the_ladder_have_recipes_that_agree_with_it() -> None:
    students = [rung for rung in RUNGS if not rung.target]
    before = {rung.name: {f"mini/{earlier.name}" for earlier in RUNGS[:place]} for place, rung in enumerate(RUNGS)}
    for rung in students:
        recipe = read_recipe(f"mini/{rung.recipe}")
        assert {recipe.teacher, recipe.student.start} <= before[rung.name]
        assert recipe.batch_size % 2 == 0 and recipe.name == f"mini/{rung.recipe}"
    seeds = [read_recipe(f"mini/{rung.name}").seed for rung in students if not rung.training_seed]
    assert len(set(seeds)) == len(seeds)
    assert max(seeds) - min(seeds) < ladder.TRAINING_SEED_STEP  # so that repetitions have seeds of their own


def test_a_repetition_is_the_same_recipe_with_another_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[list[str]] = []
    finished = argparse.Namespace(returncode=0, poll=lambda: 0)
    monkeypatch.setattr(ladder.subprocess, "Popen", lambda command, **more: called.append(command) or finished)
    monkeypatch.chdir(tmp_path)
    for name in ("sbv2-a", "sbv2-a-seed2"):
        rung = next(rung for rung in RUNGS if rung.name == name)
        assert not ladder.climb_student("mini", rung, Path("runs"), 2, None)  # nothing trained, so nothing is done
    plain, repeated = called
    assert [word for word in repeated if word not in plain] == ["name=mini/sbv2-a-seed2", "seed=2053", "runs/sbv2-a-seed2"]


def test_a_finished_student_is_not_trained_again_unless_something_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """done.json stands for one recipe and the very weights that it started from; anything else must not pass for it."""
    monkeypatch.setattr(ladder.subprocess, "Popen", lambda *_, **__: pytest.fail("trained again"))
    rung = next(rung for rung in RUNGS if rung.name == "sbv2-a")
    recipe = read_recipe("mini/sbv2-a")
    identity = identity_of(recipe, PromptSource(recipe.prompts), Registry.load())
    record = {"name": recipe.name, "steps": recipe.steps, "code": training_code(), **identity}
    done = tmp_path / "sbv2-a" / "done.json"
    done.parent.mkdir()
    done.write_text(json.dumps(record))
    (done.parent / "export").mkdir()
    (done.parent / "export" / "sbv2bench.json").write_text("{}")
    assert ladder.climb_student("mini", rung, tmp_path, 2, None)
    name = "student:unet/diffusion_pytorch_model.safetensors"
    assert name in identity["base_models"]
    for changed, words in (
        ({"recipe": identity["recipe"] | {"seed": 1}}, "of other recipe: seed is 1 in it"),
        ({"base_models": identity["base_models"] | {name: "0"}}, f"of other base models: {name} is 0 in it"),
        ({"prompts": {"sha256": "0"}}, "of other prompts: sha256 is 0 in it"),
        ({"code": "0"}, "another version of the trainer's code"),
    ):
        done.write_text(json.dumps(record | changed))
        with pytest.raises(InputError, match=words):
            ladder.climb_student("mini", rung, tmp_path, 2, None)


CHILD = """
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.5), pathlib.Path(sys.argv[1]).write_text("kept"), sys.exit(143)))
signal.signal(signal.SIGINT, signal.SIG_IGN)
pathlib.Path(sys.argv[1]).write_text("begun")
time.sleep(60)
"""


def test_what_stops_the_ladder_lets_its_rung_write_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Waited for, however long the rung takes to write; the ladder's own exit code is that of a stopped run."""
    file = tmp_path / "kept"

    def stop_when_it_has_begun() -> None:
        while not (file.is_file() and file.read_text() == "begun"):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop_when_it_has_begun).start()
    with pytest.raises(TerminatedRun, match=r"stopped; its own message is above") as stopped:
        ladder.train_patiently([sys.executable, "-c", CHILD, str(file)], tmp_path)
    assert file.read_text() == "kept" and stopped.value.exit_code == 143

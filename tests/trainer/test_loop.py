"""A whole run: exact to resume, equal over processes, exports that sample as the trainer does, errors that cost nothing."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_recipe import CAPTIONS, CLIP, LORA, PAIRED, make_trainer, take_steps, tiny_recipe

from reference_trainer import loop, run_folder
from reference_trainer.export import export_student
from reference_trainer.loop import Asked, train
from reference_trainer.pictures import sample_student
from reference_trainer.training.checkpoint import checkpoints
from sbv2bench import load_model
from sbv2bench.errors import InputError, IntegrityError, InterruptedRun, PrerequisiteError
from sbv2bench.samplers.base import PromptBlock, Stopwatch, image_seed

LORA_STUDENT = {"learning_rate": 1e-2, "lora": LORA}


@pytest.fixture(autouse=True)
def catalog(family: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SBV2BENCH_CATALOG", str(family / "catalog.yaml"))


def run(family: Path, folder: Path, **changes: Any) -> bool:
    stop = changes.pop("stop_after_seconds", None)
    return train(tiny_recipe(family, **changes), folder, Asked(device="cpu", whole_export=False, stop_after_seconds=stop))


def trained(folder: Path) -> dict[str, torch.Tensor]:
    newest = checkpoints(folder / "checkpoints")[-1]
    return {f"{path.stem}.{k}": v for path in sorted(newest.glob("*.safetensors")) for k, v in load_file(path).items()}


def kill_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process is stopped while it takes a step."""
    original = loop.Trainer.take_step

    def take_step(self: Any) -> Any:
        if self.step == step:
            monkeypatch.setattr(loop.Trainer, "take_step", original)
            raise KeyboardInterrupt
        return original(self)

    monkeypatch.setattr(loop.Trainer, "take_step", take_step)


@pytest.mark.parametrize(
    "changes",
    [
        {"lora_teacher": {"lora": LORA, "learning_rate": 1e-2, "warmup_steps": 2}},
        {"micro_batch_size": 1, "clip": CLIP, "regularisation": PAIRED, "student": LORA_STUDENT},
    ],
)
@pytest.mark.ci
def test_a_killed_run_resumes_to_the_same_bits(
    family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    """Seven captions and batches of four: the runs stop in the middle of an epoch. Weights, moments, average, exports."""
    if "student" in changes:
        changes["student"] = changes["student"] | {"start": str(family / "start")}
    assert run(family, tmp_path / "whole", **changes)
    kill_at(5, monkeypatch)
    with pytest.raises(InterruptedRun, match="stopped at once; the checkpoint of step 4 is kept"):
        run(family, tmp_path / "killed", **changes)
    assert [c.name for c in checkpoints(tmp_path / "killed" / "checkpoints")] == ["00000002", "00000004"]
    assert run(family, tmp_path / "killed", **changes)
    whole, killed = trained(tmp_path / "whole"), trained(tmp_path / "killed")
    assert whole.keys() == killed.keys() and len(whole) > 20
    assert all(torch.equal(value, killed[key]) for key, value in whole.items())
    exports = [
        {p.name: p.read_bytes() for p in (tmp_path / name / "export").rglob("*.safetensors")} for name in ("whole", "killed")
    ]
    assert exports[0] == exports[1] and exports[0]


def test_every_step_has_its_own_captions(family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All seven of an epoch, then all of the next: six batches of four are three epochs and three more."""
    seen: list[str] = []
    original = loop.Trainer.student_batch
    monkeypatch.setattr(
        loop.Trainer, "student_batch", lambda self, batch, *rest: (seen.extend(batch.captions), original(self, batch, *rest))[1]
    )
    run(family, tmp_path, checkpoint_every=4)
    assert [c.name for c in checkpoints(tmp_path / "checkpoints")] == ["00000004", "00000006"]  # the last step's always
    assert all(set(seen[start : start + 7]) == set(CAPTIONS) for start in (0, 7, 14)) and len(seen) == 24


@pytest.mark.ci
def test_a_sitting_ends_and_another_goes_on(family: Path, tmp_path: Path) -> None:
    assert not run(family, tmp_path, stop_after_seconds=0.0)
    assert [c.name for c in checkpoints(tmp_path / "checkpoints")] == ["00000001"]
    assert run(family, tmp_path)
    assert run(family, tmp_path)  # done: nothing is done again
    with pytest.raises(InputError, match=r"done\.json: of other recipe: seed is 5 in it, 9 now"):
        run(family, tmp_path, seed=9)
    entries = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in entries] == [2, 4, 6]
    assert {p.name for p in (tmp_path / "samples").glob("*.png")} >= {"00000000.png", "00000004.png", "00000006-teachers.png"}
    assert json.loads((tmp_path / "done.json").read_text())["steps"] == 6


@pytest.mark.ci
def test_two_processes_train_as_one(family: Path, tmp_path: Path) -> None:
    """Gradients are summed, draws belong to samples: the weights differ by rounding alone."""
    recipe = tiny_recipe(family, optimiser={"epsilon": 1e-3}, clip=CLIP | {"share": 0.5}, regularisation=PAIRED)
    (tmp_path / "recipe.yaml").write_text(recipe.model_dump_json())
    ends = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes), "-m", "reference_trainer"]
        command += ["train", str(tmp_path / "recipe.yaml"), "--device", "cpu", "--output", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=230, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        ends.append(trained(folder))
    for key, value in ends[0].items():
        assert torch.allclose(value, ends[1][key], rtol=1e-4, atol=1e-6), key


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("whole", [False, True])
def test_an_export_samples_as_the_trainer_does(family: Path, tmp_path: Path, lora: bool, whole: bool) -> None:
    start = {"start": str(family / "start"), "learning_rate": 1e-2}
    trainer, _ = make_trainer(family, student=start | {"lora": LORA if lora else None})
    take_steps(trainer, 3)
    networks = trainer.networks
    export_student(networks, tmp_path / "export", whole=whole, record={})
    with networks.averaged():
        expected = sample_student(networks, CAPTIONS)
    sampler = load_model(tmp_path / "export")
    seeds = tuple(image_seed(0, i) for i in range(len(CAPTIONS)))
    images = sampler.generate(PromptBlock(0, 0, len(CAPTIONS), tuple(CAPTIONS), seeds), Stopwatch())
    assert sampler.spec.timestep == 999 and sampler.spec.alpha_T == networks.alpha_T
    difference = np.abs(images.astype(int) - expected.astype(int))
    assert difference.max() <= (1 if lora else 0)  # an adapter is folded in, which rounds
    with torch.no_grad():
        unaveraged = sample_student(networks, CAPTIONS)
    assert np.abs(images.astype(int) - unaveraged.astype(int)).max() > 1
    if whole:
        from diffusers import StableDiffusionPipeline

        StableDiffusionPipeline.from_pretrained(tmp_path / "export", safety_checker=None)


@pytest.mark.ci
def test_metrics_in_the_loop_are_those_of_a_later_evaluation(
    family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the last bit; the log rounds them."""
    from reference_trainer import loop
    from sbv2bench import evaluate

    found: list[dict[str, float]] = []
    measured = loop.measure_student
    monkeypatch.setattr(loop, "measure_student", lambda *given: found.append(measured(*given)) or found[-1])
    measure = {"every": 6, "suite": "mini-choosing", "limit": 50, "metrics": "clip,fid"}
    assert run(family, tmp_path, measure=measure)
    (entry,) = [e for line in (tmp_path / "log.jsonl").read_text().splitlines() if "clip_score" in (e := json.loads(line))]
    later = evaluate(tmp_path / "export", "mini-choosing", limit=50, metrics="clip,fid", device="cpu", use_cache=False)
    assert found == [{key: metric.value for key, metric in later.metrics.items()}]
    assert entry["clip_score"] == pytest.approx(later.metrics["clip_score"].value, abs=1e-6)
    assert not (tmp_path / "measured").exists()
    assert entry["suite"] == "mini-choosing"


def test_checkpoints_are_refused_where_they_do_not_belong(family: Path, tmp_path: Path) -> None:
    run(family, tmp_path, stop_after_seconds=0.0)
    with pytest.raises(InputError, match=r"of other recipe: student\.learning_rate is 0\.001 in it, 0\.002 now"):
        run(family, tmp_path, student={"start": str(family / "start"), "learning_rate": 2e-3})
    newest = checkpoints(tmp_path / "checkpoints")[-1]
    damaged = bytearray((newest / "student.safetensors").read_bytes())
    damaged[-1] ^= 1
    (newest / "student.safetensors").write_bytes(damaged)
    with pytest.raises(IntegrityError, match=r"student\.safetensors: found .*, expected sha256"):
        run(family, tmp_path)


@pytest.mark.ci
def test_an_unfinished_checkpoint_is_not_there(family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full while the third checkpoint is written leaves the second, and no part of the third."""
    from reference_trainer.training import checkpoint

    original, written = checkpoint.write_whole, []

    def crash(path: Path, text: str) -> None:
        written.append(path)
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        original(path, text)

    monkeypatch.setattr(checkpoint, "write_whole", crash)
    with pytest.raises(IntegrityError, match=r"cannot be written \(No space left on device\)"):
        run(family, tmp_path)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["00000002", "00000004"]
    monkeypatch.setattr(checkpoint, "write_whole", original)
    assert run(family, tmp_path)


def test_an_unwritable_run_folder_is_refused(family: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        run(family, tmp_path / "file" / "run")


@pytest.mark.parametrize(
    ("changes", "fix"),
    [
        ({"micro_batch_size": 4}, "--continue-with micro_batch_size=2"),
        ({"micro_batch_size": 1}, "gradient_checkpointing=true"),
        ({"micro_batch_size": 1, "gradient_checkpointing": True}, "ema_on_cpu=true"),
    ],
)
def test_a_step_that_does_not_fit_says_what_makes_it_smaller(
    family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], fix: str
) -> None:
    def full(self: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    monkeypatch.setattr(loop.Trainer, "take_step", full)
    with pytest.raises(PrerequisiteError, match="too little memory") as error:
        run(family, tmp_path, **changes)
    assert fix in str(error.value.fix)


def test_a_disk_that_cannot_hold_the_checkpoints_is_refused_before_the_first_step(
    family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_folder.shutil, "disk_usage", lambda path: argparse.Namespace(free=10**6))
    with pytest.raises(IntegrityError, match=r"1 MB free, expected .* MB for checkpoints of"):
        run(family, tmp_path)
    assert not (tmp_path / "samples").exists()


def test_one_training_at_a_time_writes_a_folder(family: Path, tmp_path: Path) -> None:
    with run_folder.locked(tmp_path, main=True), pytest.raises(InputError, match="another training is writing"):
        run(family, tmp_path, steps=1)
    assert not (tmp_path / "recipe.json").exists()
    assert run(family, tmp_path, steps=1)


def test_a_refused_start_leaves_the_folder_as_it_is(family: Path, tmp_path: Path) -> None:
    run(family, tmp_path, stop_after_seconds=0.0)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match="of other recipe"):
        run(family, tmp_path, seed=9)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


@pytest.mark.ci
def test_a_run_that_ends_in_skipped_steps_is_not_exported(family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = loop.Trainer.update
    broken = lambda self, name, figures: self.step < 4 and original(self, name, figures)  # noqa: E731
    monkeypatch.setattr(loop.Trainer, "update", broken)
    with pytest.raises(IntegrityError, match="gradients of the last 2 steps were not numbers"):
        run(family, tmp_path)
    assert not (tmp_path / "done.json").exists() and not (tmp_path / "export").exists()


@pytest.mark.ci
def test_an_export_that_was_removed_is_written_again(family: Path, tmp_path: Path) -> None:
    assert run(family, tmp_path)
    before = {p.name: p.read_bytes() for p in (tmp_path / "export").rglob("*.safetensors")}
    shutil.rmtree(tmp_path / "export")
    assert run(family, tmp_path)
    assert before == {p.name: p.read_bytes() for p in (tmp_path / "export").rglob("*.safetensors")}


@pytest.mark.parametrize(
    ("measure", "words"),
    [({"metrics": "fid,foo"}, "foo"), ({"limit": 99_999_999}, "measure.limit: found 99999999"), ({"suite": "minni"}, "minni")],
)
def test_a_measurement_that_cannot_be_is_found_before_the_first_step(
    family: Path, tmp_path: Path, measure: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        run(family, tmp_path / "run", measure={"every": 1, "suite": "mini-choosing"} | measure)
    assert not (tmp_path / "run").exists()


@pytest.mark.ci
def test_a_full_disk_at_the_export_ends_in_words(family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(loop, "export_student", full)
    with pytest.raises(IntegrityError, match="the disk is full; checkpoints that were written are whole"):
        run(family, tmp_path)
    monkeypatch.undo()
    monkeypatch.setenv("SBV2BENCH_CATALOG", str(family / "catalog.yaml"))
    assert run(family, tmp_path)


@pytest.mark.ci
def test_a_log_goes_on_from_the_checkpoint(family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries beyond it are logged again, and half a line is none."""
    kill_at(5, monkeypatch)
    with pytest.raises(InterruptedRun):
        run(family, tmp_path, log_every=1)
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"step": 6, "ima')
    assert run(family, tmp_path, log_every=1)
    assert [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [1, 2, 3, 4, 5, 6]

"""A training run from recipe to export, on one process or many: read this file to see everything that happens, in order."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from rich.console import Console

from reference_trainer.checkpoint import START_AGAIN, resume, save_checkpoint
from reference_trainer.config import Recipe
from reference_trainer.export import export_student
from reference_trainer.monitor import GRID, Monitor, write_panels, write_samples
from reference_trainer.networks import Networks, base_hashes
from reference_trainer.pairs import Pairs
from reference_trainer.prompts import PromptSource
from reference_trainer.step import Trainer
from sbv2bench import evaluate, provenance
from sbv2bench.atomic import write_whole
from sbv2bench.errors import InputError, InterruptedRun
from sbv2bench.registry import Registry


def train(
    recipe: Recipe, run: Path, *, device: str = "auto", whole_export: bool = True, stop_after_seconds: float | None = None
) -> bool:
    """Train in the folder `run` until done (True) or until the sitting's time is over (False); call again to resume.

    Leaves recipe.json, log.jsonl, tensorboard/, samples/, checkpoints/ and, at the end, export/ and done.json. Under torchrun
    or accelerate launch all processes share the batch. Raises InputError, PrerequisiteError, IntegrityError before compute
    is spent where it can, IntegrityError when a loss is not a number, InterruptedRun on Ctrl-C; checkpoints stay whole.
    """
    registry = Registry.load()
    if is_done(recipe, run, registry):
        return True
    accelerator = Accelerator(cpu=device == "cpu")
    processes, rank, main = accelerator.num_processes, accelerator.process_index, accelerator.is_main_process
    _tune(accelerator.device)
    prompts = PromptSource(recipe.prompts)
    networks = Networks(recipe, accelerator.device, registry)
    identity = {"recipe": recipe.identity(), "base_models": networks.base_hashes(), "prompts": {"sha256": prompts.sha256}}
    _write_recipe(recipe, run, main)
    console = Console(stderr=True)
    pairs = (
        Pairs(recipe, networks, prompts, lambda done, count: _tell(console, "pairs", done, count) if main else None)
        if recipe.regularisation
        else None
    )
    trainer = Trainer(recipe, networks, pairs, rank, processes)
    before = resume(trainer, run / "checkpoints", identity)
    monitor = Monitor(recipe, run, trainer.step) if main else None
    shown = prompts[range(min(GRID, len(prompts)))]
    if trainer.step == 0:
        _warm_up(trainer, prompts)
        _look(networks, shown, run, 0, main)
    began = time.monotonic()
    finished_step = trainer.step
    try:
        while trainer.step < recipe.steps:
            captions = prompts.prompts_at(recipe.seed, trainer.step, recipe.batch_size, trainer.rows(recipe.batch_size))
            figures = trainer.take_step(captions)
            finished_step = trainer.step
            seconds = before + time.monotonic() - began
            if monitor is not None:
                monitor.add(trainer.step, figures)
            over = _any(accelerator, stop_after_seconds is not None and time.monotonic() - began > stop_after_seconds)
            if trainer.step % recipe.sample_every == 0:
                _look(networks, shown, run, trainer.step, main)
            if main and (over or trainer.step % recipe.checkpoint_every == 0 or trainer.step == recipe.steps):
                save_checkpoint(trainer, run / "checkpoints", identity, seconds)
            if recipe.measure is not None and trainer.step % recipe.measure.every == 0:
                _measure(trainer, run, accelerator, monitor)
            if over and trainer.step < recipe.steps:
                accelerator.end_training()
                return False
    except KeyboardInterrupt as stop:
        # An update may have been cut in two, so the last checkpoint is the one to go on from.
        raise InterruptedRun(
            f"stopped after step {finished_step}; the last checkpoint is kept", "run the same command again to go on"
        ) from stop
    finally:
        if monitor is not None:
            monitor.close()
    if main:
        _finish(trainer, run, _record(trainer, identity, before + time.monotonic() - began), whole_export)
        _look(networks, shown, run, trainer.step, main)
    accelerator.wait_for_everyone()
    accelerator.end_training()  # leaves the process group: a process that others still talk to must not just exit
    return True


def is_done(recipe: Recipe, run: Path, registry: Registry) -> bool:
    """Whether the folder holds this recipe's finished run. Raises InputError for another's, or one from other weights."""
    done = run / "done.json"
    if not done.is_file():
        return False
    found = json.loads(done.read_text("utf-8"))
    if found.get("fingerprint") != recipe.fingerprint():
        raise InputError(f"{done}: the finished run of another recipe ({found.get('name')})", START_AGAIN)
    expected = base_hashes(recipe, registry)
    changed = [name for name in expected if found.get("base_models", {}).get(name) != expected[name]]
    if changed:
        raise InputError(f"{done}: the finished run from other weights ({changed[0]} has changed)", START_AGAIN)
    return True


def _finish(trainer: Trainer, run: Path, record: dict[str, Any], whole_export: bool) -> None:
    """The export, and done.json last."""
    export_student(trainer.networks, run / "export", whole=whole_export, record=record)
    write_whole(run / "done.json", json.dumps(record, indent=1))
    Console(stderr=True).print(f"{trainer.recipe.name} done in {record['seconds'] / 60:.1f} min: {run / 'export'}")


def _warm_up(trainer: Trainer, prompts: PromptSource) -> None:
    """LoRA-teacher updates before the student's first, where the recipe asks for them."""
    recipe = trainer.recipe
    for turn in range(recipe.lora_teacher.warmup_steps if recipe.lora_teacher is not None else 0):
        captions = prompts.prompts_at(recipe.seed, -1 - turn, recipe.batch_size, trainer.rows(recipe.batch_size))
        trainer.warm_up_lora_teacher(captions, turn)


def _look(networks: Networks, captions: Sequence[str], run: Path, step: int, main: bool) -> None:
    if main:
        write_samples(networks, list(captions), run / "samples", step)
        write_panels(networks, list(captions), run / "samples", step)


def _measure(trainer: Trainer, run: Path, accelerator: Accelerator, monitor: Monitor | None) -> None:
    """The student of this moment through `sbv2bench.evaluate`: the numbers of a later `sbv2bench eval`, to the last bit."""
    settings = trainer.recipe.measure
    assert settings is not None
    folder = run / "measured"
    if accelerator.is_main_process:
        export_student(trainer.networks, folder, whole=False, record={"step": trainer.step})
    accelerator.wait_for_everyone()
    result = evaluate(folder, settings.suite, limit=settings.limit, metrics=settings.metrics, device=str(accelerator.device))
    if monitor is not None:
        values = {name: metric.value for name, metric in result.metrics.items()}
        monitor.write({"step": trainer.step, "suite": settings.suite, **values})
        monitor.console.print("  ".join(f"{name} {value:.4g}" for name, value in values.items()))


def _tune(device: torch.device) -> None:
    """Settings that make convolutions faster on a GPU and change nothing on a CPU."""
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True


def _write_recipe(recipe: Recipe, run: Path, main: bool) -> None:
    """recipe.json of the run's folder. Raises InputError where the folder cannot be written."""
    try:
        run.mkdir(parents=True, exist_ok=True)
        if main:
            (run / "recipe.json").write_text(recipe.model_dump_json(indent=1))
    except OSError as error:
        raise InputError(f"--output: {run} cannot be written ({error.strerror})") from error


def _record(trainer: Trainer, identity: dict[str, Any], seconds: float) -> dict[str, Any]:
    """How the exported weights came to be."""
    return {
        "name": trainer.recipe.name,
        "fingerprint": trainer.recipe.fingerprint(),
        **identity,
        "steps": trainer.recipe.steps,
        "seconds": round(seconds, 1),
        "processes": trainer.processes,
        "device": provenance.device_name(str(trainer.networks.device)),
        "code": provenance.code_fingerprint(),
    }


def _any(accelerator: Accelerator, flag: bool) -> bool:
    """Whether the flag is set on any process: all of them stop at the same step."""
    if accelerator.num_processes == 1:
        return flag
    total: torch.Tensor = accelerator.reduce(torch.tensor(float(flag), device=accelerator.device), "sum")
    return bool(total > 0)


def _tell(console: Console, what: str, done: int, count: int) -> None:
    console.print(f"{what} {done}/{count}", end="\r")

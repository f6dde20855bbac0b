"""The run that nobody disturbs: one call of the trainer, of which each leg is then proved by what it left."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from reference_trainer.loop import Asked, train
from reference_trainer.networks import LORA_TEACHER, STUDENT
from reference_trainer.rehearse import watch
from reference_trainer.rehearse.legs import LegFailed, Stage, log_entries
from reference_trainer.rehearse.redirect import MEASURED_AT, STEPS, WARM_UP
from reference_trainer.training.checkpoint import STATE, checkpoints
from sbv2bench.provenance import sha256_file
from sbv2bench.report.picture import GAP, LABEL

_STRIP = 32  # pixels of the last row of a picture that are looked at


def run(stage: Stage) -> tuple[dict[str, float], BaseException | None]:
    """Train to the end; seconds of each leg, and what was raised if anything was."""
    with watch.Watch() as looked:
        try:
            train(stage.rehearsed.recipe, stage.run, Asked(device="cpu"))
        except Exception as error:
            return looked.seconds, error
    return looked.seconds, None


def legs(stage: Stage) -> dict[str, Callable[[Stage], None]]:
    """The legs of the recipe, in the order in which a run comes to them."""
    vsd = stage.rehearsed.recipe.vsd is not None
    found: dict[str, Callable[[Stage], None]] = {
        watch.LOADING: loaded,
        watch.WARM_UP: warmed_up,
        watch.GRIDS: drawn,
        watch.PANELS: partial(drawn, suffix="-teachers"),
        watch.STEPS: three_steps,
        watch.MEASUREMENT: measured,
        watch.CHECKPOINT: checkpointed,
        watch.EXPORT: exported,
    }
    return {name: leg for name, leg in found.items() if vsd or name not in (watch.WARM_UP, watch.PANELS)}


def loaded(stage: Stage) -> None:
    """recipe.json is what was asked for."""
    written = json.loads((stage.run / "recipe.json").read_text("utf-8"))
    if written != stage.rehearsed.recipe.model_dump(mode="json"):
        raise LegFailed("recipe.json is not the recipe that was given")


def warmed_up(stage: Stage) -> None:
    """The LoRA teacher has taken its updates of the warm-up besides those of the steps."""
    recipe = stage.rehearsed.recipe
    assert recipe.lora_teacher is not None
    expected = WARM_UP + STEPS * recipe.lora_teacher.steps_per_student_step
    found = _updates(stage, LORA_TEACHER)
    if found != {expected}:
        raise LegFailed(f"the LoRA teacher was updated {sorted(found)} times, expected {expected}")


def three_steps(stage: Stage) -> None:
    """Three entries of finite figures, three updates of the student, and every network moved."""
    entries = [entry for entry in log_entries(stage.run) if "images" in entry]
    if [entry["step"] for entry in entries] != list(range(1, STEPS + 1)):
        raise LegFailed(f"log.jsonl has steps {[entry['step'] for entry in entries]}, expected 1 to {STEPS}")
    for entry in entries:
        if bad := [name for name, value in entry.items() if isinstance(value, float) and not math.isfinite(value)]:
            raise LegFailed(f"step {entry['step']}: {bad[0]} is {entry[bad[0]]}")
    if _updates(stage, STUDENT) != {STEPS}:
        raise LegFailed(f"the student was updated {sorted(_updates(stage, STUDENT))} times, expected {STEPS}")
    before, after = checkpoints(stage.run / "checkpoints")[-2:]
    for name in (STUDENT, *([LORA_TEACHER] if stage.rehearsed.recipe.lora_teacher else [])):
        ends = [load_file(folder / f"{name}.safetensors") for folder in (before, after)]
        weights = [key for key in ends[0] if key.startswith("weights.")]
        moved = sum(not torch.equal(ends[0][key], ends[1][key]) for key in weights)
        if moved < len(weights) / 2:
            raise LegFailed(f"the last step moved {moved} of {len(weights)} tensors of the {name.replace('_', ' ')}")


def drawn(stage: Stage, suffix: str = "") -> None:
    """A grid before the first step, and one after the last; with a suffix what both teachers make of the student's images."""
    for step in (0, STEPS):
        check_picture(stage.run / "samples" / f"{step:08d}{suffix}.png")


def measured(stage: Stage) -> None:
    """One entry of the log with the suite's metrics."""
    entries = [entry for entry in log_entries(stage.run) if "suite" in entry]
    if [entry["step"] for entry in entries] != [MEASURED_AT]:
        raise LegFailed(f"log.jsonl has measurements at {[entry['step'] for entry in entries]}, expected {MEASURED_AT}")
    values = {name: value for name, value in entries[0].items() if name not in ("step", "suite")}
    if not values or not all(math.isfinite(value) for value in values.values()):
        raise LegFailed(f"found {values}, expected finite numbers")


def checkpointed(stage: Stage) -> None:
    """The last step's checkpoint, every file with the hash that its state.json says."""
    last = checkpoints(stage.run / "checkpoints")[-1]
    if last.name != f"{STEPS:08d}":
        raise LegFailed(f"the last checkpoint is {last.name}, expected {STEPS:08d}")
    for name, sha256 in json.loads((last / STATE).read_text("utf-8"))["files"].items():
        if sha256_file(last / name) != sha256:
            raise LegFailed(f"{last / name}: not the bytes that its state.json says")


def exported(stage: Stage) -> None:
    """A whole pipeline of finite weights, and how it is sampled."""
    export = stage.run / "export"
    for name in ("model_index.json", "sbv2bench.json", "training.json", "scheduler/scheduler_config.json", "unet/config.json"):
        if not (export / name).is_file():
            raise LegFailed(f"the export has no {name}")
    for path in sorted(export.rglob("*.safetensors")):
        if bad := [name for name, value in load_file(path).items() if not bool(value.isfinite().all())]:
            raise LegFailed(f"{path}: {bad[0]} is not finite")


def _updates(stage: Stage, network: str) -> set[int]:
    """How often an optimiser has updated each tensor of a network, by the last checkpoint."""
    tensors = load_file(checkpoints(stage.run / "checkpoints")[-1] / f"{network}.safetensors")
    return {int(value) for key, value in tensors.items() if key.endswith("|step")}


def check_picture(path: Path) -> None:
    """Raises LegFailed where a picture was not drawn, or its last row of images shows one grey level alone."""
    if not path.is_file():
        raise LegFailed(f"{path.name} was not drawn")
    drawn = Image.open(path).convert("L")
    row = drawn.crop((min(LABEL, drawn.width - 1), drawn.height - GAP - _STRIP, drawn.width, drawn.height - GAP))
    levels = np.unique(np.asarray(row))
    if (levels < 255).sum() < 2:  # white is the gap between images
        raise LegFailed(f"{path.name} is of one colour")

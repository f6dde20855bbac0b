"""Part 5: a rung of the mini ladder in large batches, for as long as there is time, by `train`."""

from __future__ import annotations

import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from gpu.figures import Figures
from gpu.setting import Setting

from reference_trainer.loop import Asked, train
from reference_trainer.recipe_files import read_recipe

RECIPE = "mini/sbv2-a"


def measure(setting: Setting, figures: Figures) -> None:
    """Steps until the time is up."""
    batch, steps, every = (1024, 100_000, 10) if setting.true else (4, 3, 1)
    changes = {"batch_size": batch, "steps": steps, "log_every": every, "sample_every": steps, "checkpoint_every": steps}
    recipe = read_recipe(RECIPE, [f"{key}={json.dumps(value)}" for key, value in (changes | {"precision": "bfloat16"}).items()])
    figures.attempt("run", lambda: _run(recipe, setting))


def _run(recipe: Any, setting: Setting) -> dict[str, Any]:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory(dir=setting.folder) as place:
        run, began = Path(place) / "run", time.perf_counter()
        train(recipe, run, Asked(device=setting.device, stop_after_seconds=setting.seconds, whole_export=False))
        seconds = time.perf_counter() - began
        lines = [json.loads(line) for line in (run / "log.jsonl").read_text("utf-8").splitlines()]
    entries = [entry for entry in lines if "images" in entry]
    curve = {name: [entry[name] for entry in entries if name in entry] for name in ("loss", "lora_teacher_loss")}
    return {
        "recipe": RECIPE,
        "batch_size": recipe.batch_size,
        "steps": entries[-1]["step"],
        "images_per_second": max(entry["images_per_second"] for entry in entries),
        "seconds": seconds,
        "peak_bytes": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None,
        "curve": curve,
        "finite": all(math.isfinite(value) for values in curve.values() for value in values),
    }

"""What is predicted of a run against what it takes, on this CPU: `show`, `train --dry-run` and the plan of an evaluation.

PYTHONPATH=.:tests:tests/support python -m gpu.costs: the table. Seconds are of one thread's processor time, so that they mean the
same on a machine that does other things. Memory of a step is counted by tensors, weights included.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from gpu.training import counted_peak
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from reference_trainer.config import Recipe
from reference_trainer.dry_run import try_out
from reference_trainer.networks import Networks
from reference_trainer.prompts import PromptSource
from reference_trainer.recipe_files import read_recipe
from reference_trainer.show import describe
from reference_trainer.step import Trainer
from reference_trainer.training.checkpoint import checkpoint_name, snapshot, write
from sbv2bench.evaluation import costs
from sbv2bench.evaluation.evaluate import Run
from sbv2bench.evaluation.options import EvalOptions
from sbv2bench.evaluation.plan import plan
from sbv2bench.features.cache import FeatureCache
from sbv2bench.machine.processes import joined_processes
from sbv2bench.registry import Registry
from sbv2bench.samplers.base import HasNetworks

OFF = 0.3  # of what is measured, the most that a prediction may be away
RECIPES = {"mini/sbv2-a": "A", "mini/sbv2-b": "B"}
EVALUATIONS = {"mini/sbv2-a": 200, "mini/sd21": 50}  # model: captions
METRICS = "fid,pr,kid,clip,hps,attributes"
STEPS = 4


@dataclass(frozen=True)
class Row:
    """One prediction. unit: "s" or "bytes"."""

    what: str
    unit: str
    predicted: float
    measured: float

    @property
    def ratio(self) -> float:
        """Predicted over measured."""
        return self.predicted / self.measured if self.measured else float("inf")

    @property
    def holds(self) -> bool:
        """Whether it is near enough."""
        return abs(self.ratio - 1.0) <= OFF


def rows() -> list[Row]:
    """Every prediction. Caches are a temporary folder's."""
    found: list[Row] = []
    with _alone():
        for name, short in RECIPES.items():
            recipe = read_recipe(name, ["batch_size=8", "steps=100", "lora_teacher.warmup_steps=0"])
            found += _training(short, recipe)
        for model, captions in EVALUATIONS.items():
            found += _evaluation(model, captions)
    return found


def _training(short: str, recipe: Recipe) -> list[Row]:
    registry, device = Registry.load(), torch.device("cpu")
    told = describe(recipe, registry=registry, device="cpu")
    with tempfile.TemporaryDirectory() as place:
        tried = try_out(recipe, Path(place) / "run", device="cpu")
        assert tried is not None
        networks, prompts = Networks(recipe, device, registry), PromptSource(recipe.prompts)
        trainer = Trainer(recipe, networks, prompts, None)
        with counted_peak(recipe, networks) as peak:
            trainer.take_step()
            trainer.take_step()
        began = time.process_time()
        for _ in range(STEPS):
            trainer.take_step()
        seconds = time.process_time() - began
        written = write(snapshot(trainer, {}, 0.0), Path(place) / "checkpoints", checkpoint_name(trainer), 1)
        size = sum(file.stat().st_size for file in written.iterdir())
    return [
        Row(f"show {short}: memory at the worst moment", "bytes", told["memory"]["peak"], peak[0]),
        Row(f"show {short}: a checkpoint", "bytes", told["storage"]["checkpoint"], size),
        Row(f"dry run {short}: a checkpoint", "bytes", tried["checkpoint_bytes"], size),
        Row(f"dry run {short}: {STEPS} steps", "s", STEPS * tried["seconds_a_step"], seconds),
    ]


def _evaluation(model: str, captions: int) -> list[Row]:
    registry = Registry.load()
    planned = plan(model, "mini", EvalOptions.validated(metrics=METRICS, limit=captions, device="cpu"), registry)
    told: dict[str, Any] = costs.describe(planned, registry)
    home = Path(os.environ["SBV2BENCH_HOME"])
    before = _size(home)
    run = Run(planned, registry, joined_processes())
    assert isinstance(run.sampler, HasNetworks)
    weights = sum(p.nbytes for network in run.sampler.networks().values() for p in network.parameters())
    with _fullest(home) as fullest:
        result = run.result()
    seconds = result.seconds["generate"] + result.seconds["features"]
    held = sum(rows.nbytes for draw in run.rows.values() for rows in draw.values())
    held += sum(entry.arrays["rows"].nbytes for entry in run.reference.values())
    what = f"plan of {model}, {captions} captions"
    return [
        Row(f"{what}: networks", "s", told["estimated_seconds"]["networks"], seconds),
        Row(f"{what}: weights", "bytes", told["memory_bytes"]["model_weights"], weights),
        Row(f"{what}: rows in memory", "bytes", told["memory_bytes"]["rows"], held),
        Row(f"{what}: cache on disk", "bytes", told["disk_bytes"], fullest[0] - before),
    ]


@contextmanager
def _fullest(folder: Path) -> Iterator[list[int]]:
    """[bytes of a cache at its fullest], filled in at the end: a draw's finished blocks go when its entry is written."""
    found, drop = [0], FeatureCache.drop_blocks

    def dropped(self: FeatureCache, *arguments: Any) -> None:
        found[0] = max(found[0], _size(folder))
        drop(self, *arguments)

    with patch.object(FeatureCache, "drop_blocks", dropped):
        yield found
    found[0] = max(found[0], _size(folder))


@contextmanager
def _alone() -> Iterator[None]:
    """One thread, whose processor time every clock tells, and a cache of its own."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with (
            tempfile.TemporaryDirectory() as home,
            patch.dict(os.environ, {"SBV2BENCH_HOME": home, "HF_HUB_OFFLINE": "1"}),
            patch("time.perf_counter", time.process_time),
            patch("sbv2bench.evaluation.gather.workers_on", lambda _: 1),
            threadpool_limits(1),
        ):
            yield
    finally:
        torch.set_num_threads(threads)


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def print_rows(found: list[Row]) -> None:
    """The table, for people."""
    table = Table("what", "predicted", "measured", "ratio", "within 30 %")
    for row in found:
        values = [f"{value:.2f} s" if row.unit == "s" else f"{value / 1e6:.3f} MB" for value in (row.predicted, row.measured)]
        table.add_row(row.what, *values, f"{row.ratio:.2f}", "yes" if row.holds else "NO")
    Console().print(table)


if __name__ == "__main__":
    print_rows(rows())

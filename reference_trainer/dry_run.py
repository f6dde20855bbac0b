"""What a run costs on this very device, found out by taking a true step, a grid and a checkpoint of it."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from reference_trainer.config import Recipe
from reference_trainer.devices import find_place, steps_explained, tune
from reference_trainer.measure import check_measure
from reference_trainer.needed_weights import require_weights
from reference_trainer.networks import Networks
from reference_trainer.pairs import Pairs
from reference_trainer.pictures import GRID, write_panels, write_samples
from reference_trainer.prompts import PromptSource
from reference_trainer.recipe_files import changed
from reference_trainer.run_folder import full_disk_said
from reference_trainer.show import describe
from reference_trainer.step import Trainer
from reference_trainer.training.checkpoint import checkpoint_name, snapshot, write
from sbv2bench import provenance
from sbv2bench.latency.memory import max_rss
from sbv2bench.machine.checks import existing
from sbv2bench.registry import Registry
from sbv2bench.samplers.base import wait_for


def try_out(recipe: Recipe, run: Path, *, device: str = "auto") -> dict[str, Any] | None:
    """Take two steps of a recipe (the optimisers' moments are there from the second on), a grid and a checkpoint.

    Returns, JSON-ready: device, processes, peak_bytes (on a GPU the allocator's; on a CPU the growth of the process's resident
    memory) and estimated_bytes (`show`'s), seconds_a_step, images_per_second, seconds_a_grid, checkpoint_bytes and
    seconds_a_checkpoint (of which training waits for seconds_a_snapshot alone), largest_micro_batch ("measured" on a GPU,
    "estimated" on a CPU), hours; None on all processes but the first. The run's folder stays as it is; the checkpoint goes to
    its disk, and away again. Raises what training raises, and PrerequisiteError where the memory is too small for a step.
    """
    registry, prompts = Registry.load(), PromptSource(recipe.prompts)
    require_weights(recipe, registry)
    check_measure(recipe, registry)
    place = find_place(device, recipe)
    tune(place.device)
    before = _peak(place.device)
    networks = Networks(recipe, place.device, registry)
    few = changed(recipe, {"regularisation.pairs": recipe.regularisation.batch_size}) if recipe.regularisation else recipe
    pairs = Pairs(few, networks, prompts, lambda done, count: None) if recipe.regularisation else None
    trainer = Trainer(few, networks, prompts, pairs, rank=place.rank, processes=place.processes)
    if place.processes > 1:
        trainer.share()
    with steps_explained(recipe, place.device, running=False):
        for _ in range(1 + recipe.compile):  # the first call compiles
            warm_up = _seconds(place.device, trainer.warm_up_lora_teacher) if trainer.warm_up_steps else 0.0
        for _ in range(2):
            step = _seconds(place.device, trainer.take_step)
    peak = _peak(place.device) - before
    share = recipe.batch_size // place.processes
    micro = min(recipe.micro_batch_size or share, share)
    kind = "cuda" if place.device.type == "cuda" else "cpu"
    estimate = describe(recipe, processes=place.processes, device=kind)  # type: ignore[arg-type]
    largest = _largest_by_trial(trainer, micro, share) if place.device.type == "cuda" else None
    grid = checkpoint = taken = size = 0.0
    if place.main:
        with full_disk_said(run), tempfile.TemporaryDirectory(dir=existing(run), prefix=".dry-run-") as folder:
            shown = prompts[range(min(GRID, len(prompts)))]
            grid = _seconds(place.device, lambda: _pictures(networks, shown, Path(folder)))
            began = time.perf_counter()
            copied = snapshot(trainer, {}, 0.0)
            taken = time.perf_counter() - began
            written = write(copied, Path(folder) / "checkpoints", checkpoint_name(trainer), 1)
            checkpoint = time.perf_counter() - began
            size = sum(file.stat().st_size for file in written.iterdir())
            free = shutil.disk_usage(folder).free + size
    place.accelerator.wait_for_everyone()
    place.accelerator.end_training()
    if not place.main:
        return None
    rate = estimate["work"]["tflop_an_image"]["total"] * recipe.batch_size / step  # TFLOP/s of all processes
    seconds = {
        "steps": step * recipe.steps,
        "warm_up": warm_up * trainer.warm_up_steps,
        "pairs": estimate["work"]["tflop_for_pairs"] / rate,  # those that are not in the cache yet
        "grids": grid * (recipe.steps // recipe.sample_every + 1),
        "snapshots": taken * (recipe.steps // recipe.checkpoint_every + 1),
    }
    return {
        "recipe": recipe.name,
        "device": str(place.device),
        "device_name": provenance.device_name(str(place.device)),
        "processes": place.processes,
        "peak_bytes": peak,
        "estimated_bytes": estimate["memory"]["peak"],
        "micro_batch": micro,
        "largest_micro_batch": largest if largest is not None else _largest_by_estimate(estimate, peak, micro, share),
        "largest_micro_batch_is": "measured" if largest is not None else "estimated",
        "seconds_a_step": step,
        "images_per_second": recipe.batch_size / step,
        "seconds_a_grid": grid,
        "seconds_a_checkpoint": checkpoint,
        "seconds_a_snapshot": taken,
        "checkpoint_bytes": int(size),
        "disk_needed_bytes": int(size) * (recipe.keep_checkpoints + 1),
        "disk_free_bytes": free,
        "hours": {name: value / 3600 for name, value in seconds.items()} | {"total": sum(seconds.values()) / 3600},
    }


def print_trial(trial: dict[str, Any], console: Console) -> None:
    """What was found, for people."""
    title = f"{trial['recipe']} on {trial['device_name']} x {trial['processes']}"
    table = Table("what", "measured", title=title, title_justify="left")
    sizes = {name.removesuffix("_bytes"): f"{size / 1e9:.2f} GB" for name, size in trial.items() if name.endswith("_bytes")}
    largest = f"{trial['largest_micro_batch']} ({trial['largest_micro_batch_is']}); now {trial['micro_batch']}"
    written = f"{sizes['checkpoint']}, written in {trial['seconds_a_checkpoint']:.3g} s beside training"
    table.add_row("memory at the worst moment", f"{sizes['peak']} (show estimates {sizes['estimated']})")
    table.add_row("largest micro-batch that fits", largest)
    table.add_row("a step", f"{trial['seconds_a_step']:.3g} s, {trial['images_per_second']:.3g} images/s")
    table.add_row("a grid with panels", f"{trial['seconds_a_grid']:.3g} s")
    table.add_row("a checkpoint", f"{written}, which waits {trial['seconds_a_snapshot']:.3g} s")
    table.add_row("disk for checkpoints", f"{sizes['disk_needed']} of {sizes['disk_free']} free")
    for name, hours in trial["hours"].items():
        if hours:
            table.add_row(f"hours: {name.replace('_', ' ')}", f"{hours:.3f}" if hours >= 0.001 else "below 0.001")
    console.print(table)


def _largest_by_trial(trainer: Trainer, micro: int, share: int) -> int:
    """The largest micro-batch, in doublings, with which a step of one micro-batch does not run out of memory."""
    found, recipe = micro, trainer.recipe
    while found * 2 <= share:
        size = found * 2 * trainer.processes
        trainer.recipe = recipe.model_copy(update={"micro_batch_size": found * 2, "batch_size": size})
        try:
            trainer.take_step()
        except torch.OutOfMemoryError:
            for optimiser in trainer.optimisers.values():
                optimiser.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()
            break
        found *= 2
    trainer.recipe = recipe
    return found


def _largest_by_estimate(estimate: dict[str, Any], peak: int, micro: int, share: int) -> int:
    """By `show`'s activations of an image, and the memory that is free: a CPU that runs out takes other programs with it."""
    image = max(1, estimate["memory"]["components"]["activations"] // micro)
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
    return int(max(1, min(share, micro + free // image)))


def _pictures(networks: Networks, captions: list[str], folder: Path) -> None:
    write_samples(networks, captions, folder, 0)
    write_panels(networks, captions, folder, 0)


def _seconds(device: torch.device, run: Callable[[], object]) -> float:
    """Of a call, from an idle device to an idle device."""
    wait_for(device)
    began = time.perf_counter()
    run()
    wait_for(device)
    return time.perf_counter() - began


def _peak(device: torch.device) -> int:
    """Bytes at the worst moment so far."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return max_rss()

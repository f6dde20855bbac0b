"""Part 1: steps of models A and B on Stable Diffusion 2.1's architecture, by their recipes, otherwise, and by a plain loop."""

from __future__ import annotations

import gc
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import torch
from gpu.figures import Figures
from gpu.plain_loop import plain_loop
from gpu.setting import Setting
from torch import nn

from reference_trainer.accounting import LiveBytes
from reference_trainer.config import Recipe
from reference_trainer.devices import tune
from reference_trainer.networks import Networks
from reference_trainer.pictures import GRID, write_panels, write_samples
from reference_trainer.prompts import PromptSource
from reference_trainer.recipe_files import changed, read_recipe
from reference_trainer.show import describe
from reference_trainer.step import Trainer
from reference_trainer.training.checkpoint import checkpoint_name, resume, snapshot, write
from sbv2bench.machine.processes import cores
from sbv2bench.mini import world
from sbv2bench.registry import Registry
from sbv2bench.samplers.base import wait_for

RECIPES = {"A": "paper/sbv2-a", "B": "paper/sbv2-b"}
VARIANTS: dict[str, dict[str, object]] = {
    "ema_on_cpu": {"ema_on_cpu": True},
    "without_checkpointing": {"gradient_checkpointing": False},
    "adamw8bit": {"optimiser.kind": "adamw8bit"},
}
_FEW = {"batch_size": 4, "micro_batch_size": 2}  # of small copies


def measure(setting: Setting, figures: Figures) -> None:
    """The recipes first, each beside the plain loop; then what differs by a setting."""
    registry = setting.registry(setting.sd21(), "openclip-b32")
    recipes = {name: _recipe(reference, setting) for name, reference in RECIPES.items()}
    variants = {(name, own): changed(recipe, VARIANTS[own]) for name, recipe in recipes.items() for own in VARIANTS}
    # `show` counts for half a minute, on the processor alone: in processes that begin before anything is on the device.
    with ProcessPoolExecutor(min(8, cores()), mp_context=get_context("fork")) as pool:
        every = [*recipes.values(), *(recipe for recipe in variants.values() if _can_run(recipe, setting))]
        told = {recipe.model_dump_json(): pool.submit(_described, recipe, registry, setting.device) for recipe in every}
        bench = _Bench(setting, registry, told)
        figures.add("ceiling", {"matmul_tflops": bench.ceiling.matmul / 1e12, "conv_tflops": bench.ceiling.conv / 1e12})
        for name, recipe in recipes.items():
            figures.attempt(f"{name}.recipe", partial(bench.whole, recipe))
            figures.attempt(f"{name}.plain_loop", partial(bench.plain, recipe))
        for (name, variant), recipe in variants.items():
            figures.attempt(f"{name}.{variant}", partial(bench.steps, recipe))


def _can_run(recipe: Recipe, setting: Setting) -> bool:
    """Whether the optimiser is to be had; asked to, the trainer says why it is not."""
    return recipe.optimiser.kind == "adamw" or (setting.device == "cuda" and find_spec("bitsandbytes") is not None)


def _described(recipe: Recipe, registry: Registry, device: Literal["cuda", "cpu"]) -> dict[str, Any]:
    torch.set_num_threads(1)
    return describe(recipe, registry=registry, device=device)


def _recipe(reference: str, setting: Setting) -> Recipe:
    """A recipe of the paper led to the models of the setting; small copies take small batches."""
    captions = setting.folder / "captions.txt"
    captions.write_text("\n".join(world.captions(world.scenes("training", range(256)))) + "\n", encoding="utf-8")
    changes: dict[str, object] = {"prompts": [{"source": str(captions)}], "teacher": str(setting.sd21())}
    changes |= {"student.start": str(setting.sd21()), **({} if setting.true else _FEW)}
    recipe = read_recipe(reference, [f"{key}={json.dumps(value)}" for key, value in changes.items()])
    more: dict[str, object] = {"tiny_decoder": str(setting.taesd())} if recipe.tiny_decoder else {}
    return changed(recipe, more | ({"clip.scorer": "openclip-b32"} if recipe.clip else {}))


@dataclass
class _Run:
    """A trainer that was made, and what it has taken since before it was."""

    recipe: Recipe
    networks: Networks
    trainer: Trainer
    prompts: PromptSource
    device: torch.device
    seconds: list[float] = field(default_factory=list)
    losses: list[dict[str, float]] = field(default_factory=list)

    def step(self) -> None:
        """One more step, by the clock."""
        seconds, found = timed(self.device, self.trainer.take_step)
        self.seconds.append(seconds)
        self.losses.append({key: value for key, value in found.items() if key == "loss" or key.endswith("_loss")})


class _Bench:
    """The setting, what it can do at most, and what `show` says of each recipe."""

    def __init__(self, setting: Setting, registry: Registry, told: dict[str, Future[dict[str, Any]]]) -> None:
        self.setting, self.registry, self._told = setting, registry, told
        self.device = torch.device(setting.device)
        tune(self.device)
        self.ceiling = setting.ceiling(torch.bfloat16).ceiling()

    def made(self, recipe: Recipe) -> _Run:
        """A trainer at its beginning."""
        prompts = PromptSource(recipe.prompts)
        networks = Networks(recipe, self.device, self.registry)
        return _Run(recipe, networks, Trainer(recipe, networks, prompts, None), prompts, self.device)

    def whole(self, recipe: Recipe) -> dict[str, Any]:
        """Two steps, a grid, a checkpoint and a third step; then the third step again, resumed."""
        with tempfile.TemporaryDirectory(dir=self.setting.folder) as folder:
            found, losses = self._first(recipe, Path(folder))
            _free()
            found["resume"] = self._again(recipe, Path(folder), losses)
        _free()
        return found

    def _first(self, recipe: Recipe, folder: Path) -> tuple[dict[str, Any], dict[str, float]]:
        """All but the resuming; and the losses of the third step."""
        loading, run = timed(self.device, partial(self.made, recipe))
        trainer = run.trainer
        with _peak(run) as peak:
            run.step()
            run.step()
        shown = run.prompts[range(min(GRID, len(run.prompts)))]
        drawing, _ = timed(self.device, partial(_pictures, run.networks, shown, folder / "samples"))
        copying, copied = timed(self.device, partial(snapshot, trainer, {}, 0.0))
        write_it = partial(write, copied, folder / "checkpoints", checkpoint_name(trainer), 1)
        writing, written = timed(self.device, write_it)
        del copied, write_it
        run.step()
        found = self._figures(run, peak[0])
        found["checkpoint"] = {
            "bytes": sum(file.stat().st_size for file in written.iterdir()),
            "predicted_bytes": self._told[recipe.model_dump_json()].result()["storage"]["checkpoint"],
            "copy_seconds": copying,
            "write_seconds": writing,
        }
        return found | {"loading_seconds": loading, "grid_seconds": drawing}, run.losses[2]

    def _again(self, recipe: Recipe, folder: Path, expected: dict[str, float]) -> dict[str, float]:
        """The third step by a trainer that has read the checkpoint of the second."""
        run = self.made(recipe)
        reading, _ = timed(self.device, partial(resume, run.trainer, folder / "checkpoints", {}))
        run.step()
        return {"read_seconds": reading, "losses_differ_by": max(_apart(expected[key], run.losses[0][key]) for key in expected)}

    def steps(self, recipe: Recipe) -> dict[str, Any]:
        """Two steps, the second by the clock."""
        try:
            run = self.made(recipe)
            with _peak(run) as peak:
                run.step()
                run.step()
            return self._figures(run, peak[0])
        finally:
            _free()

    def plain(self, recipe: Recipe) -> dict[str, Any]:
        """As many images by the plain loop: the second step by the clock."""
        captions = PromptSource(recipe.prompts).prompts_at(0, 0, recipe.batch_size, range(recipe.batch_size))
        setting, on_gpu = self.setting, self.device.type == "cuda"
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        take_step = partial(
            plain_loop(recipe, setting.sd21(), setting.taesd(), setting.openclip("openclip-b32"), self.device), captions
        )
        seconds = [timed(self.device, take_step)[0] for _ in range(2)][1]
        peak = torch.cuda.max_memory_allocated() if on_gpu else None
        del take_step
        _free()
        return {"seconds_a_step": seconds, **self._rate(recipe, seconds), "peak_bytes": peak}

    def _rate(self, recipe: Recipe, seconds: float) -> dict[str, float]:
        """Images a second, and the share of the ceiling that their arithmetic is, as `show` counts it: what checkpointing
        computes twice is counted twice."""
        tflop = self._told[recipe.model_dump_json()].result()["work"]["tflop_an_image"]["total"]
        rate = recipe.batch_size / seconds
        return {"images_per_second": rate, "tflop_an_image": tflop, "share_of_ceiling": 1e12 * rate * tflop / self.ceiling.best}

    def _figures(self, run: _Run, peak: int) -> dict[str, Any]:
        """What a step took, and what was predicted; the first step is left out, in which libraries choose their kernels."""
        recipe, seconds = run.recipe, min(run.seconds[1:])
        predicted = self._told[recipe.model_dump_json()].result()["memory"]["peak"]
        return {
            "batch_size": recipe.batch_size,
            "micro_batch_size": recipe.micro_batch_size,
            "first_step_seconds": run.seconds[0],
            "seconds_a_step": seconds,
            **self._rate(recipe, seconds),
            "peak_bytes": peak,
            "predicted_bytes": predicted,
            "peak_over_predicted": peak / predicted,
            "losses": run.losses,
            "finite": all(math.isfinite(value) for losses in run.losses for value in losses.values()),
        }


def timed(device: torch.device, run: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of a call, from an idle device to an idle device, and what it returned."""
    wait_for(device)
    began = time.perf_counter()
    found = run()
    wait_for(device)
    return time.perf_counter() - began, found


@contextmanager
def _peak(run: _Run) -> Iterator[list[int]]:
    """[bytes at the worst moment], filled in at the end: by a GPU's allocator; on a CPU as `counted_peak` counts."""
    found: list[int] = []
    if run.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        yield found
        found.append(torch.cuda.max_memory_allocated())
        return
    with counted_peak(run.recipe, run.networks) as counted:
        yield found
    found += counted


@contextmanager
def counted_peak(recipe: Recipe, networks: Networks) -> Iterator[list[int]]:
    """[bytes at the worst moment on a CPU], filled in at the end: weights, the average, and tensors as they live."""
    parts, found = networks.components, list[int]()
    every = [networks.teacher, networks.student, parts.text_encoder, parts.vae, networks.tiny_decoder]
    modules: list[nn.Module] = [module for module in every if module is not None]
    modules += [scorer.model for scorer in networks.scorers.values()]
    average = networks.average.shadow_params if networks.average is not None and not recipe.ema_on_cpu else []
    there = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())] + list(average)
    live = LiveBytes(modules, average)
    with live:
        yield found
    live.stop()
    found.append(live.peak + sum(tensor.nbytes for tensor in {id(tensor): tensor for tensor in there}.values()))


def _pictures(networks: Networks, captions: list[str], folder: Path) -> None:
    write_samples(networks, captions, folder, 0)
    write_panels(networks, captions, folder, 0)


def _apart(a: float, b: float) -> float:
    """Relative difference of two numbers; infinite where one is none."""
    if not math.isfinite(a) or not math.isfinite(b):
        return math.inf
    return abs(a - b) / max(abs(a), abs(b), 1e-12)


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

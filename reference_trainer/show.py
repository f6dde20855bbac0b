"""What a recipe means before anything is spent on it: parameters, memory, work, hours, disk. Nothing is loaded or computed."""

from __future__ import annotations

import json
import re
from operator import itemgetter
from typing import Any, Literal

from rich.console import Console

from reference_trainer import estimate
from reference_trainer.blank import BlankTrainer
from reference_trainer.config import Recipe
from reference_trainer.recipe_files import flat
from sbv2bench.errors import InputError
from sbv2bench.registry import Registry
from sbv2bench.report.columns import Column
from sbv2bench.report.layout import print_table, print_words
from sbv2bench.report.terminal import about, print_card, say
from sbv2bench.report.values import quantity

A100_TFLOP_PER_SECOND = 125.0  # 40 % of its dense bfloat16 peak, what a tuned trainer of such networks reaches


def describe(
    recipe: Recipe,
    *,
    latent_size: int | None = None,
    processes: int = 1,
    device: Literal["cuda", "cpu"] = "cuda",
    tflop_per_second: float = A100_TFLOP_PER_SECOND,
    registry: Registry | None = None,
) -> dict[str, Any]:
    """Parameters, bytes, operations and hours of a recipe, JSON-ready: an estimate by counting, of which nothing was run.

    latent_size: side of the latents, None for the teacher's own. processes: devices that share the batch; memory is of one.
    device: what they are; on a CPU, AdamW updates one weight tensor after another and takes no memory for it.
    tflop_per_second: that one device really does. Raises InputError or PrerequisiteError for a model whose config is not to
    be had, InputError for a batch that the processes cannot share.
    """
    check_processes(recipe, processes)
    registry = registry or Registry.load()
    suite, measured = estimate.measured_suite(recipe, registry)
    trainer = BlankTrainer(recipe, registry, latent_size, processes, device)
    networks = trainer.networks
    work = estimate.work(recipe, estimate.costs(trainer), measured)
    hours = estimate.hours(work, processes, tflop_per_second)
    return {
        "kind": "estimate",
        "measured_by": f"python -m reference_trainer train {recipe.name} --dry-run",
        "recipe": recipe.name,
        "fingerprint": recipe.fingerprint(),
        "settings": recipe.model_dump(mode="json"),
        "latent_size": networks.latent_shape[1],
        "parameters": estimate.parameters(networks),
        "memory": estimate.memory(recipe, trainer, device=device, suite=suite),
        "storage": estimate.storage(recipe, networks),
        "work": work,
        "time": {
            "tflop_per_second": tflop_per_second,
            "processes": processes,
            "hours": hours,
            "device_days": hours * processes / 24,
        },
    }


def check_processes(recipe: Recipe, processes: int) -> None:
    """Raises InputError for a batch that so many processes cannot share."""
    if recipe.batch_size % processes:
        raise InputError(f"batch_size {recipe.batch_size}: {processes} processes cannot share it evenly")


def print_description(description: dict[str, Any], console: Console) -> None:
    """A description for people: settings, then weights, memory, disk and work, each number in a unit that fits it."""
    name, side = description["recipe"], description["latent_size"]
    print_card(console, f"recipe {name}, latents {side} x {side}", _leaves(description["settings"]))
    console.print()
    parameters = {_words(name): f"{count:,}" for name, count in description["parameters"].items() if count}
    _print(console, "weights", parameters)
    memory, work, time = description["memory"], description["work"], description["time"]
    parts = {_words(name): _size(size) for name, size in memory["components"].items() if size}
    parts |= {f"worst of {_words(name)}": _size(size) for name, size in memory["passes"].items()}
    _print(console, f"memory of one device, micro-batches of {memory['micro_batch']}", parts | {"peak": _size(memory["peak"])})
    storage = description["storage"]
    kept = {"one checkpoint": _size(storage["checkpoint"])}
    kept[f"disk: {storage['checkpoints_kept']} checkpoints at once"] = _size(storage["disk"])
    hosts = {name: size for name, size in storage.items() if name.startswith("host_") and size}
    kept |= {f"host memory: {_words(name.removeprefix('host_'))}": _size(size) for name, size in hosts.items()}
    _print(console, "checkpoints, of the main process", kept)
    lines = {f"an image: {_words(name)}": _flop(value) for name, value in work["tflop_an_image"].items() if value}
    lines |= {f"passes an image: {_words(name)}": f"{value:g}" for name, value in work["passes_an_image"].items() if value}
    lines |= {name: f"{work[name]:,}" for name in ("images", "pairs") if work[name]}
    once = {name.removeprefix("tflop_for_"): value for name, value in work.items() if name.startswith("tflop_for_")}
    lines |= {f"once: {_words(name)}": _flop(value) for name, value in once.items() if value}
    lines["in all"] = _flop(work["tflop"])
    devices = f"{time['processes']} device{'s' * (time['processes'] > 1)}"
    lines[f"time at {time['tflop_per_second']:g} TFLOP/s on each of {devices}"] = about(3600 * time["hours"])
    _print(console, "work", lines)
    print_words(console, "an estimate by counting; to measure it on your device:")
    say(console, f"  {description['measured_by']}")


def _print(console: Console, title: str, lines: dict[str, str]) -> None:
    name: Column[tuple[str, str]] = Column("", title, itemgetter(0), left=True, prose=True)
    print_table(console, [name, Column("", " ", itemgetter(1))], list(lines.items()))


def _words(name: str) -> str:
    """A name of the code as people read it."""
    return re.sub(r"(?<=[a-z])update$", "'s update", name.replace("_", " "))


def _leaves(settings: dict[str, Any]) -> list[tuple[str, str]]:
    """(dotted key, value as a recipe writes it) of what is set."""
    return [
        (key, value if isinstance(value, str) else ", ".join(map(str, value)) if isinstance(value, list) else json.dumps(value))
        for key, value in flat(settings).items()
        if value not in (None, [], {})
    ]


def _size(count: int) -> str:
    return quantity(count, "B")


def _flop(tera: float) -> str:
    return quantity(tera * 1e12, "FLOP")

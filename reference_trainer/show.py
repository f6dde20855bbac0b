"""What a recipe means before anything is spent on it: parameters, memory, work, hours, disk. Nothing is loaded or computed."""

from __future__ import annotations

from typing import Any, Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from reference_trainer import estimate
from reference_trainer.blank import BlankTrainer
from reference_trainer.config import Recipe
from reference_trainer.recipe_files import flat
from sbv2bench.errors import InputError
from sbv2bench.registry import Registry

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
    """A description for people: settings, then a table each of weights, memory, disk and work."""
    console.print(
        f"recipe {description['recipe']}, latents {description['latent_size']} x {description['latent_size']}", markup=False
    )
    console.print(
        _table("settings", ("key", "value"), [(key, str(value)) for key, value in flat(description["settings"]).items()])
    )
    console.print(
        _table("parameters", ("network", "weights"), [(k, f"{v:,}") for k, v in description["parameters"].items() if v])
    )
    memory, work, time = description["memory"], description["work"], description["time"]
    rows = [(name, _gigabytes(value)) for name, value in memory["components"].items() if value]
    rows += [(f"worst of {_words(name)}", _gigabytes(value)) for name, value in memory["passes"].items()]
    rows.append(("peak", _gigabytes(memory["peak"])))
    console.print(_table(f"memory of one device, micro-batches of {memory['micro_batch']}", ("component", "GB"), rows))
    storage = description["storage"]
    rows = [("one checkpoint", _gigabytes(storage["checkpoint"]))]
    rows.append((f"disk: {storage['checkpoints_kept']} checkpoints at once", _gigabytes(storage["disk"])))
    rows += [
        (f"host memory: {_words(name.removeprefix('host_'))}", _gigabytes(value))
        for name, value in storage.items()
        if name.startswith("host_") and value
    ]
    console.print(_table("checkpoints, of the main process", ("", "GB"), rows))
    rows = [(f"TFLOP an image: {_words(name)}", f"{value:.3f}") for name, value in work["tflop_an_image"].items() if value]
    rows += [(f"passes an image: {_words(name)}", f"{value:g}") for name, value in work["passes_an_image"].items() if value]
    rows += [("images", f"{work['images']:,}"), ("pairs", f"{work['pairs']:,}")]
    once = {name.removeprefix("tflop_for_"): value for name, value in work.items() if name.startswith("tflop_for_")}
    rows += [(f"EFLOP once: {name}", f"{value / 1e6:.4g}") for name, value in once.items() if value]
    rows.append(("EFLOP in all", f"{work['tflop'] / 1e6:.4g}"))
    rows.append((f"hours at {time['tflop_per_second']:g} TFLOP/s on each of {time['processes']}", f"{time['hours']:.3g}"))
    console.print(_table("work", ("", ""), rows))
    console.print(
        f"an estimate by counting; measured on your device by: {description['measured_by']}", markup=False, soft_wrap=True
    )


def _words(name: str) -> str:
    return name.replace("_", " ")


def _table(title: str, headings: tuple[str, str], rows: list[tuple[str, str]]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(headings[0])
    table.add_column(headings[1], justify="right", overflow="fold")
    for name, value in rows:
        table.add_row(escape(name), escape(value))
    return table


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f}" if size >= 1e7 else f"{size / 1e9:.4f}"

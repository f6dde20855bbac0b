"""What a recipe means before anything is spent on it: parameters, memory, work and hours. Nothing is loaded or computed."""

from __future__ import annotations

from typing import Any, Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import nn

from reference_trainer.architectures import Blank
from reference_trainer.config import Recipe
from reference_trainer.rehearsal import Rehearsal, teacher_calls
from sbv2bench.errors import InputError
from sbv2bench.registry import Registry

A100_TFLOP_PER_SECOND = 125.0  # 40 % of its dense bfloat16 peak, what a tuned trainer of such networks reaches
_FLOAT32 = 4  # bytes
_MOMENTS = {"adamw": 8.0, "adamw8bit": 2.0 + 8 / 256}  # bytes a weight; 8 bit: two bytes, and two float32 scales for 256 weights


def describe(
    recipe: Recipe,
    *,
    latent_size: int | None = None,
    processes: int = 1,
    device: Literal["cuda", "cpu"] = "cuda",
    tflop_per_second: float = A100_TFLOP_PER_SECOND,
    registry: Registry | None = None,
) -> dict[str, Any]:
    """Parameters, bytes, operations and hours of a recipe, JSON-ready.

    latent_size: side of the latents, None for the teacher's own. processes: devices that share the batch; memory is of one.
    device: what they are; on a CPU, AdamW updates one weight tensor after another and takes no memory for it.
    tflop_per_second: that one device really does. Raises InputError or PrerequisiteError for a model whose config is not to
    be had, InputError for a batch that the processes cannot share.
    """
    if recipe.batch_size % processes:
        raise InputError(f"batch_size {recipe.batch_size}: {processes} processes cannot share it evenly")
    blank = Blank.of(recipe, registry or Registry.load())
    side = latent_size or int(blank.teacher.config.sample_size)
    rehearsal = Rehearsal(recipe, blank, side)
    work = _work(recipe, rehearsal)
    hours = work["tflop"] / tflop_per_second / processes / 3600
    return {
        "recipe": recipe.name,
        "fingerprint": recipe.fingerprint(),
        "settings": recipe.model_dump(mode="json"),
        "latent_size": side,
        "parameters": _parameters(blank),
        "memory": _memory(recipe, blank, rehearsal, processes, device),
        "work": work,
        "time": {
            "tflop_per_second": tflop_per_second,
            "processes": processes,
            "hours": hours,
            "device_days": hours * processes / 24,
        },
    }


def _parameters(blank: Blank) -> dict[str, int]:
    """Numbers of weights; those of the UNets without adapters."""
    adapter = [name for name, _ in blank.teacher.named_parameters() if "lora_" in name]
    return {
        "teacher": _count(blank.teacher) - _trained(blank.teacher),
        "student": sum(value.numel() for name, value in blank.student.named_parameters() if "lora_" not in name),
        "student_trained": _trained(blank.student),
        "lora_teacher_trained": _trained(blank.teacher),
        "lora_teacher_layers": len(adapter) // 2,
        "text_encoder": _count(blank.text_encoder),
        "vae": _count(blank.vae),
        "tiny_decoder": _count(blank.tiny_decoder),
        "scorers": sum(_count(scorer) for scorer in blank.scorers.values()),
    }


def _memory(recipe: Recipe, blank: Blank, rehearsal: Rehearsal, processes: int, device: str) -> dict[str, Any]:
    """Bytes on one of the devices that share the batch.

    components: gradients and activations at their largest, which is not at one time; the others are there all the time.
    passes: what is there besides those others at the worst moment of each part of a step. peak: with the worst of them.
    """
    batch = recipe.batch_size // processes
    micro = min(recipe.micro_batch_size or batch, batch)
    student, adapter = _trained(blank.student), _trained(blank.teacher)
    moments = _MOMENTS[recipe.optimiser.kind]
    resident = {
        "teacher": _bytes(blank.teacher) - _FLOAT32 * adapter,
        "student": _bytes(blank.student),
        "moments": int(moments * student),
        "ema": 0 if recipe.ema is None or recipe.ema_on_cpu else _FLOAT32 * student,
        "lora_teacher": int((_FLOAT32 + moments) * adapter),
        "text_encoder": _bytes(blank.text_encoder),
        "vae": _bytes(blank.vae),
        "tiny_decoder": _bytes(blank.tiny_decoder),
        "scorers": sum(_bytes(scorer) for scorer in blank.scorers.values()),
        "perceptual": _bytes(blank.perceptual),
    }
    gradients = _FLOAT32 * student
    passes, activations = {}, [0]
    if recipe.vsd is not None:
        peak = rehearsal.peak(rehearsal.student, micro)
        passes["student"] = peak.total if micro == batch else peak.activations + gradients  # gradients wait for the next
        activations.append(peak.activations)
    if recipe.regularisation is not None:
        pairs = min(recipe.micro_batch_size or batch, max(1, recipe.regularisation.batch_size // processes))
        peak = rehearsal.peak(rehearsal.regularise, pairs)
        passes["regularisation"] = peak.activations + gradients if recipe.vsd else peak.total
        activations.append(peak.activations)
    roots = _FLOAT32 * student if device == "cuda" else 0  # of all second moments at once
    passes["student_update"] = gradients + roots
    if recipe.ema is not None and not recipe.ema_on_cpu:
        passes["moving_average"] = _FLOAT32 * student  # EMAModel takes every difference at once; gradients are gone
    if recipe.lora_teacher is not None:
        peak = rehearsal.peak(rehearsal.lora_teacher, micro)
        passes["lora_teacher"] = peak.activations + _FLOAT32 * adapter
        activations.append(peak.activations)
    components = {**resident, "gradients": gradients + _FLOAT32 * adapter, "activations": max(activations)}
    return {
        "micro_batch": micro,
        "components": components,
        "passes": passes,
        "peak": sum(resident.values()) + max(passes.values()),
    }


def _work(recipe: Recipe, rehearsal: Rehearsal) -> dict[str, Any]:
    """Images, pairs, passes of a denoiser and TFLOP (an addition and a multiplication are two), of an image and in all."""
    images = recipe.steps * recipe.batch_size
    teacher, lora_teacher = teacher_calls(recipe)
    turns = recipe.lora_teacher.steps_per_student_step if recipe.lora_teacher else 0
    share = 0.0 if recipe.regularisation is None else recipe.regularisation.batch_size / recipe.batch_size
    generate = rehearsal.flops(rehearsal.generate, 1)
    parts = {"student": generate if recipe.vsd else 0, "text": rehearsal.flops(rehearsal.text, 1)}
    if recipe.vsd is not None:
        parts["teachers"] = rehearsal.flops(rehearsal.teachers, 1)
        parts["lora_teacher"] = turns * rehearsal.flops(rehearsal.lora_teacher, 1)
    for name, loss in rehearsal.scores.items():
        parts[name] = int(loss.share * rehearsal.flops(rehearsal.score, name, 1))
    making = 0
    if recipe.regularisation is not None:
        parts["regularisation"] = int(share * (generate + rehearsal.flops(rehearsal.distance, 1)))
        if recipe.regularisation.kind == "paired":
            calls = recipe.regularisation.teacher_steps * (2 if recipe.regularisation.teacher_guidance_scale > 1.0 else 1)
            making = recipe.regularisation.pairs * calls * rehearsal.flops(rehearsal.frozen_teacher, 1)
    passes = {
        "student": (1.0 if recipe.vsd else 0.0) + share,
        "teacher_without_gradient": float(teacher),
        "lora_teacher_without_gradient": float(lora_teacher),
        "lora_teacher": float(turns),
    }
    tflop = {name: value / 1e12 for name, value in parts.items()}
    pairs_tflop = making / 1e12
    return {
        "images": images,
        "pairs": recipe.regularisation.pairs if recipe.regularisation else 0,
        "passes_an_image": passes,
        "passes": images * sum(passes.values()),
        "tflop_an_image": {**tflop, "total": sum(tflop.values())},
        "tflop_for_pairs": pairs_tflop,
        "tflop": images * sum(tflop.values()) + pairs_tflop,
    }


def print_description(description: dict[str, Any], console: Console) -> None:
    """A description for people: settings, then a table each of weights, memory and work."""
    console.print(
        f"recipe {description['recipe']}, latents {description['latent_size']} x {description['latent_size']}", markup=False
    )
    console.print(_table("settings", ("key", "value"), _flat(description["settings"])))
    console.print(
        _table("parameters", ("network", "weights"), [(k, f"{v:,}") for k, v in description["parameters"].items() if v])
    )
    memory, work, time = description["memory"], description["work"], description["time"]
    rows = [(name, _gigabytes(value)) for name, value in memory["components"].items() if value]
    rows += [(f"worst of {name.replace('_', ' ')}", _gigabytes(value)) for name, value in memory["passes"].items()]
    rows.append(("peak", _gigabytes(memory["peak"])))
    console.print(_table(f"memory of one device, micro-batches of {memory['micro_batch']}", ("component", "GB"), rows))
    rows = [(f"TFLOP an image: {name}", f"{value:.3f}") for name, value in work["tflop_an_image"].items()]
    rows += [(f"passes an image: {name.replace('_', ' ')}", f"{value:g}") for name, value in work["passes_an_image"].items()]
    rows += [("images", f"{work['images']:,}"), ("pairs", f"{work['pairs']:,}"), ("EFLOP in all", f"{work['tflop'] / 1e6:.4g}")]
    rows.append((f"hours at {time['tflop_per_second']:g} TFLOP/s on each of {time['processes']}", f"{time['hours']:.3g}"))
    console.print(_table("work", ("", ""), rows))


def _table(title: str, headings: tuple[str, str], rows: list[tuple[str, str]]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(headings[0])
    table.add_column(headings[1], justify="right", overflow="fold")
    for name, value in rows:
        table.add_row(escape(name), escape(value))
    return table


def _flat(tree: dict[str, Any], above: str = "") -> list[tuple[str, str]]:
    """Every leaf as (dotted key, value)."""
    rows: list[tuple[str, str]] = []
    for key, value in tree.items():
        rows += _flat(value, f"{above}{key}.") if isinstance(value, dict) else [(f"{above}{key}", str(value))]
    return rows


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f}" if size >= 1e7 else f"{size / 1e9:.4f}"


def _count(network: nn.Module | None) -> int:
    return 0 if network is None else sum(parameter.numel() for parameter in network.parameters())


def _trained(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def _bytes(network: nn.Module | None) -> int:
    """Of weights and buffers."""
    if network is None:
        return 0
    return sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers()))

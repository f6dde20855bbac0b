"""What a recipe takes, by counting: work in floating-point operations, bytes on a device, in the host's memory and on disk.

Costs are counted once a recipe, a sample through each part; what a run of so many steps takes is arithmetic on them, so that
a budget can ask for many lengths. Not counted: scorers' text, extractors of the measurement in the loop, held-out losses, reading
and writing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from reference_trainer.architectures import Blank
from reference_trainer.config import Recipe
from reference_trainer.pairs import AT_ONCE as PAIRS_AT_ONCE
from reference_trainer.pictures import GRID, PANELS
from reference_trainer.rehearsal import Rehearsal, teacher_calls
from reference_trainer.step import MOMENT_BYTES
from sbv2bench.registry import Registry
from sbv2bench.specs import SuiteSpec

PICTURES = 4  # at most so many images a decode of grids and panels
_FLOAT32 = 4  # bytes


@dataclass(frozen=True)
class Costs:
    """Floating-point operations of one sample through each part; 0 where a recipe does not use it.

    student: without gradient; generate: with its backward pass. teachers: all predictions of the student's loss. frozen: one
    prediction of the frozen teacher. lora_teacher: its update. scores: "clip", "hps", there and back. decode: by the teacher's
    decoder; show: by the panels' own. encode: of a real picture.
    """

    text: int
    student: int
    generate: int
    teachers: int = 0
    frozen: int = 0
    lora_teacher: int = 0
    scores: dict[str, int] = field(default_factory=dict)
    distance: int = 0
    decode: int = 0
    show: int = 0
    encode: int = 0


def costs(recipe: Recipe, rehearsal: Rehearsal) -> Costs:
    """Count a recipe's parts, one sample each."""
    count = rehearsal.flops
    regularisation = recipe.regularisation
    return Costs(
        text=count(rehearsal.text, 1),
        student=count(rehearsal.images, 1),
        generate=count(rehearsal.generate, 1),
        teachers=count(rehearsal.teachers, 1) if recipe.vsd else 0,
        frozen=count(rehearsal.frozen_teacher, 1) if regularisation and regularisation.kind == "paired" else 0,
        lora_teacher=count(rehearsal.lora_teacher, 1) if recipe.lora_teacher else 0,
        scores={name: count(rehearsal.score, name, 1) for name in rehearsal.scores},
        distance=count(rehearsal.distance, 1) if regularisation else 0,
        decode=count(rehearsal.decode, 1, "full"),
        show=count(rehearsal.decode, 1, "tiny" if recipe.tiny_decoder else "full") if recipe.vsd else 0,
        encode=count(rehearsal.encode, 1) if regularisation and regularisation.kind == "real" else 0,
    )


def work(recipe: Recipe, cost: Costs, measured: int = 0) -> dict[str, Any]:
    """Images, pairs, passes of a denoiser and TFLOP (an addition and a multiplication are two), of an image and in all.

    measured: images of one measurement in the loop.
    """
    images = recipe.steps * recipe.batch_size
    teacher, lora_teacher = teacher_calls(recipe)
    turns = recipe.lora_teacher.steps_per_student_step if recipe.lora_teacher else 0
    share = 0.0 if recipe.regularisation is None else recipe.regularisation.batch_size / recipe.batch_size
    fresh = max(0, turns - 1)  # each update of the LoRA teacher but the first makes images of its own
    parts: dict[str, float] = {"student": cost.generate if recipe.vsd else 0, "text": cost.text if recipe.vsd else 0}
    if recipe.vsd is not None:
        parts |= {"teachers": cost.teachers, "lora_teacher": turns * cost.lora_teacher}
    if fresh:
        parts["fresh_images"] = fresh * (cost.student + cost.text)
    for name, loss in (("clip", recipe.clip), ("hps", recipe.hps)):
        if loss is not None:
            parts[name] = loss.share * cost.scores[name]
    if recipe.regularisation is not None:
        parts["regularisation"] = share * (cost.generate + cost.text + cost.distance)
    tflop = {name: value / 1e12 for name, value in parts.items()}
    once = {name: value / 1e12 for name, value in _once(recipe, cost, measured).items()}
    passes = {
        "student": (1.0 if recipe.vsd else 0.0) + share,
        "student_without_gradient": float(fresh),
        "teacher_without_gradient": float(teacher),
        "lora_teacher_without_gradient": float(lora_teacher),
        "lora_teacher": float(turns),
    }
    return {
        "images": images,
        "pairs": recipe.regularisation.pairs if recipe.regularisation else 0,
        "passes_an_image": passes,
        "passes": images * sum(passes.values()),
        "tflop_an_image": {**tflop, "total": sum(tflop.values())},
        **{f"tflop_for_{name}": value for name, value in once.items()},
        "tflop": images * sum(tflop.values()) + sum(once.values()),
    }


def _once(recipe: Recipe, cost: Costs, measured: int) -> dict[str, float]:
    """Operations besides the steps: pairs, the LoRA teacher's warm-up, grids and panels, measurements in the loop."""
    pairs = 0
    if recipe.regularisation is not None:
        settings = recipe.regularisation
        calls = settings.teacher_steps * (2 if settings.teacher_guidance_scale > 1.0 else 1)
        pairs = settings.pairs * (cost.encode if settings.kind == "real" else calls * cost.frozen + cost.text)
    sample = cost.text + cost.student
    warmup = recipe.lora_teacher.warmup_steps * recipe.batch_size if recipe.lora_teacher else 0
    looks = 1 + math.ceil(recipe.steps / recipe.sample_every)
    look = GRID * (sample + cost.decode) + (PANELS * (sample + cost.teachers + 3 * cost.show) if recipe.vsd else 0)
    measurements = recipe.steps // recipe.measure.every if recipe.measure else 0
    return {
        "pairs": pairs,
        "warmup": warmup * (sample + cost.lora_teacher),
        "pictures": looks * look,
        "measurement": measurements * measured * (sample + cost.decode),
    }


def hours(found: dict[str, Any], processes: int, tflop_per_second: float) -> float:
    """Of work on so many devices that each do `tflop_per_second`; one of them makes the pictures while the others wait."""
    alone = found["tflop_for_pictures"]
    return float(((found["tflop"] - alone) / processes + alone) / tflop_per_second / 3600)


def measured_suite(recipe: Recipe, registry: Registry) -> tuple[SuiteSpec | None, int]:
    """The suite of the measurement in the loop and its images; (None, 0) without one. Raises InputError for an unknown one."""
    if recipe.measure is None:
        return None, 0
    suite = registry.suite(recipe.measure.suite)
    return suite, min(suite.num_generated, recipe.measure.limit or suite.num_generated)


def parameters(blank: Blank) -> dict[str, int]:
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


def memory(
    recipe: Recipe, blank: Blank, rehearsal: Rehearsal, processes: int, *, device: str, suite: SuiteSpec | None = None
) -> dict[str, Any]:
    """Bytes on one of the devices that share the batch.

    components: gradients and activations at their largest, which is not at one time; the others are there all the time.
    passes: what is there besides those others at the worst moment of each part of a run. peak: with the worst of them.
    """
    batch = recipe.batch_size // processes
    micro = min(recipe.micro_batch_size or batch, batch)
    student, adapter = _trained(blank.student), _trained(blank.teacher)
    moments = MOMENT_BYTES[recipe.optimiser.kind]
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
        if recipe.lora_teacher.steps_per_student_step > 1 or recipe.lora_teacher.warmup_steps:
            passes["fresh_images"] = rehearsal.peak(rehearsal.images, micro).total
    if recipe.regularisation is not None:
        passes["pairs"] = rehearsal.peak(rehearsal.make_pairs, recipe.micro_batch_size or PAIRS_AT_ONCE).total
    under = _FLOAT32 * student if recipe.ema and device == "cpu" else 0  # the weights that wait while the average stands in
    passes["pictures"] = _pictures(recipe, rehearsal, student, under)
    if suite is not None:
        passes["measurement"] = rehearsal.peak(rehearsal.sample, suite.block_size).total + under
    later = {"pairs": resident["moments"]}  # pairs are made before the optimisers' first step
    components = {**resident, "gradients": gradients + _FLOAT32 * adapter, "activations": max(activations)}
    return {
        "micro_batch": micro,
        "components": components,
        "passes": passes,
        "peak": sum(resident.values()) + max(value - later.get(name, 0) for name, value in passes.items()),
    }


def _pictures(recipe: Recipe, rehearsal: Rehearsal, student: int, under: int) -> int:
    """Bytes of a sample grid and of the panels, a few images at a time, at the worse moment; gradients are gone.

    under: of the weights that wait while the average stands in for them, where they wait on the device.
    """
    count = pictures_at_once(recipe)
    grid = rehearsal.peak(rehearsal.sample, count).total + under
    panels = rehearsal.peak(rehearsal.panels, count).total if recipe.vsd else 0
    back = _FLOAT32 * student if recipe.ema else 0  # all the weights, copied on their way back
    return max(grid, panels, back)


def pictures_at_once(recipe: Recipe) -> int:
    """Images of one decode of a grid or of panels."""
    return min(recipe.micro_batch_size or PICTURES, PICTURES)


def storage(recipe: Recipe, blank: Blank) -> dict[str, int]:
    """Bytes of checkpoints on disk, and in the main process's host memory.

    One checkpoint more than `keep_checkpoints` is there while the newest is written, from a copy in host memory. The weights
    wait in host memory while the average stands in for them.
    """
    student, adapter = _trained(blank.student), _trained(blank.teacher)
    average = _FLOAT32 * student if recipe.ema else 0
    moments = MOMENT_BYTES[recipe.optimiser.kind]
    checkpoint = int((_FLOAT32 + moments) * (student + adapter)) + average
    kept = min(recipe.keep_checkpoints + 1, math.ceil(recipe.steps / recipe.checkpoint_every))
    host = {"snapshot": checkpoint, "ema": average if recipe.ema_on_cpu else 0, "weights_under_the_average": average}
    return {
        "checkpoint": checkpoint,
        "checkpoints_kept": kept,
        "disk": kept * checkpoint,
        **{f"host_{name}": value for name, value in host.items()},
        "host": sum(host.values()),
    }


def _count(network: nn.Module | None) -> int:
    return 0 if network is None else sum(parameter.numel() for parameter in network.parameters())


def _trained(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def _bytes(network: nn.Module | None) -> int:
    """Of weights and buffers."""
    if network is None:
        return 0
    return sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers()))

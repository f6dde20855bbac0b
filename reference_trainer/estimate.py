"""What a recipe takes, by counting: work in floating-point operations, bytes on a device, in the host's memory and on disk.

Costs are counted once a recipe, a sample through each part; what a run of so many steps takes is arithmetic on them, so that
a budget can ask for many lengths. Not counted: scorers' text, extractors of the measurement in the loop, held-out losses, reading
and writing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from reference_trainer import pictures
from reference_trainer.blank import BlankTrainer
from reference_trainer.config import Recipe
from reference_trainer.networks import Networks
from reference_trainer.pairs import encode, pairs_at_once
from reference_trainer.report import Report
from reference_trainer.step import MOMENT_BYTES, Generated
from reference_trainer.terms import Batch, Learner, Term, gradient_at
from sbv2bench.registry import Registry
from sbv2bench.samplers.base import PromptBlock, Stopwatch
from sbv2bench.specs import SuiteSpec

_FLOAT32 = 4  # bytes


@dataclass(frozen=True)
class Costs:
    """Floating-point operations of one sample through each part; 0 where a recipe does not use it.

    student: without gradient; generate: with its backward pass. terms: each of the student's, there and back to the images,
    times the share of samples that it looks at. frozen: one prediction of the frozen teacher. lora_teacher: its update.
    decode: by the teacher's decoder; show: by the panels' own. encode: of a real picture.
    """

    text: int
    student: int
    generate: int
    terms: dict[str, float] = field(default_factory=dict)
    frozen: int = 0
    lora_teacher: int = 0
    decode: int = 0
    show: int = 0
    encode: int = 0


def costs(trainer: BlankTrainer) -> Costs:
    """Count a recipe's parts, one sample each."""
    networks, recipe, count = trainer.networks, trainer.recipe, trainer.flops
    z, text = trainer.latents(1), networks.null_text
    settings = recipe.regularisation

    def images() -> None:
        with torch.no_grad():
            networks.generate(z, text)

    def there_and_back() -> None:
        x0 = networks.generate(z, text)
        x0.backward(torch.empty_like(x0))  # type: ignore[no-untyped-call]

    def lora_teacher() -> None:
        assert recipe.lora_teacher is not None
        trainer.lora_teacher_batch(recipe.lora_teacher, 0, [Generated([0], text, z)], Report())

    def decode(decoder: str) -> int:
        with torch.no_grad():
            return count(lambda: networks.pixels(z, decoder))

    return Costs(
        text=count(lambda: networks.encode_text([""])),
        student=count(images),
        generate=count(there_and_back),
        terms={term.name: _term_cost(trainer, term) for term in trainer.terms},
        frozen=count(lambda: _frozen_teacher(trainer, 1)) if settings and settings.kind == "paired" else 0,
        lora_teacher=count(lora_teacher) if recipe.lora_teacher else 0,
        decode=decode("full"),
        show=decode("tiny" if recipe.tiny_decoder else "full") if recipe.vsd else 0,
        encode=count(lambda: _encode(trainer, 1)) if settings and settings.kind == "real" else 0,
    )


def _term_cost(trainer: BlankTrainer, term: Term) -> float:
    """Of a sample, on the average of those that the term looks at and those that it does not."""
    size = trainer.pairs.batch_size if term.source == "pairs" and trainer.pairs else trainer.recipe.batch_size
    found = 0.0

    def measure(batch: Batch) -> None:
        nonlocal found
        leaf = trainer.latents(1).requires_grad_()
        measured = term.measure(leaf, batch)
        if measured is not None:
            found = measured.count / size
            gradient_at(leaf, measured)
        if isinstance(term, Learner):
            term.learn(leaf.detach(), batch, term.network).loss.sum().backward()  # type: ignore[no-untyped-call]

    for row in range(size):
        with trainer.values_at_hand():
            batch = trainer.batch(term.source, [row])
        operations = trainer.flops(partial(measure, batch))
        if found:
            return found * operations
    return 0.0


def _frozen_teacher(trainer: BlankTrainer, count: int) -> None:
    """Predictions of the frozen teacher as pairs ask for them, guided or not by the batch's size alone."""
    parts, text = trainer.networks.components, trainer.networks.null_text
    with torch.no_grad():
        parts.predict(trainer.latents(count), 0, text.expand(count, -1, -1), 1.0)


def _encode(trainer: BlankTrainer, count: int) -> None:
    parts = trainer.networks.components
    pictures = torch.empty(count, parts.vae.config.in_channels, parts.resolution, parts.resolution, device="meta")
    with torch.no_grad():
        encode(trainer.networks, pictures)


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
    parts |= {"teachers" if name == "vsd" else name: cost.terms[name] for name in cost.terms if name != "regularisation"}
    if recipe.lora_teacher is not None:
        parts["lora_teacher"] = turns * cost.lora_teacher
    if fresh:
        parts["fresh_images"] = fresh * (cost.student + cost.text)
    if recipe.regularisation is not None:
        parts["regularisation"] = share * (cost.generate + cost.text + cost.terms["regularisation"])
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
    look = pictures.GRID * (sample + cost.decode) + (
        pictures.PANELS * (sample + cost.terms["vsd"] + 3 * cost.show) if recipe.vsd else 0
    )
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


def teacher_calls(recipe: Recipe) -> tuple[int, int]:
    """UNet passes an image of the frozen teacher and of the LoRA teacher in the student's loss; guidance takes two."""
    if recipe.vsd is None:
        return 0, 0
    scale, own = recipe.vsd.teacher_guidance_scale, recipe.vsd.lora_teacher_guidance_scale
    return 1 if scale == 1.0 else 2, 1 if (scale if own == "same" else own) == 1.0 else 2


def parameters(networks: Networks) -> dict[str, int]:
    """Numbers of weights; those of the UNets without adapters."""
    adapter = [name for name, _ in networks.teacher.named_parameters() if "lora_" in name]
    return {
        "teacher": _count(networks.teacher) - _trained(networks.teacher),
        "student": sum(value.numel() for name, value in networks.student.named_parameters() if "lora_" not in name),
        "student_trained": _trained(networks.student),
        "lora_teacher_trained": _trained(networks.teacher),
        "lora_teacher_layers": len(adapter) // 2,
        "text_encoder": _count(networks.components.text_encoder),
        "vae": _count(networks.components.vae),
        "tiny_decoder": _count(networks.tiny_decoder),
        "scorers": sum(_count(scorer.model) for scorer in networks.scorers.values()),
    }


def memory(recipe: Recipe, trainer: BlankTrainer, *, device: str, suite: SuiteSpec | None = None) -> dict[str, Any]:
    """Bytes on one of the devices that share the batch, of which the trainer is one.

    components: gradients and activations at their largest, which is not at one time; the others are there all the time.
    passes: what is there besides those others at the worst moment of each part of a run. peak: with the worst of them.
    """
    networks, parts = trainer.networks, trainer.networks.components
    student, adapter = _trained(networks.student), _trained(networks.teacher)
    moments = MOMENT_BYTES[recipe.optimiser.kind]
    resident = {
        "teacher": _bytes(networks.teacher) - _FLOAT32 * adapter,
        "student": _bytes(networks.student),
        "moments": int(moments * student),
        "ema": 0 if recipe.ema is None or recipe.ema_on_cpu else _FLOAT32 * student,
        "lora_teacher": int((_FLOAT32 + moments) * adapter),
        "text_encoder": _bytes(parts.text_encoder),
        "vae": _bytes(parts.vae),
        "tiny_decoder": _bytes(networks.tiny_decoder),
        "scorers": sum(_bytes(scorer.model) for scorer in networks.scorers.values()),
        "losses": sum(int((1 + moments / _FLOAT32) * _bytes(learner.network)) for learner in trainer.learners.values()),
        "perceptual": _bytes(trainer.pairs.perceptual) if trainer.pairs else 0,
    }
    peaks = trainer.step_peaks()
    activations = max(
        [0, *(alone for name, (_, alone) in peaks.items() if name in {"student", "regularisation", "lora_teacher"})]
    )
    shared = _FLOAT32 * (student + adapter) if trainer.sharing else 0
    passes = {
        name: alone + shared if shared else total for name, (total, alone) in peaks.items() if name != "lora_teacher_update"
    }
    if recipe.regularisation is not None:
        passes["pairs"] = trainer.peak(lambda: _make_pairs(trainer, pairs_at_once(recipe)))
    under = _FLOAT32 * student if recipe.ema and device == "cpu" else 0  # the weights that wait while the average stands in
    passes["pictures"] = _pictures(trainer, student, under)
    if suite is not None:
        passes["measurement"] = trainer.peak(lambda: _sample(trainer, suite.block_size)) + under
    later = {"pairs": resident["moments"]}  # pairs are made before the optimisers' first step
    components = {**resident, "gradients": _FLOAT32 * (student + adapter), "activations": activations}
    return {
        "micro_batch": trainer.recipe.micro_batch_size,
        "components": components,
        "passes": passes,
        "peak": sum(resident.values()) + max(value - later.get(name, 0) for name, value in passes.items()),
    }


def _make_pairs(trainer: BlankTrainer, count: int) -> None:
    settings = trainer.recipe.regularisation
    assert settings is not None
    if settings.kind == "real":
        _encode(trainer, count)
    else:
        _frozen_teacher(trainer, count * (2 if settings.teacher_guidance_scale > 1.0 else 1))


def _sample(trainer: BlankTrainer, count: int) -> None:
    """A block of so many images, as a grid or a measurement takes it."""
    block = PromptBlock(0, 0, count, ("",) * count, tuple(range(count)))
    pictures.StudentSampler.of_training(trainer.networks).generate(block, Stopwatch("cpu"))


def _pictures(trainer: BlankTrainer, student: int, under: int) -> int:
    """Bytes of a sample grid and of the panels, a few images at a time, at the worse moment; gradients are gone.

    under: of the weights that wait while the average stands in for them, where they wait on the device.
    """
    recipe, networks = trainer.recipe, trainer.networks
    count = pictures.at_once(networks)
    grid = trainer.peak(lambda: _sample(trainer, count)) + under
    panels = trainer.peak(lambda: pictures.panels(networks, [""] * count, 0, 0)) if recipe.vsd else 0
    back = _FLOAT32 * student if recipe.ema else 0  # all the weights, copied on their way back
    return max(grid, panels, back)


def storage(recipe: Recipe, networks: Networks) -> dict[str, int]:
    """Bytes of checkpoints on disk, and in the main process's host memory.

    One checkpoint more than `keep_checkpoints` is there while the newest is written, from a copy in host memory. The weights
    wait in host memory while the average stands in for them.
    """
    student, adapter = _trained(networks.student), _trained(networks.teacher)
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

"""The same captions and noise through several models, to be looked at side by side."""

from __future__ import annotations

from collections.abc import Sequence

from sbv2bench.data.assets import resolve_location
from sbv2bench.data.images import ImageFolder
from sbv2bench.data.prompts import load_prompts
from sbv2bench.errors import InputError
from sbv2bench.evaluation.options import EvalOptions
from sbv2bench.machine.checks import available_device, check_packages, chosen_dtype
from sbv2bench.machine.memory import chosen_placement
from sbv2bench.machine.processes import exact_arithmetic
from sbv2bench.registry import Registry
from sbv2bench.report.picture import Grid
from sbv2bench.samplers.base import Images, PromptBlock, Stopwatch, image_seed
from sbv2bench.samplers.placement import Placement
from sbv2bench.specs import ModelSpec, SuiteSpec


def sample_grid(
    models: Sequence[str | ModelSpec],
    suite: str,
    captions: Sequence[int],
    seeds: Sequence[int],
    registry: Registry,
    *,
    device: str = "auto",
    dtype: str = "auto",
    offload: str = "none",
) -> Grid:
    """Sample some captions of a suite with every model, each as `sbv2bench eval` samples it: the same image of (seed, caption).

    models: ids, folders or hub ids, or how one is sampled; captions: their numbers, from 0.
    Raises InputError for names, numbers and options before
    anything is loaded, and what loading raises.
    """
    chosen = registry.suite(suite)
    if not models or not captions or not seeds:
        raise InputError("grid: expected at least one model, one caption and one seed", "sbv2bench grid sd21 swiftbrush")
    _check_captions(captions, chosen)
    for seed in seeds:
        options = EvalOptions.validated(
            seed=seed, device=device, dtype=dtype, offload=offload
        )  # the words that eval has for them
    check_packages()
    place = available_device(device)
    from sbv2bench.samplers.defaults import hashed  # by the files' hashes its images are known for those of a result

    named = [registry.model(model, chosen) if isinstance(model, str) else model for model in models]
    specs = [hashed(spec, chosen_dtype(dtype, place, spec), lambda end: registry.model(end, chosen)) for spec in named]
    for spec in specs:
        if spec.images == "files":
            _check_images(spec, captions)
    wheres = [(place, chosen_dtype(dtype, place, spec)) for spec in specs]
    placed = [chosen_placement(spec, registry, where, options.offload, 1) for spec, where in zip(specs, wheres, strict=True)]
    prompts = load_prompts(chosen, max(2, max(captions) + 1))
    columns = tuple((number, seed) for number in captions for seed in seeds)
    texts = tuple(prompts.captions[number] for number, _ in columns)
    # One block each: caption `number` is the same image whatever stands beside it.
    blocks = [
        PromptBlock(number, number, 1, (text,), (image_seed(seed, number),))
        for text, (number, seed) in zip(texts, columns, strict=True)
    ]
    with exact_arithmetic():
        pairs = zip(specs, wheres, placed, strict=True)
        images = tuple(_sampled(spec, blocks, where, placement, registry) for spec, where, placement in pairs)
    return Grid(chosen.id, tuple(specs), columns, texts, images)


def _check_images(spec: ModelSpec, captions: Sequence[int]) -> None:
    """Raises InputError for a caption beyond a folder's images."""
    count = len(ImageFolder(resolve_location(spec.location)))
    if max(captions) >= count:
        here = ",".join(str(number) for number in range(min(count, 6)))
        raise InputError(f"--captions: found {max(captions)}, {spec.location} has images 0 to {count - 1}", f"--captions {here}")


def _check_captions(numbers: Sequence[int], suite: SuiteSpec) -> None:
    for number in numbers:
        if not 0 <= number < suite.num_generated:
            raise InputError(
                f"--captions: found {number}, expected numbers from 0 to {suite.num_generated - 1}, those of suite {suite.id}"
            )


def _sampled(
    spec: ModelSpec, blocks: Sequence[PromptBlock], where: tuple[str, str], placement: Placement, registry: Registry
) -> Images:
    import numpy as np
    import torch

    from sbv2bench.samplers import load_sampler

    device, dtype = where
    sampler = load_sampler(spec, device, getattr(torch, dtype), registry, placement)
    return np.concatenate([sampler.generate(block, Stopwatch(device)) for block in blocks])

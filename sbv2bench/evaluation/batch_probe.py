"""How many images a GPU has room for at a time: tried out with a few, then remembered for that device and that model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace

import torch

from sbv2bench import paths, provenance
from sbv2bench.atomic import known_json, write_whole
from sbv2bench.evaluation.block_size import free_memory, is_out_of_memory
from sbv2bench.evaluation.options import LARGEST_BLOCK
from sbv2bench.evaluation.plan import EvalPlan
from sbv2bench.samplers.base import PromptBlock, Sampler, Stopwatch
from sbv2bench.specs import fingerprint

FILE = "batch-sizes.json"  # in the cache: {key: images}
_TRIED = (2, 8)  # images: two points of a line
_SHARE = 0.85  # of the device: kernels of larger batches may take more than a line says


def largest_batch(plan: EvalPlan, sampler: Sampler, block: PromptBlock) -> int:
    """The largest power of two up to LARGEST_BLOCK that fits; of a known device and model without a trial.

    Extractors are loaded by then, and images are small beside what makes them. Raises what sampling raises, but for memory
    that runs out: the last size that did fit is taken then.
    """
    known = _known().get(key_of(plan))
    if isinstance(known, int) and 1 <= known <= LARGEST_BLOCK:
        return known
    peaks: dict[int, int] = {}
    for count in _TRIED:
        try:
            peaks[count] = peak_bytes(sampler, block, count, plan.device)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            free_memory()
            break
    size = fitting(peaks, room_bytes(plan.device)) if len(peaks) == len(_TRIED) else max(peaks, default=1)
    remember(plan, size)
    return size


def remember(plan: EvalPlan, size: int) -> None:
    """The next run of this model on this device begins with that size. What cannot be written is found again."""
    path = paths.home() / FILE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(_known() | {key_of(plan): size}, indent=1))
    except OSError:
        pass


def _known() -> dict[str, object]:
    found = known_json(paths.home() / FILE)
    return found if isinstance(found, dict) else {}


def key_of(plan: EvalPlan) -> str:
    """What decides how much memory an image takes: the device, the model as it is sampled, how it is held."""
    where = [provenance.device_name(plan.device), room_bytes(plan.device), plan.dtype, torch.__version__]
    return fingerprint([*where, plan.model.protocol(), asdict(plan.placement) if plan.placement else None])


def fitting(peaks: Mapping[int, int], room: int) -> int:
    """The largest power of two, up to LARGEST_BLOCK and at least 1, whose bytes fit by the line through two measured peaks."""
    (few, less), (more, most) = sorted(peaks.items())
    each = max((most - less) / (more - few), 1.0)
    size = 1
    while 2 * size <= LARGEST_BLOCK and less + (2 * size - few) * each <= room:
        size *= 2
    return size


def peak_bytes(sampler: Sampler, block: PromptBlock, count: int, device: str) -> int:
    """Bytes that tensors take on a CUDA device at the worst moment of making so many images."""
    rows = [row % len(block.captions) for row in range(count)]
    captions, seeds = tuple(block.captions[row] for row in rows), tuple(block.noise_seeds[row] for row in rows)
    torch.cuda.reset_peak_memory_stats(device)
    sampler.generate(replace(block, count=count, captions=captions, noise_seeds=seeds), Stopwatch(device))
    return torch.cuda.max_memory_allocated(device)


def room_bytes(device: str) -> int:
    """Bytes of a CUDA device that a run may fill."""
    return int(_SHARE * torch.cuda.get_device_properties(device).total_memory)

"""Prompts to blocks to images: which captions are sampled together, and with which noise (design 1.5, 1.6)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from sbv2bench.atomic import whole_folder
from sbv2bench.data.prompts import Prompts
from sbv2bench.errors import IntegrityError
from sbv2bench.runs.plan import EvalPlan
from sbv2bench.samplers.base import Images, PromptBlock, Sampler, Stopwatch, image_seed

SAMPLE = 32  # images of --save-images sample


def blocks(plan: EvalPlan, prompts: Prompts, seed: int) -> list[PromptBlock]:
    """The compute blocks of a seed, in order; the last one is filled up by repeating its last caption and noise.

    The noise of caption i is seeded by a hash of (seed, i) alone: not by its block, nor by the number of captions.
    """
    size = plan.block_size
    return [_block(prompts, seed, start, min(size, len(prompts) - start), size) for start in range(0, len(prompts), size)]


def _block(prompts: Prompts, seed: int, start: int, count: int, size: int) -> PromptBlock:
    rows = [*range(start, start + count), *[start + count - 1] * (size - count)]
    return PromptBlock(
        index=start // size,
        first=prompts.first_index + start,
        count=count,
        captions=tuple(prompts.captions[row] for row in rows),
        noise_seeds=tuple(image_seed(seed, prompts.first_index + row) for row in rows),
    )


def saved_count(plan: EvalPlan) -> int:
    """How many images --save-images asks for: the first ones of the first seed."""
    return {"none": 0, "sample": min(SAMPLE, len(plan.prompts)), "all": len(plan.prompts)}[plan.options.save_images]


def save_images(plan: EvalPlan, sampler: Sampler, at_hand: Mapping[int, Images], folder: Path) -> None:
    """Write the images asked for as `<folder>/00000000.png`, ... by caption number; all of them or nothing.

    at_hand: images by block, from the measuring pass; the others are sampled again, which gives the same images.
    Raises IntegrityError if the disk is full.
    """
    count = saved_count(plan)
    try:
        with whole_folder(folder) as partial:
            for block in blocks(plan, plan.prompts, plan.seeds[0]):
                if block.first - plan.prompts.first_index >= count:
                    break
                images = at_hand[block.index] if block.index in at_hand else sampler.generate(block, Stopwatch(plan.device))
                for row in range(min(block.count, count - (block.first - plan.prompts.first_index))):
                    Image.fromarray(images[row]).save(partial / f"{block.first + row:08d}.png")
    except OSError as error:
        raise IntegrityError(f"{folder}: images cannot be written ({error.strerror or error})", "--save-images none") from error

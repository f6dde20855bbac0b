"""Prompts to blocks to images: which captions are sampled together, and with which noise."""

from __future__ import annotations

from sbv2bench.data.prompts import Prompts
from sbv2bench.evaluation.plan import EvalPlan
from sbv2bench.samplers.base import PromptBlock, image_seed

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


def grid_rows(plan: EvalPlan) -> list[int]:
    """Rows of the captions in the grid of a suite to look at: the first of each of as many equal parts of its list."""
    step = plan.suite.num_generated / max(1, plan.suite.look)
    return sorted({int(number * step) for number in range(plan.suite.look)})

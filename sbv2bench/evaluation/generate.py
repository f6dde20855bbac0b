"""Prompts to blocks to images: which captions are sampled together, and with which noise."""

from __future__ import annotations

from sbv2bench.data.prompts import Prompts
from sbv2bench.evaluation.plan import EvalPlan
from sbv2bench.samplers.base import PromptBlock, image_seed

SAMPLE = 32  # images of --save-images sample


def blocks(plan: EvalPlan, prompts: Prompts, seed: int, k: int = 0) -> list[PromptBlock]:
    """The compute blocks of image k of every caption of a seed, in order; the last one is filled up by repeating its last row.

    The noise of caption i is seeded by a hash of (seed, i, k) alone: not by its block, nor by the number of captions or images.
    """
    size, found = plan.block_size, []
    for start in range(0, len(prompts), size):
        count = min(size, len(prompts) - start)
        rows = [*range(start, start + count), *[start + count - 1] * (size - count)]
        captions = tuple(prompts.captions[row] for row in rows)
        seeds = tuple(image_seed(seed, prompts.first_index + row, k) for row in rows)
        found.append(PromptBlock(start // size, prompts.first_index + start, count, captions, seeds, seed=seed, k=k))
    return found


def saved_count(plan: EvalPlan) -> int:
    """How many images --save-images asks for: the first ones of the first seed."""
    return {"none": 0, "sample": min(SAMPLE, len(plan.prompts)), "all": len(plan.prompts)}[plan.options.save_images]


def grid_rows(plan: EvalPlan) -> list[int]:
    """Rows of the captions in the grid of a suite to look at: the first of each of as many equal parts of its list."""
    step = plan.suite.num_generated / max(1, plan.suite.look)
    return sorted({int(number * step) for number in range(plan.suite.look)})

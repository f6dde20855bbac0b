"""Quick latency: a few single images by the clock. An indication from a machine that may be doing other things."""

from __future__ import annotations

import time

import numpy as np

from sbv2bench.data.prompts import Prompts
from sbv2bench.latency.timing import Sample, timed
from sbv2bench.machine.processes import cores, threads
from sbv2bench.machine.waiting import is_busy, waiting
from sbv2bench.samplers.base import PromptBlock, Sampler, image_seed

SECONDS = 8.0  # with the last image that begins within them, under 10 s for any model of a second an image
MOST_RUNS = 50  # the paper's count (section 7.5)


def quick_latency(sampler: Sampler, prompts: Prompts, seed: int = 0, device: str = "cpu") -> dict[str, object]:
    """Wall time of single images, caption to pixels, one after another, after a warm-up, with every core.

    Returns milliseconds: "median_ms", "p5_ms", "p95_ms", "stages_ms" {stage: median}, and "runs", "warm_up", "batch_size",
    "threads", "waited" (share of the time in line for a core, None: not known), "busy" (too much of it), "protocol".
    Stops after 50 runs or 8 s, whichever is first; at least one run is timed.
    """
    with threads(cores()):
        began = time.perf_counter()
        _one(sampler, prompts, 0, seed, device)
        runs: list[Sample] = []
        waited = waiting()
        while not runs or (len(runs) < MOST_RUNS and time.perf_counter() - began < SECONDS):
            runs.append(_one(sampler, prompts, len(runs) % len(prompts), seed, device))
        share = waited()
    low, median, high = np.percentile(1000.0 * np.array([run.total for run in runs]), [5, 50, 95])
    stages = {name: 1000.0 * float(np.median([run.stages.get(name, 0.0) for run in runs])) for name in runs[0].stages}
    return {
        "median_ms": float(median),
        "p5_ms": float(low),
        "p95_ms": float(high),
        "stages_ms": stages,
        "runs": len(runs),
        "warm_up": 1,
        "batch_size": 1,
        "threads": cores(),
        "waited": share,
        "busy": is_busy(share),
        "protocol": f"quick: single images for at most {SECONDS:g} s or {MOST_RUNS} runs",
    }


def _one(sampler: Sampler, prompts: Prompts, row: int, seed: int, device: str) -> Sample:
    index = prompts.first_index + row
    block = PromptBlock(index=0, first=index, count=1, captions=(prompts.captions[row],), noise_seeds=(image_seed(seed, index),))
    return timed(lambda stopwatch: sampler.generate(block, stopwatch), device, time.perf_counter)

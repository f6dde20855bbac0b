"""Quick latency: a few single images by the clock. An indication from a machine that may be doing other things."""

from __future__ import annotations

import time

import numpy as np
import torch

from sbv2bench.data.prompts import Prompts
from sbv2bench.machine.processes import cores
from sbv2bench.samplers.base import PromptBlock, Sampler, Stopwatch, image_seed

SECONDS = 8.0  # with the last image that begins within them, under 10 s for any model of a second an image
MOST_RUNS = 50  # the paper's count (section 7.5)


def quick_latency(sampler: Sampler, prompts: Prompts, seed: int = 0, device: str = "cpu") -> dict[str, object]:
    """Wall time of single images, caption to pixels, one after another, after a warm-up, with every core.

    Returns milliseconds: "median_ms", "p5_ms", "p95_ms", "stages_ms" {stage: median}, and "runs", "warm_up", "batch_size",
    "threads", "protocol". Stops after 50 runs or 8 s, whichever is first; at least one run is timed.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(cores())
    try:
        began = time.perf_counter()
        _one(sampler, prompts, 0, seed, device)
        runs: list[tuple[float, dict[str, float]]] = []
        while not runs or (len(runs) < MOST_RUNS and time.perf_counter() - began < SECONDS):
            runs.append(_one(sampler, prompts, len(runs) % len(prompts), seed, device))
    finally:
        torch.set_num_threads(threads)
    totals = 1000.0 * np.array([total for total, _ in runs])
    low, median, high = np.percentile(totals, [5, 50, 95])
    stages = {name: 1000.0 * float(np.median([stages.get(name, 0.0) for _, stages in runs])) for name in runs[0][1]}
    return {
        "median_ms": float(median),
        "p5_ms": float(low),
        "p95_ms": float(high),
        "stages_ms": stages,
        "runs": len(runs),
        "warm_up": 1,
        "batch_size": 1,
        "threads": cores(),
        "protocol": f"quick: single images for at most {SECONDS:g} s or {MOST_RUNS} runs",
    }


def _one(sampler: Sampler, prompts: Prompts, row: int, seed: int, device: str) -> tuple[float, dict[str, float]]:
    """Seconds of one image in all, and by stage."""
    index = prompts.first_index + row
    block = PromptBlock(index=0, first=index, count=1, captions=(prompts.captions[row],), noise_seeds=(image_seed(seed, index),))
    stopwatch = Stopwatch(device)  # waits for the device at each stage's ends
    began = time.perf_counter()
    sampler.generate(block, stopwatch)
    return time.perf_counter() - began, {str(stage): seconds for stage, seconds in stopwatch.seconds.items()}

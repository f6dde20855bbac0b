"""Evaluations of the tiny suite for tests: run one, compare two bit by bit, stop one in the middle."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from sbv2bench.evaluation.evaluate import evaluate
from sbv2bench.registry import Registry
from sbv2bench.results.records import EvalResult
from sbv2bench.samplers.base import PromptBlock, Sampler, Stopwatch


def block_of(result: EvalResult) -> str:
    """The metrics block as text, but for the name of the file of captions' values: equal text is equal bits."""
    metrics = {key: value.model_dump(exclude={"prompt_values"}) for key, value in result.metrics.items()}
    return json.dumps(metrics, sort_keys=True)


def run(registry: Registry, model: str = "teacher", **options: Any) -> EvalResult:
    return evaluate(model, "tiny", registry=registry, **options)


def cache_of(result: EvalResult) -> tuple[str, str]:
    found = result.provenance["cache"]
    return found["generated"], found["reference"]


class Watched:
    """Another sampler, with something done before each block; counts the blocks that were begun."""

    def __init__(self, sampler: Sampler, before: Callable[[PromptBlock, int], None]) -> None:
        self.sampler, self.before, self.begun = sampler, before, 0
        self.spec, self.resolution, self.network_calls = sampler.spec, sampler.resolution, sampler.network_calls
        self.lock = threading.Lock()

    def generate(self, block: PromptBlock, stopwatch: Stopwatch) -> np.ndarray:
        with self.lock:
            self.begun += 1
            begun = self.begun
        self.before(block, begun)
        return self.sampler.generate(block, stopwatch)


class AsksMore:
    """Another sampler of tiny models, whose network is asked once more for every block than its spec says."""

    def __init__(self, sampler: Any) -> None:
        self.sampler, self.spec, self.networks = sampler, sampler.spec, sampler.networks
        self.resolution, self.network_calls = sampler.resolution, sampler.network_calls

    def generate(self, block: PromptBlock, stopwatch: Stopwatch) -> np.ndarray:
        self.networks()["unet"](torch.zeros(1, 8, 8, 8), 7, torch.zeros(1, 16, 16))
        images: np.ndarray = self.sampler.generate(block, stopwatch)
        return images


def nothing(block: PromptBlock, begun: int) -> None:
    pass


def interrupt_after(blocks: int) -> Callable[[PromptBlock, int], None]:
    def before(block: PromptBlock, begun: int) -> None:
        if begun > blocks:
            raise KeyboardInterrupt

    return before

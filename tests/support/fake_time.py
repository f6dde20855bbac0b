"""A clock that stands still until it is told to go on, and a sampler whose stages take what one says."""

from __future__ import annotations

from typing import Any

import numpy as np

from sbv2bench.samplers.base import PromptBlock, Stopwatch
from sbv2bench.specs import ModelSpec


class FakeClock:
    """Seconds; each look at it takes `tick`."""

    def __init__(self, tick: float = 0.0) -> None:
        self.now, self.tick = 100.0, tick

    def __call__(self) -> float:
        self.now += self.tick
        return self.now

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


class TimedSampler:
    """A sampler that lets a clock pass: text, denoise and decode seconds an image, and `outside` of any stage a call."""

    resolution, network_calls = 2, 1

    def __init__(self, clock: FakeClock, stages: dict[str, float], outside: float = 0.0, spec: ModelSpec | None = None) -> None:
        self.clock, self.stages, self.outside = clock, stages, outside
        self.spec = spec or ModelSpec(id="local/fake", sampler="one_step")
        self.blocks: list[PromptBlock] = []

    def generate(self, block: PromptBlock, stopwatch: Stopwatch) -> np.ndarray:
        self.blocks.append(block)
        for name, seconds in self.stages.items():
            with stopwatch.stage(name):  # type: ignore[arg-type]
                self.clock.pass_by(seconds * len(block.captions))
        self.clock.pass_by(self.outside)
        return np.zeros((len(block.captions), 2, 2, 3), dtype=np.uint8)

    def pipeline(self) -> Any:
        raise NotImplementedError

"""A suite's metrics of a model that somebody else samples: blocks of captions out, images in, and at the end the result.

A training loop uses it as it is.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sbv2bench.errors import InputError
from sbv2bench.evaluation.evaluate import rows_of_teacher
from sbv2bench.evaluation.gather import Gatherer
from sbv2bench.evaluation.generate import blocks
from sbv2bench.evaluation.options import EvalOptions
from sbv2bench.evaluation.plan import plan
from sbv2bench.machine.choices import Progress
from sbv2bench.machine.processes import Processes, exact_arithmetic, joined_processes
from sbv2bench.registry import Registry
from sbv2bench.results.records import EvalResult
from sbv2bench.samplers.base import PromptBlock
from sbv2bench.specs import IN_MEMORY, ModelSpec


class Evaluator(Gatherer):
    """Measures a model in memory: `for block in evaluator.blocks(): evaluator.update(block, images)`, then `compute()`.

    A block has `captions` and `noise(shape)`, by which the same model gives the images that `sbv2bench eval` would measure.
    """

    def __init__(
        self,
        suite: str | None = None,
        metrics: str | tuple[str, ...] | None = None,
        *,
        model: ModelSpec | None = None,
        registry: Registry | None = None,
        progress: Progress | None = None,
        **keywords: Any,
    ) -> None:
        """Everything cheap that can go wrong does so here. suite: an id, `mini` by default. metrics: by default the suite's, but
        for latency. model: how it is sampled, for the result. keywords: those of `EvalOptions.validated` (limit, seed, repeats,
        device of the extractors, ...).

        Raises InputError, PrerequisiteError, IntegrityError.
        """
        options = EvalOptions.validated(metrics=metrics, **keywords)
        registry = Registry.load(options.catalog) if registry is None else registry
        held = ModelSpec(id="local/in-memory", sampler=IN_MEMORY, steps=1) if model is None else model
        planned = plan(held, suite, options, registry)
        if options.named_metrics is not None and planned.needs_latency:
            raise InputError("Evaluator: found metric latency, which times a model that is loaded for it", "sbv2bench eval")
        untimed = tuple(metric for metric in planned.metrics if metric.reads != "latency")
        super().__init__(replace(planned, metrics=untimed), registry, joined_processes(), progress)

    def blocks(self, rank: int | None = None, world: int | None = None) -> Iterator[PromptBlock]:
        """The blocks of captions that a process of several samples: every world-th from rank; by default this process's.

        While they are taken, torch computes with one thread an operation and no TF32, so that the same weights give the bits of
        `sbv2bench eval`.
        """
        mine = Processes(self.processes.rank if rank is None else rank, self.processes.size if world is None else world)
        if not 0 <= mine.rank < mine.size:
            raise InputError(f"blocks: found rank {mine.rank} of {mine.size} processes, expected 0 to {mine.size - 1}")
        with exact_arithmetic():
            for seed, k in self.plan.draws:
                for block in blocks(self.plan, self.plan.prompts, seed, k):
                    if mine.owns(block.index):
                        yield block

    def update(self, block: PromptBlock, images: NDArray[np.uint8]) -> None:
        """Measure a block's images, uint8 [B, H, W, 3]: one for each caption, or without the padding of the last block.

        Raises InputError for images of another number, dtype or shape, or of a size that an extractor does not take.
        """
        images = np.asarray(images)
        shape, whole = images.shape, len(block.captions)
        if images.dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or shape[0] not in (block.count, whole):
            raise InputError(f"images: found {images.dtype} {list(shape)}, expected uint8 [{whole}, height, width, 3]")
        names = self.plan.extractors_of_image(block.k)
        began = time.perf_counter()
        self.measurer.load(names)
        self.measurer.check_size(*shape[1:3])
        if shape[0] < whole:
            images = np.concatenate([images, np.repeat(images[-1:], whole - shape[0], axis=0)])
        with exact_arithmetic():
            self.measure(block, images, names)
        self.seconds["features"] += time.perf_counter() - began

    def compute(self, latency: dict[str, object] | None = None) -> EvalResult:
        """As `Gatherer.compute`. Where a metric compares with the model's teacher, its images are found in the cache or sampled
        here, by the teacher's own weights."""
        if self.plan.teacher is not None and not self.teacher:
            with exact_arithmetic():
                self.teacher = rows_of_teacher(self, self.plan.teacher)
        return super().compute(latency)

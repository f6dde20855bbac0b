"""A suite's metrics of a model that somebody else samples: blocks of captions out, images in, and at the end the result.

`evaluate` is this with a sampler, a cache of rows and smaller blocks where memory runs out; a training loop uses it as it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sbv2bench import paths, provenance
from sbv2bench.errors import InputError, IntegrityError
from sbv2bench.evaluation.block_size import BlockSize, is_out_of_memory
from sbv2bench.evaluation.caption_cuts import cut_captions, with_cuts
from sbv2bench.evaluation.generate import blocks
from sbv2bench.evaluation.measure import REFERENCE_BLOCK, Measured, Measurer
from sbv2bench.evaluation.options import EvalOptions
from sbv2bench.evaluation.own_suite import own_data
from sbv2bench.evaluation.plan import EvalPlan, plan
from sbv2bench.evaluation.rows import Rows
from sbv2bench.evaluation.score import Labels, MetricRows, are_alike, score
from sbv2bench.features.cache import Entry, FeatureCache
from sbv2bench.machine.choices import Progress
from sbv2bench.machine.processes import Processes, cores, exact_arithmetic, joined_processes
from sbv2bench.registry import OWN_SUITE, Registry
from sbv2bench.results import prompt_values
from sbv2bench.results.conditions import LIBRARIES
from sbv2bench.results.records import Conditions, EvalResult, ModelRecord, SuiteRecord
from sbv2bench.samplers.base import PromptBlock
from sbv2bench.specs import IN_MEMORY, MetricSpec, ModelSpec, fingerprint

Draw = tuple[int, int]  # (generation seed, k): which image of every caption


class Evaluator:
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
        self._begin(replace(planned, metrics=untimed), registry, joined_processes(), progress)

    def _begin(self, plan: EvalPlan, registry: Registry, processes: Processes, progress: Progress | None) -> None:
        self.plan, self.registry, self.processes, self.progress = plan, registry, processes, progress
        self.began = time.perf_counter()
        self.cache = FeatureCache(paths.features_dir(), plan.options.use_cache)
        self.workers = cores() if plan.device == "cpu" else 1
        if plan.device.startswith("cuda:"):
            torch.cuda.set_device(plan.device)
        self.measurer = Measurer(plan)
        self.seconds = {"generate": 0.0, "features": 0.0, "metrics": 0.0}
        self.sizes: set[int] = set()
        self.parts: dict[Draw, dict[int, Measured]] = {draw: {} for draw in plan.draws}  # this process's, by place
        self.rows: dict[Draw, Measured] = {}  # whole, on rank 0
        self.values: prompt_values.Values = {}  # what each caption scored, once the result is there
        self.resumed_images = 0
        self.found_generated, self.found_reference = "none", "none"

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

    def measure(self, block: PromptBlock, images: NDArray[np.uint8], names: tuple[str, ...]) -> Measured:
        """The rows of a block by some extractors, which are loaded; threads may call it at once."""
        rows = self.measurer.measure(images, block, names)
        self.parts[block.seed, block.k][block.place] = rows
        self.sizes.add(len(block.captions))
        return rows

    def collect(self, draw: Draw) -> Measured:
        """The rows of every caption of a draw, in order, on rank 0, where the other processes' parts are sent."""
        parts = self.processes.gather((self.parts.pop(draw), self.sizes))
        if not parts:
            return {}
        self.sizes = {size for _, sizes in parts for size in sizes}
        by_place = {place: rows for part, _ in parts for place, rows in part.items()}
        places = sorted(by_place)
        counts = [len(next(iter(by_place[place].values()))) for place in places]
        if places != [sum(counts[:number]) for number in range(len(places))] or sum(counts) != len(self.plan.prompts):
            raise IntegrityError(
                f"evaluator: found images of {sum(counts)} captions, expected each of {len(self.plan.prompts)} once",
                "update(block, images) with every block of blocks(rank, world), on every process",
            )
        return {name: np.concatenate([by_place[place][name] for place in places]) for name in by_place[0]}

    def compute(self, latency: dict[str, object] | None = None) -> EvalResult:
        """The result, the same on every process. latency: what `quick_latency` gave, of a run that is timed.

        Raises IntegrityError where images are missing, and what reading the reference raises.
        """
        for draw in self.plan.draws:
            if draw not in self.rows:
                self.rows[draw] = self.collect(draw)
        result = None
        if self.processes.rank == 0:
            with exact_arithmetic():
                result = self._result(latency)
        shared: EvalResult = self.processes.broadcast(result)
        return shared

    @cached_property
    def reference(self) -> dict[str, Entry]:
        """The reference's rows by extractor, computed once for each content key; one pass for all that is missing."""
        names, began = self.plan.references, time.perf_counter()
        entries = {name: entry for name in names if (entry := self.cache.get(self.plan.reference_key(name))) is not None}
        missing = tuple(name for name in names if name not in entries)
        self.found_reference = "none" if not names else "miss" if missing else "hit"
        size = BlockSize(REFERENCE_BLOCK, self.plan.device)
        while missing and not entries.keys() >= {*missing}:
            try:
                entries |= self.measurer.of_reference(missing, self.workers, self.progress, size.size)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                size.halve(error, "what was measured of the generated images is kept")
        for name in missing:
            self.cache.put(self.plan.reference_key(name), entries[name].arrays, entries[name].manifest)
        self.seconds["features"] += time.perf_counter() - began if missing else 0.0
        return entries

    @cached_property
    def texts(self) -> dict[str, Measured]:
        """By paired extractor whose metrics read captions, their embeddings: "text", and "false_text" of hard negatives."""
        found = {}
        for name in dict.fromkeys(metric.extractor for metric in self.plan.metrics if metric.reads == "paired"):
            assert name is not None
            entry = self.cache.get(self.plan.text_key(name))
            if entry is None:
                began = time.perf_counter()
                found[name] = self.measurer.text(name)
                self.cache.put(self.plan.text_key(name), found[name], {"suite": self.plan.suite.id, "extractor": name})
                self.seconds["features"] += time.perf_counter() - began
            else:
                found[name] = entry.arrays
        return found

    def _result(self, latency: dict[str, object] | None) -> EvalResult:
        plan, texts, reference = self.plan, self.texts, self.reference
        started = time.perf_counter()
        firsts = [self.rows.get((seed, 0), {}) for seed in plan.seeds]
        alike = are_alike(firsts)
        seeds = plan.seeds[:1] if alike else plan.seeds
        scored = [
            MetricRows(metric, plan.fingerprint_of(metric), [self._rows(metric, seed, latency, texts) for seed in seeds])
            if metric.reads != "latency"
            else MetricRows(metric, plan.fingerprint_of(metric), [self._rows(metric, plan.seeds[0], latency, texts)])
            for metric in plan.metrics
        ]
        metrics, self.values = score(scored, Labels(plan.suite.label_suffix, len(plan.prompts), plan.partial))
        if alike:  # the file of captions' values has a row for every seed
            self.values = {key: np.repeat(values, len(plan.seeds), axis=0) for key, values in self.values.items()}
        cuts = cut_captions(plan, self.registry)
        self.seconds["metrics"] += time.perf_counter() - started
        seen = next((entry.manifest["reference_fingerprint"] for entry in reference.values()), None)
        suite = SuiteRecord(
            id=plan.suite.id,
            version=plan.suite.version,
            prompts_sha256=plan.prompts.sha256,
            reference=None if seen is None else {"fingerprint": seen, **plan.suite.reference_protocol(plan.reference_sha256)},
            num_generated=len(plan.prompts),
            num_reference=None if seen is None else plan.suite.num_reference,
            images_per_prompt=plan.images_per_prompt,
            preparation=plan.suite.preparation,
            seeds=plan.seeds,
            block_sizes=tuple(sorted(self.sizes, reverse=True)) or (plan.block_size,),
        )
        made = provenance.environment(plan.device)
        versions = {name: made["libraries"].get(name) for name in LIBRARIES}
        cache = {"generated": self.found_generated, "reference": self.found_reference, "notes": self.cache.notes}
        return EvalResult(
            status="partial" if plan.partial else "complete",
            model=ModelRecord(**plan.model.model_dump(), nfe=plan.model.network_evaluations()),
            suite=suite,
            conditions=Conditions(dtype=plan.dtype, device=plan.device.partition(":")[0], libraries=versions),
            metrics=with_cuts(metrics, plan, cuts),
            resumed_images=self.resumed_images,
            seconds=self.seconds | {"total": time.perf_counter() - self.began},
            provenance=made
            | {"threads": self.workers, "cache": cache, "cut_captions": cuts, "world_size": self.processes.size}
            | {"suite": plan.suite.protocol(), "protocols": {fingerprint(own): own for own in plan.protocols.values()}}
            | ({"seeds_alike": True} if alike else {})
            | ({"declared_anew": anew} if (anew := self.registry.declared_anew(plan.suite)) else {})
            | ({"own": own_data(plan.suite, plan.metrics, plan.options)} if plan.suite.id == OWN_SUITE else {}),
        )

    def _rows(self, metric: MetricSpec, seed: int, latency: dict[str, object] | None, texts: dict[str, Measured]) -> Rows:
        """What a metric of one seed is computed from; of several images of a caption those that it asks for."""
        plan, name = self.plan, metric.extractor
        common: dict[str, Any] = {
            "captions": plan.prompts.captions,
            "styles": plan.prompts.styles,
            "attributes": plan.prompts.attributes,
            "parameters": metric.parameters,
        }
        if name is None:
            return Rows(latency=latency, **common)
        images = plan.images_per_prompt if metric.images_per_prompt > 1 else 1
        drawn = [self.rows[seed, k][name] for k in range(images)]
        generated = drawn[0] if images == 1 else np.stack(drawn, axis=1).reshape(-1, *drawn[0].shape[1:])
        compared = metric.reference == "suite"
        return Rows(
            generated=generated,
            reference=self.reference[name].arrays["rows"] if compared else None,
            images_per_prompt=images,
            extractor=plan.extractors[name],
            kept=self._kept(metric, name),
            text=texts[name]["text"] if metric.reads == "paired" else None,
            false_text=texts[name].get("false_text") if metric.reads == "paired" else None,
            **common,
        )

    def _kept(self, metric: MetricSpec, extractor: str) -> Callable[[str, Callable[[], NDArray[np.number]]], NDArray[np.number]]:
        """`Rows.kept` of a metric: arrays of the reference alone, from the cache, or computed and put there."""

        def kept(name: str, make: Callable[[], NDArray[np.number]]) -> NDArray[np.number]:
            code = [provenance.modules_fingerprint(["metrics"]), provenance.plugin_fingerprint(metric.target)]
            key = fingerprint([self.plan.reference_key(extractor), metric.id, metric.version, name, code])
            if key not in self._derived:
                entry = self.cache.get(key)
                self._derived[key] = make() if entry is None else entry.arrays["array"]
                if entry is None:
                    self.cache.put(key, {"array": self._derived[key]}, {"suite": self.plan.suite.id, "of": name})
            return self._derived[key]

        return kept

    @cached_property
    def _derived(self) -> dict[str, NDArray[np.number]]:
        return {}

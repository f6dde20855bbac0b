"""The spine: plan -> for each seed, rows from the cache or by generating and measuring -> score -> result."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sbv2bench import paths, provenance
from sbv2bench.data.digests import trusting
from sbv2bench.errors import InterruptedRun
from sbv2bench.evaluation.block_size import BlockSize, enough_memory, is_out_of_memory
from sbv2bench.evaluation.caption_cuts import cut_captions, with_cuts
from sbv2bench.evaluation.generate import blocks
from sbv2bench.evaluation.measure import REFERENCE_BLOCK, Measurer, Rows, measure_reference
from sbv2bench.evaluation.options import EvalOptions, Progress
from sbv2bench.evaluation.plan import EvalPlan, plan
from sbv2bench.evaluation.saved_images import SavedImages
from sbv2bench.evaluation.score import FeatureSets, are_alike, score
from sbv2bench.features.cache import Entry, FeatureCache
from sbv2bench.latency.quick import quick_latency
from sbv2bench.machine.processes import Processes, cores, each, exact_arithmetic, joined_processes
from sbv2bench.registry import OWN_SUITE, Registry
from sbv2bench.report.picture import write_grid
from sbv2bench.results import prompt_values, store
from sbv2bench.results.records import EvalResult, ModelRecord, SuiteRecord
from sbv2bench.samplers import load_sampler
from sbv2bench.samplers.base import PromptBlock, Sampler, Stopwatch, size_of
from sbv2bench.specs import fingerprint


def evaluate(
    model: str | Path,
    suite: str | None = None,
    *,
    options: EvalOptions | None = None,
    registry: Registry | None = None,
    progress: Progress | None = None,
    **keywords: Any,
) -> EvalResult:
    """Generate a suite's images with a model, measure and score them.

    model: an id, a folder or a hub id; suite: an id, by default `mini`. keywords: those of `EvalOptions.validated` (limit=200,
    seed=0, repeats=3, metrics="fid,pr", device="cpu", ...), unless options are given; with prompts=, reference= or resolution=
    the suite is `own`, and the one named, or that of the model's family, gives it extractors and metrics. Nothing is written
    but the cache. Under torchrun every process returns the same result.
    Raises InputError, PrerequisiteError, IntegrityError; InterruptedRun on Ctrl-C.
    """
    options = EvalOptions.validated(**keywords) if options is None else options
    registry = Registry.load(options.catalog) if registry is None else registry
    return Run(plan(str(model), suite, options, registry), registry, joined_processes(), progress).result()


def own_data(plan: EvalPlan) -> dict[str, Any]:
    """What a suite `own` was made of, by the names that were given; what it hashes to is in the protocol."""
    options, suite = plan.options, plan.suite
    named = {"prompts": options.prompts, "reference": options.reference}
    return {
        "from": suite.inherited,
        **{part: None if path is None else str(path) for part, path in named.items()},
        "preparation": suite.preparation or "none: images as they are",
        "resolution": None if options.resolution is None else list(options.resolution),
        "metrics": [metric.id for metric in plan.metrics],
    }


def evaluate_and_store(plan: EvalPlan, registry: Registry, progress: Progress | None = None) -> tuple[EvalResult, Path | None]:
    """Carry out a plan and write its result file, and the images that its options ask for beside it.

    Under torchrun rank 0 writes, and the other processes get None for the path.
    """
    run = Run(plan, registry, joined_processes(), progress)
    result = run.result()
    if run.processes.rank != 0:
        return result, None
    result, values = prompt_values.attach(result, prompt_values.of_rows(run.generated))
    path = store.write(result, plan.options.results, values)
    if run.saved.rows:
        with exact_arithmetic():
            grid = run.saved.finish(lambda: run.sampler, path.with_name(f"{path.stem}-images"))
        if grid is not None:
            write_grid(grid, path.with_name(f"{path.stem}-grid.png"))
    return result, path


@dataclass
class Run:
    """A plan being carried out on this process. Networks are loaded when an image is missing: a cached run needs none."""

    plan: EvalPlan
    registry: Registry
    processes: Processes
    progress: Progress | None = None

    def __post_init__(self) -> None:
        self.cache = FeatureCache(paths.features_dir(), self.plan.options.use_cache)
        self.workers = cores() if self.plan.device == "cpu" else 1
        self.block_size = BlockSize(self.plan.block_size, self.plan.device)
        self.saved = SavedImages(self.plan)
        if self.plan.device.startswith("cuda:"):
            torch.cuda.set_device(self.plan.device)
        self.seconds = {"generate": 0.0, "features": 0.0, "metrics": 0.0}
        self.found: list[str] = []  # for each seed: hit, resumed or miss
        self.found_reference = "none"
        self.generated: list[Rows] = []  # of each seed, on rank 0
        self.resumed_images = 0
        self.done = 0  # of this process's images, over all seeds
        every = blocks(self.plan, self.plan.prompts, self.plan.seeds[0])
        self.mine = sum(block.count for block in every if self.processes.owns(block.index))

    @cached_property
    def sampler(self) -> Sampler:
        """The model, loaded."""
        loading = f"while {self.plan.model.id} was loaded in {self.plan.dtype}"
        with trusting(self.plan.options.use_cache), enough_memory(self.plan.device, loading):
            return load_sampler(self.plan.model, self.plan.device, getattr(torch, self.plan.dtype), self.registry)

    @cached_property
    def measurer(self) -> Measurer:
        """The extractors, loaded, with the captions embedded."""
        with enough_memory(self.plan.device, "while the extractors were loaded"):
            return Measurer(self.plan, size_of(self.sampler))

    def result(self) -> EvalResult:
        """Rows of every seed, the reference, the clock, the score: made on rank 0, returned by every process."""
        began = time.perf_counter()
        try:
            with exact_arithmetic(), trusting(self.plan.options.use_cache):
                # First, for what fails here must not fail after hours of generating.
                reference = self.reference() if self.plan.reference_rows and self.processes.rank == 0 else None
                self.generated = [self.seed_rows(seed) if self.plan.rows else {} for seed in self.plan.seeds]
            result = None
            if self.processes.rank == 0:
                latency = self.latency() if self.plan.needs_latency else None
                result = self.scored(self.generated, reference, latency, began)
            shared: EvalResult = self.processes.broadcast(result)
            return shared
        except KeyboardInterrupt as stop:
            raise self.interrupted() from stop

    def seed_rows(self, seed: int) -> Rows:
        """Measurements of every image of a seed, in order; on rank 0 (the other processes' parts are sent there)."""
        entries = (self.cache.get(self.plan.generated_key(seed, rows)) for rows in self.plan.wider_rows())
        entry = next((entry for entry in entries if entry is not None), None) if self.processes.rank == 0 else None
        if self.processes.broadcast(entry is not None):
            self.found.append("hit")
            self.advance(self.mine)
            self.block_size.used |= set() if entry is None else {*entry.manifest.get("block_sizes", ())}
            return {} if entry is None else entry.arrays
        key = self.plan.generated_key(seed)
        mine = [block for block in blocks(self.plan, self.plan.prompts, seed) if self.processes.owns(block.index)]
        kept = self.kept_rows(key, mine)
        resumed = sum(block.count for block in mine if block.index in kept)
        self.advance(resumed)
        missing = [block for block in mine if block.index not in kept]
        made = self.generate_and_measure(key, missing, keep_images=seed == self.plan.seeds[0])
        parts = self.processes.gather((kept | made, resumed, self.block_size.used))
        if not parts:
            return {}
        self.found.append("resumed" if any(count for _, count, _ in parts) else "miss")
        self.resumed_images += sum(count for _, count, _ in parts)
        self.block_size.used = {size for _, _, sizes in parts for size in sizes}
        by_block = {number: rows for part, _, _ in parts for number, rows in part.items()}
        rows = {name: np.concatenate([by_block[number][name] for number in sorted(by_block)]) for name in by_block[0]}
        made_with = {"block_sizes": sorted(self.block_size.used, reverse=True)}
        self.cache.put(key, rows, {"model": self.plan.model.id, "suite": self.plan.suite.id, "seed": seed} | made_with)
        self.cache.drop_blocks(key)
        return rows

    def kept_rows(self, key: str, mine: list[PromptBlock]) -> dict[int, Rows]:
        """Rows by block of an earlier run that was cut short, with blocks of whatever size."""
        numbers, kept = self.cache.block_numbers(key), {}
        for block in mine:
            found = self.cache.get_rows(key, numbers, range(block.place, block.place + block.count)) if numbers else None
            if found is not None:
                kept[block.index], sizes = found
                self.block_size.used |= sizes
        return kept

    def generate_and_measure(self, key: str, missing: list[PromptBlock], keep_images: bool) -> dict[int, Rows]:
        """Rows by block: each block is sampled, measured while its images are in memory, and stored as it is finished.

        Where memory runs out, what is finished stays and the rest is made in smaller blocks. keep_images: write those that are
        to be saved.
        """
        if not missing:
            return {}
        sampler, measurer = self.sampler, self.measurer

        def work(block: PromptBlock) -> tuple[Rows, float, float]:
            parts: list[Rows] = []
            generated = 0.0
            started = time.perf_counter()
            for piece in self.block_size.pieces(block):
                began = time.perf_counter()
                images = sampler.generate(piece, Stopwatch(self.plan.device))
                generated += time.perf_counter() - began
                rows = measurer.measure_block(images, piece)
                self.cache.put_block(key, piece.place, rows, {"block_size": len(piece.captions)})
                if keep_images:
                    self.saved.keep(piece, images)
                self.block_size.used.add(len(piece.captions))
                parts.append(rows)
            rows = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if len(parts) > 1 else parts[0]
            return rows, generated, time.perf_counter() - started - generated

        began, made, spent = time.perf_counter(), {}, np.zeros(2)
        left = missing
        while left:
            try:
                for block, (rows, *shares) in each(work, left, self.workers):
                    made[block.index] = rows
                    spent += shares
                    self.advance(block.count)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                self.block_size.halve(error, f"{self.done} images are kept" if self.cache.enabled else "")
            left = [block for block in left if block.index not in made]
        # Threads overlap: the wall time is split by the share of each kind of work.
        wall = (time.perf_counter() - began) * spent / spent.sum()
        self.seconds["generate"] += float(wall[0])
        self.seconds["features"] += float(wall[1])
        return made

    def reference(self) -> Entry:
        """The reference's rows and its fingerprint, computed once for each content key; one pass for all that is missing.

        Arrays: "features" and "radii", and of other rows `<row>` and `<row>_radii`.
        """
        wanted = self.plan.reference_rows
        entries = {row: entry for row in wanted if (entry := self.cache.get(self.plan.reference_key(row))) is not None}
        missing = tuple(row for row in wanted if row not in entries)
        self.found_reference = "miss" if missing else "hit"
        if missing:
            began = time.perf_counter()
            for row, entry in self.measured_reference(missing).items():
                self.cache.put(self.plan.reference_key(row), entry.arrays, entry.manifest)
                entries[row] = entry
            self.seconds["features"] += time.perf_counter() - began
        arrays = {}
        for row, entry in entries.items():
            for name, array in entry.arrays.items():
                arrays[name if row == "features" else {"features": row}.get(name, f"{row}_{name}")] = array
        return Entry(arrays, next(iter(entries.values())).manifest)

    def measured_reference(self, rows: tuple[str, ...]) -> dict[str, Entry]:
        """`measure_reference`, in smaller blocks where memory runs out."""
        size = BlockSize(REFERENCE_BLOCK, self.plan.device)
        while True:
            try:
                return measure_reference(self.plan, rows, self.workers, self.progress, size.size)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                size.halve(error, "what was measured of the generated images is kept")

    def latency(self) -> dict[str, Any]:
        """The clock, on an otherwise idle process."""
        began = time.perf_counter()
        with enough_memory(self.plan.device, "while single images were timed", "what was measured is kept"):
            found = quick_latency(self.sampler, self.plan.prompts, self.plan.seeds[0], self.plan.device)
        self.seconds["latency"] = time.perf_counter() - began
        return found

    def scored(self, generated: list[Rows], reference: Entry | None, latency: dict[str, Any] | None, began: float) -> EvalResult:
        """The result: metrics of all seeds, and everything that is needed to read them."""
        plan, real = self.plan, None if reference is None else reference.arrays
        started = time.perf_counter()
        with exact_arithmetic():
            same = (plan.suite, plan.extractors, plan.prompts)
            metrics = score(plan.metrics, [FeatureSets(*same, rows, real, latency, plan.partial) for rows in generated])
        cuts = cut_captions(plan, self.registry)
        self.seconds["metrics"] += time.perf_counter() - started
        suite = SuiteRecord(
            id=plan.suite.id,
            version=plan.suite.version,
            fingerprint=fingerprint(plan.protocol),
            prompts_sha256=plan.prompts.sha256,
            reference_fingerprint=None if reference is None else reference.manifest["reference_fingerprint"],
            num_generated=len(plan.prompts),
            num_reference=None if reference is None else plan.suite.num_reference,
            seeds=plan.seeds,
            block_size=plan.block_size,
            protocol=plan.protocol,
        )
        own = {"own": own_data(plan)} if plan.suite.id == OWN_SUITE else {}
        cache = {"generated": self.found_generated(), "reference": self.found_reference, "notes": self.cache.notes}
        return EvalResult(
            status="partial" if plan.partial else "complete",
            model=ModelRecord(**plan.model.model_dump(), nfe=plan.model.network_evaluations()),
            suite=suite,
            metrics=with_cuts(metrics, plan, cuts),
            resumed_images=self.resumed_images + self.images_of_cached_seeds(),
            seconds=self.seconds | {"total": time.perf_counter() - began},
            provenance=provenance.environment(plan.device)
            | {"dtype": plan.dtype, "threads": self.workers, "cache": cache, "cut_captions": cuts}
            | {"block_sizes": sorted(self.block_size.used, reverse=True), "world_size": self.processes.size}
            | ({"seeds_alike": True} if are_alike(generated) else {})
            | ({"declared_anew": anew} if (anew := self.registry.declared_anew(plan.suite)) else {})
            | own,
        )

    def found_generated(self) -> str:
        """hit: every seed was in the cache; miss: no image was; resumed: part of them was; none: no image was needed."""
        kinds = {*self.found} or {"none"}
        return kinds.pop() if len(kinds) == 1 else "resumed"

    def images_of_cached_seeds(self) -> int:
        """Images of whole seeds that were there already, where others had to be generated."""
        return self.found.count("hit") * len(self.plan.prompts) if self.found_generated() == "resumed" else 0

    def advance(self, images: int) -> None:
        """Tell whoever watches that more of this process's images are finished."""
        self.done += images
        if self.progress is not None and images:
            self.progress("generate", self.done, self.mine * len(self.plan.seeds))

    def interrupted(self) -> InterruptedRun:
        """What to say after Ctrl-C: how much is kept, and that the same command goes on from there."""
        asked = len(self.plan.prompts) * len(self.plan.seeds)
        if not self.cache.enabled:
            return InterruptedRun(f"interrupted: --no-cache keeps none of {asked} images", "run the command without --no-cache")
        kept = 0
        for seed in self.plan.seeds:
            key, parts = self.plan.generated_key(seed), blocks(self.plan, self.plan.prompts, seed)
            found = parts if self.cache.has(key) else [parts[number] for number in self.kept_rows(key, parts)]
            kept += sum(block.count for block in found)
        return InterruptedRun(f"interrupted: {kept} of {asked} images are kept", "run the same command again to go on from there")

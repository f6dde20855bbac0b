"""The spine: plan -> for each seed, rows from the cache or by generating and measuring -> score -> result."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sbv2bench.data.digests import trusting
from sbv2bench.errors import InterruptedRun
from sbv2bench.evaluation.batch_probe import largest_batch, remember
from sbv2bench.evaluation.block_size import BlockSize, enough_memory, is_out_of_memory
from sbv2bench.evaluation.gather import Draw, Gatherer
from sbv2bench.evaluation.generate import blocks
from sbv2bench.evaluation.measure import Measured
from sbv2bench.evaluation.options import EvalOptions
from sbv2bench.evaluation.plan import EvalPlan, plan
from sbv2bench.evaluation.saved_images import SavedImages
from sbv2bench.latency.quick import quick_latency
from sbv2bench.machine.choices import Progress
from sbv2bench.machine.processes import Processes, each, exact_arithmetic, joined_processes, turn_on
from sbv2bench.registry import Registry
from sbv2bench.report.picture import write_grid
from sbv2bench.results import prompt_values, store
from sbv2bench.results.records import EvalResult, Passes
from sbv2bench.samplers import load_sampler
from sbv2bench.samplers.base import PromptBlock, Sampler, Stopwatch, size_of
from sbv2bench.samplers.calls import PassCounter, check_declared


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


def evaluate_and_store(plan: EvalPlan, registry: Registry, progress: Progress | None = None) -> tuple[EvalResult, Path | None]:
    """Carry out a plan and write its result file, and the images that its options ask for beside it.

    Under torchrun rank 0 writes, and the other processes get None for the path.
    """
    run = Run(plan, registry, joined_processes(), progress)
    result = run.result()
    if run.processes.rank != 0:
        return result, None
    result, values = prompt_values.attach(result, run.values)
    path = store.write(result, plan.options.results, values)
    if run.saved.rows:
        with exact_arithmetic():
            grid = run.saved.finish(lambda: run.sampler, path.with_name(f"{path.stem}-images"))
        if grid is not None:
            write_grid(grid, path.with_name(f"{path.stem}-grid.png"))
    return result, path


def stored_result(plan: EvalPlan) -> tuple[EvalResult, Path] | None:
    """The newest result of the same model, weights, protocols, seeds and dtype below the results folder; None without one."""
    wanted = plan.model.protocol(), {plan.fingerprint_of(metric) for metric in plan.metrics}
    folder, own = plan.options.results, f"{plan.suite.id}@v{plan.suite.version}"
    files = [path for path in (store.find(folder) if folder.is_dir() else []) if path.parent.name == own]
    found = [(store.load(path), path) for path in files]
    same = [
        (result, path)
        for result, path in found
        if (result.model.spec().protocol(), {value.fingerprint for value in result.metrics.values()}) == wanted
        and (result.suite.seeds, result.conditions.dtype) == (plan.seeds, plan.dtype)
    ]
    return max(same, key=lambda one: str(one[0].provenance.get("date_utc")), default=None)


def measure_shard(plan: EvalPlan, registry: Registry, progress: Progress | None = None) -> int:
    """Make and measure the images of one part of a plan, `plan.options.shard`, and keep their rows in the cache.

    Block i belongs to part i % N + 1, as it does to a process of a launch, and nothing is scored: `evaluate` of the same plan
    without a shard finds the blocks. The teacher's images are shared in the same way. Returns how many images were made.
    Raises what `evaluate` raises.
    """
    assert plan.options.shard is not None
    number, count = plan.options.shard
    made = 0
    for one in (plan, plan.teacher):
        if one is not None:
            run = Run(one, registry, Processes(number - 1, count), progress)
            made += run.measure_own_blocks()
    return made


class Run(Gatherer):
    """A plan being carried out on this process. Networks are loaded when an image is missing: a cached run needs none."""

    def __init__(self, plan: EvalPlan, registry: Registry, processes: Processes, progress: Progress | None = None) -> None:
        """Nothing is loaded yet."""
        super().__init__(plan, registry, processes, progress)
        self.block_size = BlockSize(plan.block_size, plan.device)
        self.making = turn_on(plan.device)
        self.saved = SavedImages(plan)
        self.found: list[str] = []  # for each draw: hit, resumed or miss
        self.done = self.kept = 0  # of this process's images over all draws: made now, and found
        every = blocks(plan, plan.prompts, plan.seeds[0])
        self.mine = sum(block.count for block in every if processes.owns(block.index))

    @cached_property
    def sampler(self) -> Sampler:
        """The model, loaded."""
        loading = f"while {self.plan.model.id} was loaded in {self.plan.dtype}"
        with trusting(self.plan.options.use_cache), enough_memory(self.plan.device, loading, fix="--offload model"):
            dtype = getattr(torch, self.plan.dtype)
            return load_sampler(self.plan.model, self.plan.device, dtype, self.registry, self.plan.placement)

    def result(self) -> EvalResult:
        """Rows of every draw, the reference, the clock, the score: made on rank 0, returned by every process."""
        try:
            with exact_arithmetic(), trusting(self.plan.options.use_cache):
                self.share_reference()  # first, for what fails here must not fail after hours of generating
                if self.processes.rank == 0:
                    _ = self.texts
                if self.plan.teacher is not None:
                    self.teacher = rows_of_teacher(self, self.plan.teacher)
                for draw in self.plan.draws:
                    self.rows[draw] = self.rows_of(draw)
            self.found_generated, self.resumed_images = self.kind_found(), self.resumed_images + self.images_of_cached_draws()
            latency = self.latency() if self.plan.needs_latency and self.processes.rank == 0 else None
            return self.compute(latency)
        except KeyboardInterrupt as stop:
            raise self.interrupted() from stop

    def rows_of(self, draw: Draw) -> Measured:
        """The rows of every caption of a draw, by extractor: from the cache, or of images that are made for the missing ones."""
        names = self.plan.extractors_of_image(draw[1])
        keys = {name: self.plan.generated_key(name, *draw) for name in names}
        entries = {name: self.cache.get(key) for name, key in keys.items()} if self.processes.rank == 0 else {}
        missing: tuple[str, ...] = self.processes.broadcast(tuple(name for name, entry in entries.items() if entry is None))
        whole = {name: entry.arrays["rows"] for name, entry in entries.items() if entry is not None}
        for entry in entries.values():
            if entry is not None:
                self.sizes |= {*entry.manifest.get("block_sizes", ())}
                self.passes = self.passes or Passes.of_manifest(entry.manifest.get("forward_passes"))
        if not missing:
            self.found.append("hit")
            self.find(self.mine)
            return whole
        resumed = sum(self.processes.gather(self.make_missing(missing, draw)))
        self.passes = next((passes for passes in self.processes.gather(self.passes) if passes is not None), self.passes)
        made = self.collect(draw)
        if not made:
            return {}
        self.found.append("resumed" if resumed else "miss")
        self.resumed_images += resumed
        manifest = {"model": self.plan.model.id, "suite": self.plan.suite.id, "seed": draw[0], "k": draw[1]}
        manifest |= {"forward_passes": self.passes and self.passes.model_dump()}
        for name in missing:
            said = {**manifest, "extractor": name, "block_sizes": sorted(self.sizes, reverse=True)}
            self.cache.put(keys[name], {"rows": made[name]}, said)
            self.cache.drop_blocks(keys[name])
        return {name: whole[name] if name in whole else made[name] for name in names}

    def make_missing(self, names: tuple[str, ...], draw: Draw) -> int:
        """Rows of this process's blocks by some extractors, kept or made; returns of how many images they were kept."""
        mine = [block for block in blocks(self.plan, self.plan.prompts, *draw) if self.processes.owns(block.index)]
        kept = self.kept_rows(names, draw, mine)
        self.parts[draw] |= kept
        resumed = sum(block.count for block in mine if block.place in kept)
        self.find(resumed)
        self.generate_and_measure(names, [block for block in mine if block.place not in kept])
        return resumed

    def measure_own_blocks(self) -> int:
        """Every draw's blocks of this process, without asking another; returns how many images were made."""
        try:
            with exact_arithmetic(), trusting(self.plan.options.use_cache):
                for draw in self.plan.draws:
                    keys = {name: self.plan.generated_key(name, *draw) for name in self.plan.extractors_of_image(draw[1])}
                    missing = tuple(name for name, key in keys.items() if self.cache.get(key) is None)
                    if missing:
                        self.make_missing(missing, draw)
                    else:
                        self.find(self.mine)
        except KeyboardInterrupt as stop:
            raise self.interrupted() from stop
        return self.done

    def kept_rows(self, names: Sequence[str], draw: Draw, mine: list[PromptBlock]) -> dict[int, Measured]:
        """Rows by place of blocks that an earlier run finished, cut short and of whatever size, by all of some extractors."""
        keys = {name: self.plan.generated_key(name, *draw) for name in names}
        numbers = {name: self.cache.block_numbers(key) for name, key in keys.items()}
        kept: dict[int, Measured] = {}
        for block in mine if all(numbers.values()) else ():
            wanted = range(block.place, block.place + block.count)
            found = {name: self.cache.get_rows(key, numbers[name], wanted) for name, key in keys.items()}
            rows = {name: one[0]["rows"] for name, one in found.items() if one is not None}
            if len(rows) == len(keys):
                kept[block.place] = rows
                stored = self.cache.block_manifest(next(iter(keys.values())), block.place).get("forward_passes")
                self.passes = self.passes or Passes.of_manifest(stored)
                self.sizes |= {size for one in found.values() if one is not None for size in one[1]}
        return kept

    def generate_and_measure(self, names: tuple[str, ...], missing: list[PromptBlock]) -> None:
        """Each block is sampled, measured by some extractors while its images are in memory, and stored as it is finished.

        Where memory runs out, what is finished stays and the rest is made in smaller blocks.
        """
        if not missing:
            return
        self.tell(f"load {self.plan.model.id}", 0, 1)
        sampler = self.sampler
        with enough_memory(self.plan.device, "while the extractors were loaded"):
            self.measurer.load(names)
        self.tell(f"load {self.plan.model.id}", 1, 1)
        self.advance(0)
        self.measurer.check_size(*size_of(sampler))
        if self.plan.options.batch_size == "largest":
            self.block_size.size = min(self.block_size.size, largest_batch(self.plan, sampler, missing[0]))

        def work(block: PromptBlock) -> tuple[float, float]:
            generated = 0.0
            started = time.perf_counter()
            for piece in self.block_size.pieces(block):
                with self.making:
                    began = time.perf_counter()
                    with counter.block(len(piece.captions)):
                        images = sampler.generate(piece, Stopwatch(self.plan.device))
                    check_declared(sampler, counter.found)
                    generated += time.perf_counter() - began
                for name, rows in self.measure(piece, images, names).items():
                    key = self.plan.generated_key(name, piece.seed, piece.k)
                    said = {"block_size": len(piece.captions), "forward_passes": counter.found and counter.found.model_dump()}
                    self.cache.put_block(key, piece.place, {"rows": rows}, said)
                if (piece.seed, piece.k) == (self.plan.seeds[0], 0):
                    self.saved.keep(piece, images)
            return generated, time.perf_counter() - started - generated

        began, made, spent = time.perf_counter(), set(), np.zeros(2)
        with PassCounter.of(sampler) as counter:
            while left := [block for block in missing if block.index not in made]:
                try:
                    for block, shares in each(work, left, self.workers):
                        made.add(block.index)
                        spent += shares
                        self.advance(block.count)
                except (RuntimeError, MemoryError) as error:
                    if not is_out_of_memory(error):
                        raise
                    self.block_size.halve(error, f"{self.done + self.kept} images are kept" if self.cache.enabled else "")
                    if self.plan.options.batch_size == "largest":
                        remember(self.plan, self.block_size.size)
        self.passes = counter.found or self.passes
        # Threads overlap: the wall time is split by the share of each kind of work.
        wall = (time.perf_counter() - began) * spent / spent.sum()
        self.seconds["generate"] += float(wall[0])
        self.seconds["features"] += float(wall[1])

    def latency(self) -> dict[str, object]:
        """The clock, on an otherwise idle process."""
        began = time.perf_counter()
        with enough_memory(self.plan.device, "while single images were timed", "what was measured is kept"):
            found = quick_latency(self.sampler, self.plan.prompts, self.plan.seeds[0], self.plan.device)
        self.seconds["latency"] = time.perf_counter() - began
        return found

    def kind_found(self) -> str:
        """hit: every draw was in the cache; miss: no image was; resumed: part of them was; none: no image was needed."""
        kinds = {*self.found} or {"none"}
        return kinds.pop() if len(kinds) == 1 else "resumed"

    def images_of_cached_draws(self) -> int:
        """Images of whole draws that were there already, where others had to be generated."""
        return self.found.count("hit") * len(self.plan.prompts) if self.kind_found() == "resumed" else 0

    def advance(self, images: int) -> None:
        """Tell whoever watches that more of this process's images were made, of those that no cache has; 0: that it begins."""
        self.done += images
        self.tell("generate", self.done, self.mine * len(self.plan.draws) - self.kept)

    def find(self, images: int) -> None:
        """Tell whoever watches that images of this process were there already."""
        self.kept += images
        if images:
            self.tell("found in the cache", self.kept, self.mine * len(self.plan.draws))

    def tell(self, stage: str, done: int, total: int) -> None:
        """Progress, where somebody watches."""
        if self.progress is not None:
            self.progress(stage, done, total)

    def interrupted(self) -> InterruptedRun:
        """What to say after Ctrl-C: how much is kept, and that the same command goes on from there."""
        asked = len(self.plan.prompts) * len(self.plan.draws)
        if not self.cache.enabled:
            return InterruptedRun(f"interrupted: --no-cache keeps none of {asked} images", "run the command without --no-cache")
        kept = 0
        for draw in self.plan.draws:
            missing, parts = self.plan.missing(*draw), blocks(self.plan, self.plan.prompts, *draw)
            found = self.kept_rows(missing, draw, parts) if missing else {block.place: {} for block in parts}
            kept += sum(block.count for block in parts if block.place in found)
        return InterruptedRun(f"interrupted: {kept} of {asked} images are kept", "run the same command again to go on from there")


def rows_of_teacher(student: Gatherer, plan: EvalPlan) -> dict[Draw, Measured]:
    """The rows of every caption of a teacher's draws, found, sampled and kept like any model's; student's clock runs."""
    run = Run(plan, student.registry, student.processes, student.progress)
    rows = {draw: run.rows_of(draw) for draw in plan.draws}
    for kind, seconds in run.seconds.items():
        student.seconds[kind] += seconds
    return rows

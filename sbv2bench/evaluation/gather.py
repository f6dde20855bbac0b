"""Rows of every draw, gathered from blocks and processes and completed by the reference's, and the result that they give.

`evaluate` is this with a sampler, a cache of rows and smaller blocks where memory runs out; `Evaluator` is it for a model that
somebody else samples.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sbv2bench import paths, provenance
from sbv2bench.errors import IntegrityError
from sbv2bench.evaluation.block_size import BlockSize, is_out_of_memory
from sbv2bench.evaluation.caption_cuts import cut_captions, with_cuts
from sbv2bench.evaluation.measure import REFERENCE_BLOCK, Measured, Measurer
from sbv2bench.evaluation.own_suite import own_data
from sbv2bench.evaluation.plan import TEACHER_SEEDS, EvalPlan
from sbv2bench.evaluation.rows import Rows
from sbv2bench.evaluation.score import Labels, MetricRows, are_alike, score
from sbv2bench.features.cache import Entry, FeatureCache
from sbv2bench.machine.choices import Progress
from sbv2bench.machine.processes import Processes, exact_arithmetic, workers_on
from sbv2bench.registry import OWN_SUITE, Registry
from sbv2bench.results import prompt_values
from sbv2bench.results.conditions import LIBRARIES
from sbv2bench.results.records import Conditions, EvalResult, ModelRecord, Passes, SuiteRecord
from sbv2bench.samplers.base import PromptBlock
from sbv2bench.specs import MetricSpec, fingerprint

Draw = tuple[int, int]  # (generation seed, k): which image of every caption


class Gatherer:
    """A plan's rows on this process, and on rank 0 all of them, until the result is computed."""

    def __init__(self, plan: EvalPlan, registry: Registry, processes: Processes, progress: Progress | None = None) -> None:
        """Nothing is loaded yet."""
        self.plan, self.registry, self.processes, self.progress = plan, registry, processes, progress
        self.began = time.perf_counter()
        self.cache = FeatureCache(paths.features_dir(), plan.options.use_cache)
        self.workers = workers_on(plan.device)
        if plan.device.startswith("cuda:"):
            torch.cuda.set_device(plan.device)
        self.measurer = Measurer(plan)
        self.seconds = {"generate": 0.0, "features": 0.0, "metrics": 0.0}
        self.sizes: set[int] = set()
        self.parts: dict[Draw, dict[int, Measured]] = {draw: {} for draw in plan.draws}  # this process's, by place
        self._arrays: dict[tuple[str, int, int], NDArray[np.number]] = {}  # of an extractor and a draw, which the parts lie in
        self.rows: dict[Draw, Measured] = {}  # whole, on rank 0
        self.reference: dict[str, Entry] = {}  # the suite's, by extractor, on rank 0 once it is here
        self.reference_is_here = False
        self.teacher: dict[Draw, Measured] = {}  # the teacher's, in the same way
        self.values: prompt_values.Values = {}  # what each caption scored, once the result is there
        self.resumed_images = 0
        self.found_generated, self.found_reference = "none", "none"
        self.passes: Passes | None = None  # counted while a block was sampled, now or when what the cache has was made

    def measure(self, block: PromptBlock, images: NDArray[np.uint8], names: tuple[str, ...]) -> Measured:
        """The rows of a block by some extractors, which are loaded; threads may call it at once."""
        rows = {}
        for name, found in self.measurer.measure(images, block, names).items():
            # Into one array of all captions: thousands of small ones among the networks' large buffers scatter the heap.
            empty = np.empty((len(self.plan.prompts), *found.shape[1:]), found.dtype)
            every = self._arrays.setdefault((name, block.seed, block.k), empty)
            rows[name] = every[block.place : block.place + block.count]
            rows[name][:] = found
        self.parts[block.seed, block.k][block.place] = rows
        self.sizes.add(len(block.captions))
        return rows

    def collect(self, draw: Draw) -> Measured:
        """The rows of every caption of a draw, in order, on rank 0, where the other processes' parts are sent."""
        parts = self.processes.gather((self.parts.pop(draw), self.sizes))
        self._arrays = {key: array for key, array in self._arrays.items() if key[1:] != draw}
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
        with exact_arithmetic():
            self.share_reference()
        for draw in self.plan.draws:
            if draw not in self.rows:
                self.rows[draw] = self.collect(draw)
        result = None
        if self.processes.rank == 0:
            with exact_arithmetic():
                result = self._result(latency)
        shared: EvalResult = self.processes.broadcast(result)
        return shared

    def share_reference(self) -> None:
        """The reference's rows by extractor, from the cache, or measured in one pass for all that is missing, a block a process.

        Every process must call it, and may again. What a run that is cut short has measured is kept, as generated images' is.
        """
        if not self.reference_is_here:
            self._share_reference()
            self.reference_is_here = True

    def _share_reference(self) -> None:
        names, began = self.plan.references, time.perf_counter()
        if self.processes.rank == 0:
            keys = {name: self.plan.reference_key(name) for name in names}
            self.reference = {name: entry for name, key in keys.items() if (entry := self.cache.get(key)) is not None}
        missing: tuple[str, ...] = self.processes.broadcast(tuple(name for name in names if name not in self.reference))
        self.found_reference = "none" if not names else "miss" if missing else "hit"
        if not missing:
            return
        parts = self.processes.gather(self._own_reference(missing))
        if not parts:
            return
        found = {start: rows for part in parts for start, rows in part.items()}
        said = {"reference_fingerprint": self.measurer.reference_sha256, "num_reference": self.plan.suite.num_reference}
        for name in missing:
            rows = np.concatenate([found[start].pop(name) for start in sorted(found)])
            self.reference[name] = Entry({"rows": rows}, said | {"suite": self.plan.suite.id})
            self.cache.put(self.plan.reference_key(name), {"rows": rows}, self.reference[name].manifest)
            self.cache.drop_blocks(self.plan.reference_key(name))
        self.seconds["features"] += time.perf_counter() - began

    def _own_reference(self, names: tuple[str, ...]) -> dict[int, Measured]:
        """Rows of this process's blocks of the reference, by their first image: kept by an earlier run, or measured."""
        count, size = self.plan.suite.num_reference, BlockSize(REFERENCE_BLOCK, self.plan.device)
        starts = [start for number, start in enumerate(range(0, count, size.size)) if self.processes.owns(number)]
        left = [range(start, min(start + size.size, count)) for start in starts]
        keys = {name: self.plan.reference_key(name) for name in names}
        numbers = {name: self.cache.block_numbers(key) for name, key in keys.items()}
        found: dict[int, Measured] = {}
        for rows in left if all(numbers.values()) else ():
            kept = {name: self.cache.get_rows(key, numbers[name], rows) for name, key in keys.items()}
            whole = {name: one[0]["rows"] for name, one in kept.items() if one is not None}
            found |= {rows.start: whole} if len(whole) == len(keys) else {}
        left = [rows for rows in left if rows.start not in found]
        every, done = sum(map(len, left)), 0
        while left:
            try:
                for rows, measured in self.measurer.of_reference(names, left, self.workers):
                    found[rows.start] = measured
                    for name, key in keys.items():
                        self.cache.put_block(key, rows.start, {"rows": measured[name]}, {"block_size": len(rows)})
                    done += len(rows)
                    if self.progress is not None and self.plan.archive is not None:  # the world's pictures take no time
                        self.progress("reference", done, every)
                left = []
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                size.halve(error, "what was measured of the images is kept")
                unmeasured = [rows for rows in left if rows.start not in found]
                left = [rows[start : start + size.size] for rows in unmeasured for start in range(0, len(rows), size.size)]
        return found

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
        plan, texts, reference, passes = self.plan, self.texts, self.reference, self.passes
        started = time.perf_counter()
        firsts = [self.rows.get((seed, 0), {}) for seed in plan.seeds]
        alike = are_alike(firsts)
        seeds = plan.seeds[:1] if alike else plan.seeds
        scored = [
            MetricRows(
                metric,
                plan.fingerprint_of(metric),
                [self._rows(metric, seed, latency, texts) for seed in seeds],
                floor=self._floor(metric),
            )
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
            model=ModelRecord(**plan.model.model_dump(), nfe=passes.levels if passes else plan.model.network_evaluations()),
            forward_passes=passes.recorded() if passes else None,
            suite=suite,
            conditions=Conditions(dtype=plan.dtype, device=plan.device.partition(":")[0], libraries=versions),
            metrics=with_cuts(metrics, plan, cuts),
            resumed_images=self.resumed_images,
            seconds=self.seconds | {"total": time.perf_counter() - self.began},
            provenance=made
            | {"threads": self.workers, "cache": cache, "cut_captions": cuts, "world_size": self.processes.size}
            | {"suite": plan.suite.protocol(), "protocols": {fingerprint(own): own for own in plan.protocols.values()}}
            | {"images": [plan.images_key(seed) for seed in plan.seeds]}
            | ({"seeds_alike": True} if alike else {})
            | ({"placement": asdict(plan.placement)} if plan.placement else {})
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
            "device": plan.device,
        }
        if name is None:
            return Rows(latency=latency, **common)
        images = plan.images_per_prompt if metric.images_per_prompt > 1 else 1
        reference, of_suite = None, metric.reference == "suite"
        if metric.reference != "none":
            reference = self.reference[name].arrays["rows"] if of_suite else _drawn(self.teacher, TEACHER_SEEDS[0], images, name)
        return Rows(
            generated=_drawn(self.rows, seed, images, name),
            reference=reference,
            folders=plan.archive.folders if of_suite and plan.archive is not None else None,
            images_per_prompt=images,
            extractor=plan.extractors[name],
            kept=self._kept(metric, name),
            text=texts[name]["text"] if metric.reads == "paired" else None,
            false_text=texts[name].get("false_text") if metric.reads == "paired" else None,
            **common,
        )

    def _floor(self, metric: MetricSpec) -> Rows | None:
        """The teacher's images of another seed against the reference of the same: what is left of the metric between equals."""
        if metric.reference != "teacher" or metric.extractor is None:
            return None
        images = self.plan.images_per_prompt if metric.images_per_prompt > 1 else 1
        other, reference = (_drawn(self.teacher, seed, images, metric.extractor) for seed in reversed(TEACHER_SEEDS))
        return Rows(generated=other, reference=reference, images_per_prompt=images, parameters=metric.parameters)

    def _kept(self, metric: MetricSpec, extractor: str) -> Callable[[str, Callable[[], NDArray[np.number]]], NDArray[np.number]]:
        """`Rows.kept` of a metric: arrays of the reference alone, from the cache, or computed and put there."""

        def kept(name: str, make: Callable[[], NDArray[np.number]]) -> NDArray[np.number]:
            code = [provenance.metrics_fingerprint(), provenance.plugin_fingerprint(metric.target)]
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


def _drawn(rows: dict[Draw, Measured], seed: int, images: int, extractor: str) -> NDArray[np.number]:
    """An extractor's rows of the first images of every caption, those of a caption beside each other."""
    drawn = [rows[seed, k][extractor] for k in range(images)]
    return drawn[0] if images == 1 else np.stack(drawn, axis=1).reshape(-1, *drawn[0].shape[1:])

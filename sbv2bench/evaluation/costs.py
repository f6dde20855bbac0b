"""What an evaluation will cost where that can be known: forward passes, arithmetic, disk, memory, and time by a rough estimate.

FLOPs an image are counted from the architectures (a multiply and an add are two), batch 1: a model's by its configs, or where
they are not at hand SD 2.1-base at 512 px; an extractor's are declared with it. A network that is neither has no figure, and none
is made up.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sbv2bench.data.assets import ASSET, HUB, offline
from sbv2bench.data.chain import model_files
from sbv2bench.data.hub import nothing_fetched
from sbv2bench.data.needs import Need
from sbv2bench.errors import InputError, SBV2BenchError
from sbv2bench.evaluation.choice import chosen_metrics, images_of_caption
from sbv2bench.evaluation.disk import cache_bytes, row_bytes
from sbv2bench.evaluation.download import Wanted, of_model
from sbv2bench.evaluation.options import EvalOptions
from sbv2bench.evaluation.own_suite import suite_of_run
from sbv2bench.evaluation.plan import EvalPlan, needs_of_run
from sbv2bench.evaluation.sampled_model import with_options
from sbv2bench.latency.architecture_flops import stage_gflop
from sbv2bench.machine.checks import available_device, chosen_dtype
from sbv2bench.machine.memory import ModelMemory, memory_of_model
from sbv2bench.registry import Registry
from sbv2bench.samplers.placement import OFFLOADS
from sbv2bench.specs import ExtractorSpec, MetricSpec, ModelSpec, SuiteSpec

SD21_512 = {"text": 45.0, "denoise": 804.0, "decode": 2515.0}
# Of that architecture at 512 px, all three parts.
_SD21_TEACHERS = "sd21 sd21-ddim sd21-cfg4.5 sd21-cfg4.5-ddim sd21-cfg7.5 sd21-cfg7.5-ddim"
_SD21_STUDENTS = "sd-turbo sd-turbo-euler swiftbrush sbv2-a sbv2-b sbv2-merged sbv2-merged-reg"
_SD21 = frozenset(f"full/{name}" for name in f"{_SD21_TEACHERS} {_SD21_STUDENTS}".split())
# Of a matrix product's rate that whole networks reach: on a CPU as the mini family does, elsewhere the estimate's one guess.
SHARES_OF_CEILING = {"cpu": 0.65}
SHARE_OF_CEILING = 0.3
_CEILING_SECONDS = 0.3


@dataclass(frozen=True)
class Work:
    """What is still to be computed. extractors: by id; references: those whose rows of the reference are not in the cache."""

    model: ModelSpec
    suite: SuiteSpec
    metrics: tuple[MetricSpec, ...]
    extractors: Mapping[str, ExtractorSpec]
    captions: int
    images: int
    calls_an_image: int
    references: tuple[str, ...] = ()

    @classmethod
    def of(cls, plan: EvalPlan) -> Work:
        """What a plan will compute, less what the cache has."""
        return cls(
            model=plan.model,
            suite=plan.suite,
            metrics=plan.metrics,
            extractors=plan.extractors,
            captions=len(plan.prompts),
            images=len(plan.prompts) * sum(bool(plan.missing(*draw)) for draw in plan.draws),
            calls_an_image=plan.passes_an_image(),
            references=plan.missing_references(),
        )

    def forward_passes(self) -> dict[str, int]:
        """Images through each network: the model's stages, and each extractor by its id."""
        generated = self.model.has_network()
        stages = {"text": self.images, "denoise": self.images * self.calls_an_image, "decode": self.images} if generated else {}
        measured = {name: self.images + (self.suite.num_reference if name in self.references else 0) for name in self.extractors}
        return stages | measured

    def teraflop(self, passes: Mapping[str, int], stages: Mapping[str, float]) -> dict[str, float]:
        """TFLOP of each network whose cost is known. stages: GFLOP an image by `stage_gflop`; texts are embedded once a run."""
        known = stages or (
            SD21_512 if self.model.id in _SD21 and (self.model.resolution, self.model.width) == (512, None) else {}
        )
        found = {name: passes[name] * known[name] / 1000 for name in ("text", "denoise", "decode") if name in passes and known}
        for name, extractor in self.extractors.items():
            if extractor.gflop_image is not None:
                texts = extractor.gflop_text * (self.captions if passes[name] else 0)
                found[name] = (passes[name] * extractor.gflop_image + texts) / 1000
        return found

    def describe(self, registry: Registry, device: str, dtype: str, *, cache: bool) -> dict[str, object]:
        """The cost part of `--dry-run`, JSON-ready."""
        passes = self.forward_passes()
        tflop = self.teraflop(passes, stage_gflop(self.model, registry) if self.model.has_network() else {})
        needs = needs_of_run(self.model, self.suite, self.metrics, registry)
        wanted = _wanted(self.model, needs, registry, dtype)
        memory = memory_of_model(self.model, registry, device, dtype)
        return {
            "forward_passes": passes,
            "tflop": {name: float(f"{cost:.4g}") for name, cost in tflop.items()},
            "disk_bytes": self._disk() if cache else 0,
            "memory_bytes": self._memory(memory),
            "fits": {way: memory.fits(way) for way in (OFFLOADS[:1] if device == "cpu" else OFFLOADS)},
            "estimated_seconds": _estimated_seconds(tflop, passes, device, dtype),
            "download_bytes": _downloads(wanted, needs),
            # What else is missing has to be brought by hand, or by `download`, before a run.
            "fetched_when_run": not offline() and all(item.location.startswith(HUB) for item in wanted if _absent(item)),
            "needs": [f"{need.location} ({need.what}), {need.licence or 'licence not stated'}" for need in needs],
            "missing": _missing(self.model, registry) + [f"{need.location} ({need.what})" for need in needs if need.missing],
            "licences": {self.model.id: self.model.licence or "not stated"},
        }

    def _disk(self) -> int:
        draws = [[*self.extractors.values()]] * (self.images // max(1, self.captions))
        return cache_bytes(draws, self.captions, [self.extractors[name] for name in self.references], self.suite.num_reference)

    def _memory(self, found: ModelMemory) -> dict[str, int | None]:
        """Bytes of weights as they are held, of one image's decoding beside them, of rows, and of the device.

        What else a block takes comes on top.
        """
        compared = {metric.extractor for metric in self.metrics if metric.reference == "suite"}
        rows = max(self.images, self.captions) * row_bytes(self.extractors.values())
        rows += self.suite.num_reference * row_bytes(spec for name, spec in self.extractors.items() if name in compared)
        return {
            "model_weights": found.weights,
            "largest_part": max(found.parts.values(), default=0),
            "decode": found.decode,
            "rows": rows,
        } | ({} if found.device is None else {"device": found.device})


def describe(plan: EvalPlan, registry: Registry) -> dict[str, object]:
    """What a plan costs, less what the cache has."""
    cached = [name for name in plan.references if name not in plan.missing_references()]
    work = Work.of(plan).describe(registry, plan.device, plan.dtype, cache=plan.options.use_cache)
    found = {"reference_in_cache": cached} | work
    if plan.teacher is not None:
        own = Work.of(plan.teacher).describe(registry, plan.device, plan.teacher.dtype, cache=plan.options.use_cache)
        kept = ("forward_passes", "tflop", "disk_bytes", "estimated_seconds")
        found["teacher_cost"] = {"model": plan.teacher.model.id, **{name: own[name] for name in kept}}
    return found


def outline(model_ref: str, suite_ref: str | SuiteSpec | None, options: EvalOptions, registry: Registry) -> dict[str, object]:
    """The same for a run that cannot be planned yet because files are missing. Raises InputError for unknown names."""
    suite = suite_ref if isinstance(suite_ref, SuiteSpec) else suite_of_run(model_ref, suite_ref, options, registry)
    work = whole_work(with_options(registry.model(model_ref, suite), options), suite, options, registry)
    device = available_device(options.device)
    head = {"model": work.model.id, "suite": f"{suite.id}@v{suite.version}", "images": work.images, "device": device}
    return head | work.describe(registry, device, chosen_dtype(options.dtype, device, work.model), cache=options.use_cache)


def whole_work(model: ModelSpec, suite: SuiteSpec, options: EvalOptions, registry: Registry) -> Work:
    """All that a run computes where nothing is in the cache, known from the declarations alone."""
    metrics = chosen_metrics(suite, model, options, registry)
    compared = {metric.extractor for metric in metrics if metric.reference == "suite"}
    extractors = registry.extractors_of(metrics)
    captions = min(suite.num_generated, options.limit or suite.num_generated)
    several = any(metric.images_per_prompt > 1 for metric in metrics)
    return Work(
        model=model,
        suite=suite,
        metrics=metrics,
        extractors=extractors,
        captions=captions,
        images=captions * options.repeats * (images_of_caption(suite, model, options) if several else 1),
        calls_an_image=model.denoiser_calls(),
        references=tuple(name for name in extractors if name in compared),
    )


def _wanted(model: ModelSpec, needs: Sequence[Need], registry: Registry, dtype: str) -> list[Wanted]:
    """The locations that a run reads: the model's, and of the suite's those that are not here."""
    files = {spec.location: spec.files for spec in registry.extractors.values()}
    own = [*of_model(registry, model, dtype)] if model.has_network() else []
    return own + [Wanted(need.location, files=files.get(need.location, ())) for need in needs if need.missing is not None]


def _downloads(wanted: Sequence[Wanted], needs: Sequence[Need]) -> dict[str, int | None]:
    """Location -> bytes that a run has to fetch of it; None where that is not known."""
    known = {need.location: need.bytes for need in needs}
    found = {item.location: item.bytes_to_fetch() for item in wanted if item.location.startswith(HUB)}
    found |= {item.location: known.get(item.location) for item in wanted if item.location.startswith(ASSET)}
    here = {item.location for item in wanted if not _absent(item)}
    return {location: size for location, size in found.items() if size or (size is None and location not in here)}


def _absent(wanted: Wanted) -> bool:
    try:
        with nothing_fetched():
            wanted.resolve(wanted.location, wanted.revision)
    except SBV2BenchError:
        return True
    return False


def _missing(model: ModelSpec, registry: Registry) -> list[str]:
    """The model's files that are not on this machine, in words."""
    try:
        if model.has_network() and (model.location or model.merge):
            with nothing_fetched():
                model_files(model, registry.model)
    except InputError:
        raise
    except SBV2BenchError as error:
        return [error.message.splitlines()[0]]
    return []


def _estimated_seconds(tflop: Mapping[str, float], passes: Mapping[str, int], device: str, dtype: str) -> dict[str, object]:
    """Seconds of the networks whose arithmetic is known, from the rate of a matrix product on this device.

    A rough figure: whole networks are taken to reach a share of that rate. unknown: networks without a figure.
    """
    rate = _ceiling(device, dtype) * SHARES_OF_CEILING.get(device, SHARE_OF_CEILING)
    unknown = [name for name, count in passes.items() if count and name not in tflop]
    return {"networks": round(1e12 * sum(tflop.values()) / rate, 1), "rate_gflops": round(rate / 1e9, 1), "unknown": unknown}


def _ceiling(device: str, dtype: str) -> float:
    """FLOP/s of square matrix products on the device, measured for a third of a second."""
    import torch

    side = 1024 if device == "cpu" else 4096
    matrix = torch.ones(side, side, device=device, dtype=getattr(torch, dtype))

    def product() -> None:
        torch.mm(matrix, matrix).sum().item()  # waits for the device

    product()
    began, count = time.perf_counter(), 0
    while count < 3 or time.perf_counter() - began < _CEILING_SECONDS:
        product()
        count += 1
    return 2.0 * side**3 * count / (time.perf_counter() - began)

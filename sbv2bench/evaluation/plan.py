"""Everything that is decided before the first forward pass, and everything cheap that can go wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property

from sbv2bench import paths, provenance
from sbv2bench.data.archive import ImageArchive
from sbv2bench.data.assets import ASSET, resolve_location
from sbv2bench.data.digests import trusting
from sbv2bench.data.extractor_files import with_weights
from sbv2bench.data.needs import Need, read_captions, require, suite_needs
from sbv2bench.data.prompts import Prompts, load_prompts
from sbv2bench.data.reference import reference_archive
from sbv2bench.data.training import trained_with
from sbv2bench.errors import InputError
from sbv2bench.evaluation.choice import check_enough, chosen_metrics, images_of_caption
from sbv2bench.evaluation.disk import cache_bytes, check_disk, image_bytes
from sbv2bench.evaluation.options import EvalOptions
from sbv2bench.evaluation.own_suite import suite_of_run
from sbv2bench.evaluation.sampled_model import model_weights, with_options
from sbv2bench.features.cache import FeatureCache
from sbv2bench.machine.checks import available_device, check_packages, check_results_folder, chosen_dtype
from sbv2bench.machine.inventory import is_here
from sbv2bench.machine.memory import chosen_placement
from sbv2bench.registry import Registry
from sbv2bench.results.records import Passes
from sbv2bench.samplers.placement import USUAL, Placement
from sbv2bench.specs import ExtractorSpec, MetricSpec, ModelSpec, SuiteSpec, fingerprint

# Generation seeds of a teacher's images, beyond all that --seed takes: shared noise would bring a student close to its teacher.
# The first are the reference, the second are compared with them: the distance of a teacher to itself.
TEACHER_SEEDS = (2**63, 2**63 + 1)


@dataclass(frozen=True)
class EvalPlan:
    """One evaluation, resolved: weights hashed, files found, folders proven writable.

    model: as it will be sampled, with its weights. suite: with the number of images really generated. extractors: those of its
    metrics, by id, located and hashed. metrics: as the suite has them; protocols: of each, by its id, everything that can change
    its numbers. needs: the files of the suite that it needs. archive, reference_sha256: of a reference in files. sampler_source:
    the hash of the source of a sampler that is not the package's own. placement: where the model's parts lie. device: "cpu",
    "cuda:0", ...; dtype: torch's name of it. teacher: how the images of the model's teacher are made, where a metric compares
    with them.
    """

    model: ModelSpec
    suite: SuiteSpec
    extractors: dict[str, ExtractorSpec]
    metrics: tuple[MetricSpec, ...]
    protocols: dict[str, dict[str, object]]
    prompts: Prompts
    seeds: tuple[int, ...]
    block_size: int
    device: str
    dtype: str
    partial: bool
    options: EvalOptions
    images_per_prompt: int = 1
    needs: tuple[Need, ...] = ()
    archive: ImageArchive | None = None
    reference_sha256: str | None = None
    placement: Placement = USUAL
    sampler_source: str | None = None
    teacher: EvalPlan | None = None

    @cached_property
    def references(self) -> tuple[str, ...]:
        """Ids of the extractors that the reference is measured by, for metrics that compare with it."""
        wanted = {metric.extractor for metric in self.metrics if metric.reference == "suite"}
        return tuple(name for name in self.extractors if name in wanted)

    def extractors_of_image(self, k: int) -> tuple[str, ...]:
        """Ids of the extractors that image k of each caption is measured by: beyond the first, those of metrics of several."""
        wanted = {
            metric.extractor for metric in self.metrics if k < (1 if metric.images_per_prompt == 1 else self.images_per_prompt)
        }
        return tuple(name for name in self.extractors if name in wanted)

    @cached_property
    def draws(self) -> tuple[tuple[int, int], ...]:
        """(seed, k) of every image of a caption, in the order in which they are made."""
        return tuple((seed, k) for seed in self.seeds for k in range(self.images_per_prompt) if self.extractors_of_image(k))

    @property
    def needs_latency(self) -> bool:
        """Whether a metric is measured with a clock."""
        return any(metric.reads == "latency" for metric in self.metrics)

    @cached_property
    def _ground(self) -> dict[str, object]:
        """What any computed array depends on besides its inputs: code, libraries, kind of device."""
        libraries = {name: provenance.library_version(package) for name, package in provenance.LIBRARIES.items()}
        kind = self.device.partition(":")[0]  # processes of one run have a GPU each
        return {"code": provenance.measuring_fingerprint(), "libraries": libraries, "device": kind}

    def _seen_by(self, extractor: str) -> dict[str, object]:
        spec = self.extractors[extractor]
        own = {"extractor": spec.protocol(), "source": provenance.plugin_fingerprint(spec.kind)}
        return {**self._ground, **own, "preparation": self.suite.preparation_for(spec)}

    @cached_property
    def _images(self) -> dict[str, object]:
        return {
            "model": self.model.protocol(),
            "sampler": self.sampler_source,
            "prompts": [self.suite.prompts.protocol(), self.prompts.sha256, len(self.prompts)],
            "dtype": self.dtype,
        } | ({"vae_tiling": True} if self.placement.vae_tiling else {})

    def images_key(self, seed: int) -> str:
        """What stands for the first image of every caption of a seed, by whatever extractor they are measured (64 hex digits)."""
        return fingerprint({**self._ground, **self._images, "seed": seed})

    def generated_key(self, extractor: str, seed: int, k: int = 0) -> str:
        """Cache key (64 hex digits) of what an extractor gives for image k of every caption of a seed."""
        return fingerprint({**self._seen_by(extractor), **self._images, "seed": seed, "k": k})

    def reference_key(self, extractor: str) -> str:
        """Cache key (64 hex digits) of the reference's rows: which images, by which code, seen by which network."""
        photographs = self.suite.reference
        drawn = (self.suite.rendered or self.suite.prompts).protocol()
        images = drawn if photographs is None else [self.reference_sha256, photographs.is_turned]
        return fingerprint({**self._seen_by(extractor), "reference": [images, self.suite.num_reference]})

    def text_key(self, extractor: str) -> str:
        """Cache key (64 hex digits) of the captions' embeddings by a paired extractor, and of their hard negatives'."""
        captions = [self.prompts.sha256, self.prompts.false_captions is not None and fingerprint(self.prompts.false_captions)]
        return fingerprint({**self._seen_by(extractor), "text": captions})

    @cached_property
    def counted(self) -> Passes | None:
        """Forward passes that were counted when images that are in the cache were made; None where none were."""
        cache = FeatureCache(paths.features_dir(), self.options.use_cache)
        keys = (self.generated_key(name, *draw) for draw in self.draws for name in self.extractors_of_image(draw[1]))
        found = (Passes.of_manifest(cache.manifest(key).get("forward_passes")) for key in keys)
        return next((passes for passes in found if passes is not None), None)

    def passes_an_image(self) -> int:
        """Forward passes of the denoiser for one image: those that were counted, else as declared."""
        return self.model.denoiser_calls() if self.counted is None else round(self.counted.rows_an_image)

    def cache_bytes(self) -> int:
        """Bytes of cache that the run writes, at its fullest."""
        missing = [self.missing(seed, k) for seed, k in self.draws]
        references = [self.extractors[name] for name in self.missing_references()]
        seeds = [[self.extractors[name] for name in names] for names in missing if names]
        return cache_bytes(seeds, len(self.prompts), references, self.suite.num_reference)

    def saved_bytes(self) -> int:
        """Bytes of the images that it saves."""
        height = self.model.resolution or (32 if self.suite.family == "mini" else 512)
        count = {"none": 0, "sample": 32, "all": len(self.prompts)}[self.options.save_images]
        return image_bytes(count, height, self.model.width or height)

    def missing(self, seed: int, k: int = 0) -> tuple[str, ...]:
        """The extractors whose rows of image k of every caption of a seed are not in the cache."""
        cache = FeatureCache(paths.features_dir(), self.options.use_cache)
        return tuple(name for name in self.extractors_of_image(k) if not cache.has(self.generated_key(name, seed, k)))

    def is_cached(self, seed: int) -> bool:
        """Whether every image of a seed was measured before, by every extractor."""
        return not any(self.missing(*draw) for draw in self.draws if draw[0] == seed)

    def missing_references(self) -> tuple[str, ...]:
        """The extractors whose rows of the reference are not in the cache."""
        cache = FeatureCache(paths.features_dir(), self.options.use_cache)
        return tuple(name for name in self.references if not cache.has(self.reference_key(name)))

    def fingerprint_of(self, metric: MetricSpec) -> str:
        """The metric's, SHA-256 (64 hex digits)."""
        return fingerprint(self.protocols[metric.id])

    def describe(self) -> dict[str, object]:
        """The plan in JSON-ready words, for --dry-run."""
        return {
            "model": self.model.id,
            "sampler": self.model.sampler,
            "nfe": self.model.network_evaluations() if self.counted is None else self.counted.levels,
            "guidance_scale": self.model.guidance_scale,
            "weights": [file.model_dump() for file in self.model.weights],
            "suite": f"{self.suite.id}@v{self.suite.version}",
            "images": len(self.prompts) * len(self.seeds),
            "teacher": None if self.teacher is None else self.teacher.model.id,
            "denoiser_calls": len(self.prompts) * len(self.seeds) * self.passes_an_image(),
            "forward_passes_counted": self.counted is not None,
            "seeds_in_cache": [seed for seed in self.seeds if self.is_cached(seed)],
            "num_generated": len(self.prompts),
            "num_reference": self.suite.num_reference if self.references else None,
            "images_per_prompt": self.images_per_prompt,
            "metrics": [metric.id for metric in self.metrics],
            "fingerprints": {metric.id: self.fingerprint_of(metric) for metric in self.metrics},
            "seeds": list(self.seeds),
            "block_size": self.block_size,
            "device": self.device,
            "dtype": self.dtype,
            **asdict(self.placement),
            "partial": self.partial,
            "results": str(self.options.results),
        }


def plan(model_ref: str | ModelSpec, suite_ref: str | SuiteSpec | None, options: EvalOptions, registry: Registry) -> EvalPlan:
    """Resolve names, files and folders into a plan; no network is run, and without the cache no remembered hash is trusted.

    model_ref: a name, or the spec of a model that somebody holds in memory.
    suite_ref: as `suite_of_run` takes it, or what that gave. Raises InputError (names, options, folders), PrerequisiteError
    (weights, packages, device), IntegrityError (hashes, counts, images, disk).
    """
    with trusting(options.use_cache):
        return _plan(model_ref, suite_ref, options, registry)


def _plan(model_ref: str | ModelSpec, suite_ref: str | SuiteSpec | None, options: EvalOptions, registry: Registry) -> EvalPlan:
    if isinstance(model_ref, ModelSpec):
        declared = suite_ref if isinstance(suite_ref, SuiteSpec) else registry.suite(suite_ref or registry.default_suite("mini"))
        model = with_options(model_ref, options)
    else:
        declared = suite_ref if isinstance(suite_ref, SuiteSpec) else suite_of_run(model_ref, suite_ref, options, registry)
        model = with_options(registry.model(model_ref, declared), options)
    metrics = chosen_metrics(declared, model, options, registry)
    needs = tuple(needs_of_run(model, declared, metrics, registry))
    require(registry, declared, needs)
    read = declared.prompts.location in {need.location for need in needs} or is_here(registry, declared.prompts.location)
    prompts = load_prompts(declared, options.limit, registry.assets, read=read)
    suite = declared.model_copy(update={"num_generated": len(prompts)})
    check_enough(metrics, suite, options.limit, registry)
    check_results_folder(options.results)
    extractors = {name: _resolved(spec, registry) for name, spec in registry.extractors_of(metrics).items()}
    compared = any(metric.reference == "suite" for metric in metrics)
    at_hand = suite.reference is not None and is_here(registry, suite.reference.location)
    archive = reference_archive(suite, registry.assets) if compared or at_hand else None
    reference_sha256 = archive.content_sha256() if archive is not None else _declared_reference(suite)
    check_packages()
    device = available_device(options.device)
    dtype = chosen_dtype(options.dtype, device, model)
    from sbv2bench.samplers.defaults import settled

    model = settled(model, dtype)
    weights = model_weights(model, declared, prompts, registry, dtype)
    said = trained_with(model, lambda end: registry.model(end, declared))
    model = model.model_copy(update={"weights": weights, "trained_with": said})
    images = images_of_caption(declared, model, options)
    found = {metric.id: extractors.get(metric.extractor or "") for metric in metrics}
    source = provenance.plugin_fingerprint(registry.sampler(model.sampler).target)
    planned = EvalPlan(
        model=model,
        suite=suite,
        extractors=extractors,
        metrics=metrics,
        prompts=prompts,
        seeds=tuple(range(options.seed, options.seed + options.repeats)),
        block_size=options.block_size(suite.block_size, device),
        device=device,
        dtype=dtype,
        partial=len(prompts) < declared.num_generated,
        protocols={
            metric.id: suite.metric_protocol(metric, found[metric.id], prompts.sha256, reference_sha256, images)
            for metric in metrics
        },
        options=options,
        images_per_prompt=images,
        needs=needs,
        archive=archive,
        reference_sha256=reference_sha256,
        sampler_source=source,
        placement=chosen_placement(model, registry, (device, dtype), options.offload, options.decoded_together(suite.block_size)),
    )
    if any(metric.reference == "teacher" for metric in metrics):
        planned = _with_teacher(planned, declared, registry)
    if archive is not None and planned.missing_references():
        archive.check_headers()
    check_disk(planned.cache_bytes(), planned.saved_bytes(), options)
    return planned


def _with_teacher(planned: EvalPlan, declared: SuiteSpec, registry: Registry) -> EvalPlan:
    """The plan with that of its teacher, as the teacher's own spec samples it; it is part of what those metrics' numbers mean."""
    from sbv2bench.samplers.defaults import settled

    options = replace(planned.options, steps=None, guidance_scale=None, seed=0, repeats=1)
    try:
        teacher = with_options(registry.model(planned.model.teacher, declared), options)
    except InputError as error:
        raise InputError(f"teacher of {planned.model.id}: {error.message}", error.fix) from error
    dtype = chosen_dtype(options.dtype, planned.device, teacher)
    teacher = settled(teacher, dtype)
    weights = model_weights(teacher, declared, planned.prompts, registry, dtype)
    teacher = teacher.model_copy(update={"weights": weights})
    compared = tuple(metric for metric in planned.metrics if metric.reference == "teacher")
    drawn = replace(
        planned,
        model=teacher,
        metrics=tuple(metric.model_copy(update={"reference": "none"}) for metric in compared),
        seeds=TEACHER_SEEDS,
        dtype=dtype,
        placement=chosen_placement(teacher, registry, (planned.device, dtype), options.offload, planned.block_size),
        sampler_source=provenance.plugin_fingerprint(registry.sampler(teacher.sampler).target),
        archive=None,
    )
    said = {"teacher": teacher.protocol(), "seed": TEACHER_SEEDS[0], "dtype": dtype}
    protocols = {metric.id: planned.protocols[metric.id] | {"reference": said} for metric in compared}
    return replace(planned, teacher=drawn, protocols=planned.protocols | protocols)


def needs_of_run(model: ModelSpec, suite: SuiteSpec, metrics: Sequence[MetricSpec], registry: Registry) -> list[Need]:
    """The files of a suite that a run of some metrics takes; captions are read by the model that draws them, and by metrics."""
    captions = model.images != "files" or bool(read_captions(metrics))
    return suite_needs(registry, suite, metrics, captions=captions)


def _declared_reference(suite: SuiteSpec) -> str | None:
    """The hash of photographs that no metric of this run looks at, where the suite says it."""
    return None if suite.reference is None else suite.reference.content_sha256


def _resolved(spec: ExtractorSpec, registry: Registry) -> ExtractorSpec:
    """The extractor with its weights' hashes, where it has a location; a download's location is where its file lies."""
    if spec.location.startswith(ASSET):
        spec = spec.model_copy(update={"location": str(resolve_location(spec.location, assets=registry.assets))})
    return with_weights(spec) if spec.location else spec

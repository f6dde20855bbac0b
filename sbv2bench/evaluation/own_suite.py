"""The suite of a run: the one that is named, or `own`, made of captions and photographs that a user names.

`own` is complete in itself: extractors and metrics come from another suite, captions are what the file says and the reference is
what the folder holds, both known by their SHA-256. Images are measured as they are, unless that other suite prepares them or
an extractor takes one size only; which it is, the suite says.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sbv2bench.data.archive import ImageArchive
from sbv2bench.data.assets import resolve_location
from sbv2bench.data.caption_files import captions_sha256
from sbv2bench.data.images import ImageFolder
from sbv2bench.data.needs import read_captions
from sbv2bench.data.own_captions import read_own_captions
from sbv2bench.data.preparation import preparation_of
from sbv2bench.errors import InputError, IntegrityError
from sbv2bench.evaluation.options import EvalOptions
from sbv2bench.registry import OWN_SUITE, Registry
from sbv2bench.specs import ExtractorSpec, MetricSpec, ModelSpec, PromptSpec, ReferenceSpec, SuiteMetric, SuiteSpec

Changes = dict[str, Any]
_COUNT = re.compile(r"-\d+k?$")  # a suffix of labels that names a number of images, which is another's


def suite_of_run(model_ref: str, suite: str | None, options: EvalOptions, registry: Registry) -> SuiteSpec:
    """What a model is measured against. suite: None is `mini`, or with data of one's own the first of the model's family.

    Raises InputError (names, options), and what reading captions and photographs raises.
    """
    family = registry.model(model_ref).family if options.has_own_data() and suite is None else "mini"
    if suite in registry.groups and options.has_own_data():
        parts = registry.groups[suite].suites
        raise InputError(f"--suite {suite}: it is {len(parts)} suites, expected one with data of your own", f"--suite {parts[0]}")
    base = registry.suite(suite if suite is not None else registry.default_suite(family))
    model = registry.model(model_ref, base)
    images = ImageFolder(resolve_location(model.location)) if model.images == "files" else None
    if not options.has_own_data() and (images is None or _fits(images, base, options)):
        return base
    chosen = registry.metrics_of(base, options.named_metrics)
    return _own(base, (model, images), chosen, options, registry)


def _fits(images: ImageFolder, suite: SuiteSpec, options: EvalOptions) -> bool:
    """Whether a folder holds an image for each caption of a suite, or of the first of them."""
    return len(images) in {suite.num_generated, options.limit}


def _own(
    base: SuiteSpec,
    generated: tuple[ModelSpec, ImageFolder | None],
    chosen: Sequence[MetricSpec],
    options: EvalOptions,
    registry: Registry,
) -> SuiteSpec:
    """generated: the model, and its images where they are there already. chosen: the metrics asked for."""
    model, images = generated
    changes: Changes = {"id": OWN_SUITE, "version": 1, "label_suffix": _COUNT.sub("", base.label_suffix), "look": 0}
    changes |= _prompts(base, images, chosen, options)
    photographs = _photographs(options)
    changes |= _reference(base, changes, photographs, options)
    changes["metrics"] = kept = _metrics(base, changes, registry)
    left = options.named_metrics or [metric.id for metric in kept]
    measured = registry.extractors_of(metric for metric in chosen if metric.id in left).values()
    sizes = [] if photographs is None else photographs.check_headers()
    changes["preparation"] = _preparation(base, measured, [*sizes, *_known_sizes(model, images, options)])
    taken = [] if "prompts" in changes else ["captions"]
    taken += ["reference"] if "reference" not in changes and base.num_reference else []
    changes["inherited"] = f"{base.id}: {', '.join([*taken, 'extractors', 'metrics'])}"
    changes["description"] = "captions or photographs of one's own"
    return SuiteSpec.model_validate(base.model_dump() | changes)


def _prompts(base: SuiteSpec, images: ImageFolder | None, chosen: Sequence[MetricSpec], options: EvalOptions) -> Changes:
    """The captions: of the user's file; or the suite's; or, for images that are there already, none where none are read."""
    path = options.prompts
    if path is not None:
        own = read_own_captions(path, named=images is not None)
        if images is not None:
            own.require_images(path, [file.name for file in images.files])
        spec = PromptSpec(kind="file", location=str(path.absolute()), captions_sha256=captions_sha256(own.captions))
        return {"prompts": spec, "num_generated": len(own.captions)}
    if images is None:
        return {}
    readers = read_captions(chosen)
    if readers and _fits(images, base, options):
        return {}
    if readers and (options.named_metrics is not None or options.reference in (None, "none")):
        lacking = {"suite", "teacher"} if options.reference == "none" else set()
        others = [
            metric.id
            for metric in chosen
            if metric.id not in readers and metric.reads != "latency" and metric.reference not in lacking
        ]
        raise IntegrityError(
            f"image folder: {images.path} holds {len(images):,} images for the {base.num_generated:,} captions of suite "
            f"{base.id}, which {', '.join(readers)} read, expected one each, in order",
            "--prompts FILE with a caption for each image" + (f", or --metrics {','.join(others)}" if others else ""),
        )
    if len(images) < 2:
        raise InputError(f"image folder: {images.path} holds {len(images)} image, expected at least two")
    return {"prompts": PromptSpec(kind="none"), "num_generated": len(images)}


def _photographs(options: EvalOptions) -> ImageArchive | None:
    return ImageArchive(Path(options.reference)) if options.reference not in (None, "none") else None


def _reference(base: SuiteSpec, changes: Changes, photographs: ImageArchive | None, options: EvalOptions) -> Changes:
    """The photographs of the user's folder or archive; or none; or the suite's, which own captions do not change."""
    if photographs is not None:
        spec = ReferenceSpec(location=str(photographs.path.absolute()), content_sha256=photographs.content_sha256())
        return {"reference": spec, "num_reference": len(photographs), "rendered": None}
    if options.reference == "none":
        return {"reference": None, "num_reference": 0, "rendered": None}
    if base.reference is None and base.num_reference and "prompts" in changes:
        return {"rendered": base.rendered or base.prompts}
    return {}


def _metrics(base: SuiteSpec, changes: Changes, registry: Registry) -> list[SuiteMetric]:
    """Those of the suite that can still be computed."""
    prompts: PromptSpec = changes.get("prompts", base.prompts)
    compared = bool(changes.get("num_reference", base.num_reference))
    kept = []
    for one, metric in zip(base.metrics, registry.metrics_of(base, [one.id for one in base.metrics]), strict=True):
        captions = (
            not metric.reads_captions or prompts.kind == "world" or (prompts.kind != "none" and metric.reads != "attributes")
        )
        if captions and (compared or metric.reference != "suite"):
            kept.append(one)
    return kept


def _known_sizes(model: ModelSpec, images: ImageFolder | None, options: EvalOptions) -> list[tuple[int, int]]:
    """(width, height) of the generated images, as far as it is known without loading the model."""
    if images is not None:
        return [images.size]
    height, width = options.resolution or (model.resolution, model.width or model.resolution)
    return [(width, height)] if width is not None and height is not None else []


def _preparation(base: SuiteSpec, extractors: Iterable[ExtractorSpec], sizes: list[tuple[int, int]]) -> str | None:
    if base.preparation is not None:
        return base.preparation
    from sbv2bench.features.base import extractor_class  # imports torch, which a wrong name must not wait for

    classes = [extractor_class(extractor) for extractor in extractors]
    sides = {side for found in classes if isinstance(side := getattr(found, "image_size", None), int)}
    if len(sides) != 1 or {*sizes} <= {(side, side) for side in sides}:
        return None
    return preparation_of(sides.pop())


def own_data(suite: SuiteSpec, metrics: Iterable[MetricSpec], options: EvalOptions) -> dict[str, object]:
    """What a suite `own` was made of, by the names that were given; what it hashes to is in the metrics' protocols."""
    named = {"prompts": options.prompts, "reference": options.reference}
    return {
        "from": suite.inherited,
        **{part: None if path is None else str(path) for part, path in named.items()},
        "preparation": suite.preparation or "none: images as they are",
        "resolution": None if options.resolution is None else list(options.resolution),
        "metrics": [metric.id for metric in metrics],
    }

"""Which metrics a run computes, and whether there are images enough for each: known before the first of them is made."""

from __future__ import annotations

from collections.abc import Sequence

from sbv2bench.data.needs import suite_needs
from sbv2bench.data.preparation import side_of
from sbv2bench.data.remarks import say_once
from sbv2bench.errors import InputError
from sbv2bench.evaluation.options import EvalOptions
from sbv2bench.evaluation.score import target_of
from sbv2bench.mini.world import IMAGE_SIZE
from sbv2bench.registry import Registry
from sbv2bench.specs import MetricSpec, ModelSpec, SuiteSpec


def chosen_metrics(suite: SuiteSpec, model: ModelSpec, options: EvalOptions, registry: Registry) -> tuple[MetricSpec, ...]:
    """The metrics asked for, as the suite has them: by default the suite's own; with "all", all that can be had here.

    Raises InputError for an unknown one, one that the suite or the model cannot give, or none at all.
    """
    if options.metrics == "all":
        flags = dict.fromkeys([*(metric.id for metric in suite.metrics), *registry.metrics])
        every = registry.metrics_of(suite, flags)
        chosen = tuple(metric for metric in every if _can_be_had(metric, suite, model, options, registry))
    else:
        chosen = registry.metrics_of(suite, options.metrics)
        if options.metrics is None:
            left_out = {"scores"} if model.has_network() else {"scores", "latency"}
            chosen = tuple(metric for metric in chosen if metric.reads not in left_out)
    images = images_of_caption(suite, model, options)
    for metric in chosen:
        if metric.images_per_prompt > images and metric.reads != "scores":
            found = f"--images-per-prompt: found {images}, metric {metric.id} needs at least {metric.images_per_prompt} images"
            if model.images == "files":
                left = without(chosen, [one.id for one in chosen if one.images_per_prompt > 1])
                raise InputError(f"{found} of each caption, and a folder of images has one of each", left)
            raise InputError(f"{found} of each caption", f"--images-per-prompt {max(4, metric.images_per_prompt)}")
    lacking = {metric.id: lacks(metric, suite, model, registry) for metric in chosen}
    for metric in chosen:
        if lacking[metric.id]:
            of_model = metric.reads == "latency" or "a teacher" in lacking[metric.id]
            who = (
                f"model {model.id}{'' if model.has_network() else ', which no network generates,'}"
                if of_model
                else f"suite {suite.id}"
            )
            left = without(chosen, [name for name, parts in lacking.items() if parts]) or _others(suite, model, registry)
            raise InputError(f"--metrics {metric.id}: it needs {', '.join(lacking[metric.id])}, which {who} does not have", left)
    if not chosen:
        raise InputError(f"suite {suite.id}: no metric is left of those that it names", "sbv2bench list metrics")
    registry.extractors_of(chosen)  # raises where one is not known
    for metric in chosen:
        target_of(metric)  # raises where it cannot be imported
    return chosen


def images_of_caption(suite: SuiteSpec, model: ModelSpec, options: EvalOptions) -> int:
    """How many images of each caption are made: as asked for, else the suite's.

    Raises InputError where several are asked of a folder of images, which has one of each.
    """
    if model.images != "files":
        return options.images_per_prompt or suite.images_per_prompt
    if (options.images_per_prompt or 1) > 1:
        found = f"--images-per-prompt: found {options.images_per_prompt}"
        raise InputError(f"{found}, and {model.id} is a folder with one image of each caption", "--images-per-prompt 1")
    return 1


def lacks(metric: MetricSpec, suite: SuiteSpec, model: ModelSpec, registry: Registry) -> list[str]:
    """What a metric needs that a suite, or a model, does not have, in words."""
    found = []
    if metric.reads == "scores":
        found.append("scores that were imported")
    if metric.reads == "latency" and not model.has_network():
        found.append("latency")
    if metric.reads_captions and suite.prompts.kind == "none":
        found.append("captions")
    elif metric.reads == "attributes" and suite.prompts.kind != "world":
        found.append("attributes")
    if metric.reference == "suite" and not suite.num_reference:
        found.append("reference")
    if metric.reference == "teacher" and not model.teacher:
        found.append("a teacher")
    if not found and metric.extractor is not None and not suite.names_extractor(metric.id):
        family = registry.extractor(metric.extractor).family
        if family not in (None, suite.family):
            found.append(f"images of family {family}, for which its extractor {metric.extractor} is made")
    return found


def _can_be_had(metric: MetricSpec, suite: SuiteSpec, model: ModelSpec, options: EvalOptions, registry: Registry) -> bool:
    """Whether a metric fits a suite, and everything that it reads is on this machine."""
    if lacks(metric, suite, model, registry) or metric.images_per_prompt > images_of_caption(suite, model, options):
        return False
    least, count = least_images(metric, registry), min(suite.num_generated, options.limit or suite.num_generated)
    enough = count >= least and (metric.reference != "suite" or suite.num_reference >= least)
    if not enough or any(need.missing is not None for need in suite_needs(registry, suite, [metric], captions=False)):
        return False
    side, size = _declared(metric, "image_size", registry), _known_side(metric, suite, model, registry)
    if side and size and side != size:
        say_once(f"--metrics all: {metric.id} is left out, its extractor {metric.extractor} takes {side} px and these are {size}")
        return False
    return True


def _known_side(metric: MetricSpec, suite: SuiteSpec, model: ModelSpec, registry: Registry) -> int | None:
    """Pixels of a side of the images that a metric's extractor will see, where that is known before any is made."""
    prepared = None if metric.extractor is None else side_of(suite.preparation_for(registry.extractor(metric.extractor)))
    if prepared is not None:
        return prepared
    return model.resolution or (IMAGE_SIZE if suite.family == "mini" and model.images != "files" else None)


def _others(suite: SuiteSpec, model: ModelSpec, registry: Registry) -> str | None:
    left = [metric.id for metric in registry.metrics_of(suite) if not lacks(metric, suite, model, registry)]
    return f"--metrics {','.join(left)}" if left else None


def check_enough(metrics: Sequence[MetricSpec], suite: SuiteSpec, limit: int | None, registry: Registry) -> None:
    """Raises InputError unless every metric has the images that it needs at least. suite: with the images really generated."""
    few: dict[str, str] = {}
    least_of_all = 2
    for metric in metrics:
        least = least_images(metric, registry)
        least_of_all = max(least_of_all, least)
        if suite.num_generated < least:
            few[metric.id] = f"{suite.num_generated:,} images, expected at least {least:,}"
        elif metric.reference == "suite" and suite.num_reference < least:
            few[metric.id] = f"{suite.num_reference:,} images in the reference, expected at least {least:,}"
    if few:
        name, found = next(iter(few.items()))
        enough = limit is not None and "reference" not in found and least_of_all <= suite.num_reference
        fix = f"--limit {least_of_all}" if enough else without(metrics, [*few])
        where = f"--limit {limit}" if limit is not None and "reference" not in found else f"suite {suite.id}"
        raise InputError(f"{where}: metric {name} has {found}", fix)


def least_images(metric: MetricSpec, registry: Registry) -> int:
    """Images of either set that a metric needs at least; by its features' number as far as their extractor says it."""
    width = _declared(metric, "dimension", registry) if metric.least_a_feature else 0
    return max(metric.least, metric.least_a_feature * width)


def _declared(metric: MetricSpec, attribute: str, registry: Registry) -> int:
    """A number that the class of a metric's extractor says of itself; 0 where it says none."""
    if metric.extractor is None:
        return 0
    from sbv2bench.features.base import extractor_class  # imports torch, which a wrong name must not wait for

    found = getattr(extractor_class(registry.extractor(metric.extractor)), attribute, None)
    return found if isinstance(found, int) else 0


def without(metrics: Sequence[MetricSpec], names: Sequence[str]) -> str | None:
    """`--metrics` with all of them but some; None where none is left."""
    left = [metric.id for metric in metrics if metric.id not in names]
    return f"--metrics {','.join(left)}" if left else None

"""The model of a run: as its options have it sampled, with the hashes of all that decides its images."""

from __future__ import annotations

from sbv2bench import provenance
from sbv2bench.data.assets import resolve_location
from sbv2bench.data.chain import model_files
from sbv2bench.data.images import ImageFolder
from sbv2bench.data.prompts import Prompts
from sbv2bench.errors import InputError
from sbv2bench.evaluation.options import EvalOptions
from sbv2bench.registry import Registry
from sbv2bench.specs import ModelSpec, SuiteSpec, WeightsFile, fingerprint


def with_options(model: ModelSpec, options: EvalOptions) -> ModelSpec:
    """The model with --steps, --guidance-scale and --resolution in place of its own.

    Raises InputError where it has no such setting, or no seeds and another than the first is asked for.
    """
    if not model.has_seeds() and (options.repeats > 1 or options.seed):
        option, value = ("--repeats", options.repeats) if options.repeats > 1 else ("--seed", options.seed)
        raise InputError(
            f"{option}: found {value} for model {model.id}, whose images exist already and have no seeds: "
            "every seed would count the same images again",
            "--repeats 1" if options.repeats > 1 else "--seed 0",
        )
    wanted = {"steps": options.steps, "guidance_scale": options.guidance_scale}
    changes: dict[str, object] = {name: value for name, value in wanted.items() if value is not None}
    if changes and (model.one_step or not model.has_network()):
        name = next(iter(changes))
        raise InputError(f"--{name.replace('_', '-')}: model {model.id} is sampled by {model.sampler}, which has no such setting")
    for name, levels in (("timesteps", model.timesteps), ("sigmas", model.sigmas)):
        if "steps" in changes and levels:
            asked = ", ".join(map(str, levels))
            raise InputError(f"--steps: model {model.id} is asked at its own {name} ({asked}), their number cannot be changed")
    if options.resolution is not None:
        if not model.has_network():
            raise InputError(f"--resolution: model {model.id} is sampled by {model.sampler}, which has no such setting")
        height, width = options.resolution
        changes |= {"resolution": height, "width": None if width == height else width}
    unstated = tuple(name for name in model.unstated if name not in changes)
    return model.model_copy(update={**changes, "unstated": unstated})


def model_weights(
    model: ModelSpec, suite: SuiteSpec, prompts: Prompts, registry: Registry, dtype: str
) -> tuple[WeightsFile, ...]:
    """Every file that decides the model's images, with its hash: its own, its bases', and of a merged model both its ends'."""
    if model.images == "files":
        return _image_files(model, suite, prompts)
    if not model.location and model.merge is None:  # drawn by code alone: the world's renderings, a plugin's function
        return ()
    return model_files(model, lambda end: registry.model(end, suite), dtype)


def _image_files(model: ModelSpec, suite: SuiteSpec, prompts: Prompts) -> tuple[WeightsFile, ...]:
    """One hash over all images of a folder, by name and content. Raises IntegrityError if they are not one for each caption."""
    folder = ImageFolder(resolve_location(model.location))
    if len(folder) != suite.num_generated:  # a folder for the whole suite may be looked at in part
        folder.require_count(len(prompts))
    return image_files(folder, len(prompts))


def image_files(folder: ImageFolder, count: int | None = None) -> tuple[WeightsFile, ...]:
    """One hash over the first images of a folder, or all of them, by name and content: what stands for a model's weights."""
    files = folder.files[:count]
    content = [[path.name, provenance.sha256_file(path)] for path in files]
    turned = sum(path.name in folder.turned for path in files)
    words = f"{len(content)} images" + (f", {turned} of them turned as their EXIF says" if turned else "")
    return (WeightsFile(path=words, sha256=fingerprint(content)),)

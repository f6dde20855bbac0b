"""What a pipeline does where nobody has said how to sample it: the defaults of its own call."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

import diffusers

from sbv2bench.data.assets import read_json
from sbv2bench.data.chain import model_files
from sbv2bench.data.parts import INDEX
from sbv2bench.data.remarks import say_once
from sbv2bench.samplers.pipeline_call import check_kind
from sbv2bench.samplers.pipeline_class import part_config, pipeline_class, pipeline_folder
from sbv2bench.specs import ModelSpec

_SCALES = ("guidance_scale", "true_cfg_scale")


def settled(spec: ModelSpec, dtype: str | None = None) -> ModelSpec:
    """The model with what its spec leaves unstated as its pipeline's class in diffusers has it; that is said once.

    dtype: as in `chain`, since the model's files are found, and fetched where they may be. A setting of which the class has
    no default keeps the spec's. Raises what `chain`, `pipeline_class` and `check_kind` raise.
    """
    sampled_by_class = spec.sampler == "pipeline" and not spec.merge and bool(spec.location)
    if not spec.unstated and not sampled_by_class:
        return spec
    folder = pipeline_folder(spec, dtype)
    name = read_json(folder / INDEX).get("_class_name") if folder is not None else None
    kind = getattr(diffusers, str(name), None)
    if sampled_by_class and folder is not None:
        kind = pipeline_class(folder, spec.requires)
    if spec.unstated:
        found = _defaults(kind, folder, spec, dtype) if inspect.isclass(kind) and folder is not None else {}
        _say(spec, str(name), found)
        spec = spec.model_copy(update={**found, "unstated": ()})
    if sampled_by_class and kind is not None:
        check_kind(spec, kind)
    return spec


def _say(spec: ModelSpec, name: str, found: Mapping[str, object]) -> None:
    words = {"steps": f"{found.get('steps')} steps", "guidance_scale": f"guidance {found.get('guidance_scale')}"}
    if taken := [setting for setting in words if setting in found]:
        said = " and ".join(words[setting] for setting in taken)
        options = " and ".join(f"--{setting.replace('_', '-')}" for setting in taken)
        say_once(f"model {spec.id}: {said} by the defaults of {name}; {options} change that")


def hashed(spec: ModelSpec, dtype: str, find: Callable[[str], ModelSpec]) -> ModelSpec:
    """The settled model with the hashes of its files; one of code alone, or of images that exist already, as it is.

    dtype, find: as in `model_files`. Raises what that and `settled` raise.
    """
    if spec.images == "files" or not (spec.location or spec.merge):
        return spec
    spec = settled(spec, dtype)
    return spec.model_copy(update={"weights": model_files(spec, find, dtype)})


def _defaults(kind: type, folder: Path, spec: ModelSpec, dtype: str | None) -> dict[str, object]:
    call = inspect.signature(kind.__call__).parameters
    found: dict[str, object] = {}
    steps = getattr(call.get("num_inference_steps"), "default", None)
    if "steps" in spec.unstated and isinstance(steps, int):
        found["steps"] = steps
    if "no_guidance" in spec.unstated and spec.sampler == "pipeline":
        found |= _convention(kind, call)
    if "guidance_scale" not in spec.unstated:
        return found
    scales = {name: getattr(call.get(name), "default", None) for name in _SCALES}
    argument = next((name for name, scale in scales.items() if isinstance(scale, int | float)), None)
    if argument is None:
        return found
    found["guidance_scale"] = float(scales[argument])  # type: ignore[arg-type]
    # Their calls ignore the scale that they have by default.
    if spec.sampler == "pipeline" and _is_distilled(spec, folder, call, dtype):
        found |= {"guidance_scale": found.get("no_guidance", spec.no_guidance), "guidance": "none"}
    return found


def _convention(kind: type, call: Mapping[str, inspect.Parameter]) -> dict[str, object]:
    """How a class of pipelines is guided, where that is not the usual: the scale that means none, and its argument."""
    found: dict[str, object] = {}
    asks = getattr(getattr(kind, "do_classifier_free_guidance", None), "fget", None)
    try:
        if asks is not None and asks(SimpleNamespace(_guidance_scale=1.0)) is True:
            found["no_guidance"] = 0.0
    except AttributeError:  # it depends on more than the scale
        pass
    if "true_cfg_scale" in call and getattr(call.get("guidance_scale"), "default", None) is None:
        found["guidance_argument"] = "true_cfg_scale"
    return found


def _is_distilled(spec: ModelSpec, folder: Path, call: Mapping[str, inspect.Parameter], dtype: str | None) -> bool:
    """Whether a folder says that its network does without guidance (FLUX.2-klein), or does not read a scale (FLUX.1-schnell)."""
    if read_json(folder / INDEX).get("is_distilled") is True:
        return True
    embedded = set(_SCALES) <= call.keys() and call["guidance_scale"].default is not None
    return embedded and part_config(spec, "transformer", dtype).get("guidance_embeds") is False

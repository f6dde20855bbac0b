"""What a pipeline does where nobody has said how to sample it: the defaults of its own call."""

from __future__ import annotations

import inspect

import diffusers

from sbv2bench.data.assets import read_json
from sbv2bench.data.chain import chain
from sbv2bench.data.remarks import say_once
from sbv2bench.specs import ModelSpec

_ARGUMENTS = {"steps": "num_inference_steps", "guidance_scale": "guidance_scale"}


def settled(spec: ModelSpec, dtype: str | None = None) -> ModelSpec:
    """The model with what its spec leaves unstated as its pipeline's class in diffusers has it; that is said once.

    dtype: as in `chain`, since the model's files are found, and fetched where they may be. A setting of which the class has
    no default keeps the spec's. Raises what `chain` raises.
    """
    if not spec.unstated:
        return spec
    folders = [link.folder for link in chain(spec, dtype) if link.holds in {"model", "configs"}]
    index = next((folder / "model_index.json" for folder in folders if (folder / "model_index.json").is_file()), None)
    name = read_json(index).get("_class_name") if index is not None else None
    kind = getattr(diffusers, str(name), None)
    call = inspect.signature(kind.__call__).parameters if inspect.isclass(kind) else {}
    found: dict[str, object] = {}
    for setting in spec.unstated:
        default = getattr(call.get(_ARGUMENTS[setting]), "default", None)
        if isinstance(default, int | float):
            found[setting] = int(default) if setting == "steps" else float(default)
    if found:
        words = {"steps": f"{found.get('steps')} steps", "guidance_scale": f"guidance {found.get('guidance_scale')}"}
        options = " and ".join(f"--{setting.replace('_', '-')}" for setting in found)
        said = f"{' and '.join(words[setting] for setting in found)} by the defaults of {name}"
        say_once(f"model {spec.id}: {said}; {options} change that")
    return spec.model_copy(update={**found, "unstated": ()})

"""Generating images: one file for each way to sample a model.

In: a ModelSpec, captions and noise. Out: uint8 images [B, H, W, 3]. `load_sampler` is the door. A newcomer may add a way to
sample: a class with the protocol of base, and an entry under `samplers` in catalog/models.yaml.
"""

from __future__ import annotations

import inspect
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, cast

from sbv2bench.errors import InputError, PrerequisiteError

if TYPE_CHECKING:
    import torch

    from sbv2bench.registry import Registry
    from sbv2bench.samplers.base import Sampler
    from sbv2bench.samplers.placement import Placement
    from sbv2bench.specs import ModelSpec

__all__ = ["load_model", "load_sampler"]


def load_sampler(
    spec: ModelSpec, device: str, dtype: torch.dtype, registry: Registry | None = None, placement: Placement | None = None
) -> Sampler:
    """Load a model and what samples it, by the target that the registry has for the spec's kind.

    device: torch's name, "cpu" or "cuda:0". registry: by default the built-ins, plugins and the user's catalog; a merge
    finds its models there. Raises InputError for what cannot be sampled, or is to be offloaded by a sampler that does not know
    how, and what the kind's class raises.
    """
    from sbv2bench.registry import Registry
    from sbv2bench.samplers.defaults import settled

    registry = registry or Registry.load()
    spec = settled(spec, str(dtype).removeprefix("torch."))
    target = registry.sampler(spec.sampler).target
    module, _, name = target.partition(":")
    try:
        sampler = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(f"sampler {spec.sampler}: {target} cannot be imported ({error})") from error
    more: dict[str, object] = {}
    if placement:
        if "placement" in inspect.signature(sampler).parameters:
            more["placement"] = placement
        elif placement.offload != "none":
            raise InputError(f"--offload {placement.offload}: sampler {spec.sampler} of {spec.id} cannot", "--offload none")
    # Only a merge names other models, so a plugin's sampler need not take a registry.
    return cast("Sampler", sampler(spec, device, dtype, registry, **more) if spec.merge else sampler(spec, device, dtype, **more))


def published(spec: ModelSpec, device: str, dtype: torch.dtype, registry: Registry | None = None) -> NoReturn:
    """The way to sample a model that nobody has: raises PrerequisiteError."""
    from sbv2bench.registry import only_published

    raise only_published(spec)


def in_memory(spec: ModelSpec, device: str, dtype: torch.dtype, registry: Registry | None = None) -> NoReturn:
    """A model that was measured while somebody held it: raises PrerequisiteError."""
    raise PrerequisiteError(f"model {spec.id}: it was measured in memory by sbv2bench.Evaluator, there are no weights to load")


def load_model(
    id_or_path: str | Path, device: str = "cpu", dtype: torch.dtype | None = None, registry: Registry | None = None
) -> Sampler:
    """A model by id, folder or hub id, ready to sample. dtype: float32 by default, also on a GPU.

    A bare name means the mini family. Raises InputError for an unknown name, and what `load_sampler` raises.
    """
    import torch

    from sbv2bench.registry import Registry

    registry = registry or Registry.load()
    return load_sampler(registry.model(str(id_or_path)), device, dtype or torch.float32, registry)

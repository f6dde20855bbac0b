"""A pipeline read from disk: its own class, its parts as the spec says, every tensor proved, none of a folder's code run."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import diffusers
import torch
from diffusers import DiffusionPipeline

from sbv2bench.data.assets import pickles_allowed, read_json, selection_in
from sbv2bench.data.selection import plain_name
from sbv2bench.errors import InputError, IntegrityError
from sbv2bench.samplers.loading import quiet
from sbv2bench.samplers.networks import StoredModel, check_scaling
from sbv2bench.samplers.pipeline_call import check_kind
from sbv2bench.samplers.pipeline_class import pipeline_class, require_classes
from sbv2bench.samplers.pipeline_parts import check_whole, proved_parts
from sbv2bench.samplers.schedulers import reading
from sbv2bench.weights import some


def load_pipeline(stored: StoredModel, dtype: torch.dtype) -> tuple[Path, DiffusionPipeline]:
    """The pipeline's folder, and it with its parts swapped as the spec says; no remote code, no safety checker."""
    spec = stored.spec
    folder = stored.pipeline_folder()
    index = folder / "model_index.json"
    parts = read_json(index)
    foreign = [name for name, part in parts.items() if isinstance(part, list) and (folder / name / f"{part[0]}.py").is_file()]
    if isinstance(parts.get("_class_name"), list) or foreign:
        raise InputError(f"{index}: names code of its own ({', '.join(foreign) or parts['_class_name'][0]}), which is never run")
    if (kind := pipeline_class(folder, spec.requires)) is not None:
        check_kind(spec, kind)
    require_classes(folder, spec.requires)
    # Parts that were left out when it was saved: diffusers wants to be told so of some, as of SD3's third text encoder.
    own: dict[str, object] = {name: None for name, part in parts.items() if isinstance(part, list) and part[:1] == [None]}
    if "safety_checker" in parts:  # it replaces whole pictures by black ones, which would count against the model
        own |= {"safety_checker": None, "requires_safety_checker": False}
    replaced = stored.replaced(folder)
    if "vae" in parts and ("scheduler" in replaced or (folder / "scheduler").is_dir()):
        own["scheduler"] = stored.scheduler()
        stored.prediction_type(own["scheduler"])
    own |= proved_parts(stored, folder, dtype)
    if stored.links[0].holds == "checkpoint":
        pipeline = _of_one_file(stored.links[0].folder, folder, str(parts.get("_class_name")), dtype, own)
    else:
        with quiet(), reading(folder), _as_plain_files(folder, stored) as place:
            pipeline = DiffusionPipeline.from_pretrained(
                place,
                torch_dtype=dtype,
                use_safetensors=None if pickles_allowed() else True,
                local_files_only=True,
                **own,
            )
    for name in pipeline.components.keys() - own.keys():
        stored.adapt(getattr(pipeline, name), name)
    if getattr(getattr(pipeline, "vae", None), "config", {}).get("scaling_factor") is not None:
        check_scaling(spec, pipeline.vae, folder / "vae")
    check_whole(folder, pipeline, replaced)
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):  # as diffusers leaves them: torch has other kernels for frozen weights on a CPU
            part.requires_grad_(True)
    return folder, pipeline


def _of_one_file(file: Path, configs: Path, name: str, dtype: torch.dtype, own: dict[str, object]) -> DiffusionPipeline:
    """A whole model in one file, translated by diffusers as the configs say; the network is not asked.

    Raises InputError for a pipeline that has no such translation, IntegrityError where a network gets no weights from it.
    """
    kind = getattr(diffusers, name, None)
    if kind is None or not hasattr(kind, "from_single_file"):
        raise InputError(f"{configs}: {name} of diffusers reads no model from one file")
    with quiet(), reading(file):
        pipeline: DiffusionPipeline = kind.from_single_file(
            str(file), config=str(configs), torch_dtype=dtype, local_files_only=True, **own
        )
    for part, network in pipeline.components.items():
        lost = [key for key, value in network.named_parameters() if value.is_meta] if isinstance(network, torch.nn.Module) else []
        if lost:
            raise IntegrityError(f"{file}: {len(lost)} weights of {part} are missing ({some(lost)})", "download the whole file")
    return pipeline


@contextmanager
def _as_plain_files(folder: Path, stored: StoredModel) -> Iterator[Path]:
    """A pipeline's folder; where variants are read of it, a folder of links in which they have the plain names.

    diffusers takes one variant for a whole pipeline, and repositories have one for some of its networks.
    """
    read = selection_in(folder, stored.dtype)
    if not any(read.variants.values()):
        yield folder
        return
    with tempfile.TemporaryDirectory() as made:
        for name in read.files:
            link = Path(made, plain_name(name))
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to((folder / name).resolve())
        yield Path(made)

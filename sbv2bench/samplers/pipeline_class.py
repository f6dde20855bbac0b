"""The classes that a pipeline's folder names, as the installed libraries have them."""

from __future__ import annotations

import inspect
from importlib import import_module
from pathlib import Path
from typing import Any

import diffusers
from diffusers import DiffusionPipeline

from sbv2bench.data.assets import read_json
from sbv2bench.data.chain import chain
from sbv2bench.data.parts import INDEX, folders_of, index_parts
from sbv2bench.errors import InputError, PrerequisiteError
from sbv2bench.specs import ModelSpec


def pipeline_folder(spec: ModelSpec, dtype: str | None = None) -> Path | None:
    """The first folder of a model that is a pipeline's; dtype: as in `chain`. Raises what that raises."""
    folders = [link.folder for link in chain(spec, dtype) if link.holds in {"model", "configs"}]
    return next((folder for folder in folders if (folder / INDEX).is_file()), None)


def part_config(spec: ModelSpec, part: str, dtype: str | None = None) -> dict[str, Any]:
    """The config of a model's part: of the folder that its spec puts in the place of its pipeline's, or that."""
    links = chain(spec, dtype)
    alone = [link.folder for link in links if link.holds == part]
    inside = [link.folder / own for link in links if link.holds in {"model", "configs"} for own in folders_of(part)]
    config = next((path for folder in (*alone, *inside) if (path := folder / "config.json").is_file()), None)
    return {} if config is None else read_json(config)


def pipeline_class(folder: Path, requires: str = "") -> type[DiffusionPipeline] | None:
    """The class that a pipeline's folder names; None where it names code of its own.

    requires: the release of diffusers that has it, as a spec says it. Raises PrerequisiteError for a pipeline that the installed
    diffusers lacks, InputError for what is none.
    """
    index = folder / INDEX
    name = read_json(index).get("_class_name")
    if isinstance(name, list):
        return None
    if isinstance(name, str) and name.endswith("Pipeline"):
        _require("diffusers", name, index, requires)
    found = getattr(diffusers, str(name), None)
    if not (inspect.isclass(found) and issubclass(found, DiffusionPipeline)):
        raise InputError(f"{index}: _class_name is {name!r}, expected a pipeline of diffusers {diffusers.__version__}")
    kind: type[DiffusionPipeline] = found
    return kind


def require_classes(folder: Path, requires: str = "") -> None:
    """Raises PrerequisiteError for a pipeline, network or scheduler that the installed release of its library lacks."""
    named = {"": ["diffusers", read_json(folder / INDEX).get("_class_name")]} | index_parts(folder)
    for part, (library, name) in named.items():
        if library in ("diffusers", "transformers") and isinstance(name, str):
            _require(library, name, folder / part if part else folder / INDEX, requires)


def _require(library: str, name: str, where: Path, requires: str) -> None:
    module = import_module(library)
    found = getattr(module, name, None)
    if lacking := getattr(found, "_backends", None):  # what diffusers puts in the place of a class whose libraries are not there
        raise PrerequisiteError(f"{where}: {name} needs {', '.join(lacking)}", f"pip install {' '.join(lacking)}")
    if found is None:
        release = requires if requires.startswith(library) else ""
        raise PrerequisiteError(
            f"{where}: {library} {module.__version__} has no {name}, expected {release or f'a newer {library}'}",
            f'pip install --upgrade "{release or library}"',
        )

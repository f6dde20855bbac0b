"""What can be known of this machine before a run begins: folders, packages, device. torch is asked last."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from sbv2bench.errors import InputError, PrerequisiteError
from sbv2bench.evaluation.disk import existing, write_something
from sbv2bench.machine.devices import choose_device
from sbv2bench.specs import ModelSpec


def check_results_folder(folder: Path) -> None:
    """Raises InputError unless a file can be written into the folder, or into what would become its parent."""
    try:
        write_something(existing(folder))
    except OSError as error:
        raise InputError(f"--results: {folder} cannot be written ({error.strerror})", "--results ./results") from error


def check_packages() -> None:
    """Raises PrerequisiteError if a library that runs need is not installed; none is imported."""
    packages = {"torch": "torch", "diffusers": "diffusers", "transformers": "transformers", "open_clip": "open_clip_torch"}
    for module, package in packages.items():
        if importlib.util.find_spec(module) is None:
            raise PrerequisiteError(f"the package {package} is not installed", f"pip install {package}")


def available_device(wanted: str) -> str:
    """The device to run on, torch's name of it: of several processes each has its own GPU.

    Raises PrerequisiteError where this machine has no such device.
    """
    found = choose_device(wanted, os.environ)
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1 and ":" not in wanted
    return found.partition(":")[0] if alone else found


def chosen_dtype(wanted: str, device: str, model: ModelSpec | None = None) -> str:
    """torch's name of the dtype that a model runs in; auto: on CUDA the model's own, else float16, and elsewhere float32."""
    if wanted != "auto":
        return wanted
    own = model.dtype if model is not None else None
    return own or "float16" if device.startswith("cuda") else "float32"

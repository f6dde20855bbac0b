"""What can be known of this machine before a run begins: folders, packages, disk, device. torch is asked last."""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
from pathlib import Path

from sbv2bench import paths
from sbv2bench.errors import InputError, IntegrityError, PrerequisiteError
from sbv2bench.runs.options import EvalOptions
from sbv2bench.specs import ModelSpec

_BYTES_AN_IMAGE = 16_384  # of cache: a 2048-wide float32 row, kept once in a block and once in the whole
_SPARE_DISK = 64 * 2**20
_ELSEWHERE = "export SBV2BENCH_HOME=FOLDER, on a disk with room"


def check_results_folder(folder: Path) -> None:
    """Raises InputError unless a file can be written into the folder, or into what would become its parent."""
    try:
        _write_something(_existing(folder))
    except OSError as error:
        raise InputError(f"--results: {folder} cannot be written ({error.strerror})", "--results ./results") from error


def check_packages() -> None:
    """Raises PrerequisiteError if a library that runs need is not installed; none is imported."""
    packages = {"torch": "torch", "diffusers": "diffusers", "transformers": "transformers", "open_clip": "open_clip_torch"}
    for module, package in packages.items():
        if importlib.util.find_spec(module) is None:
            raise PrerequisiteError(f"the package {package} is not installed", f"pip install {package}")


def check_disk(images: int, options: EvalOptions) -> None:
    """Raises IntegrityError where the cache's disk has no room for what the run will keep, PrerequisiteError if it is locked."""
    if not options.use_cache:
        return
    try:
        place = _existing(paths.features_dir())
        free = shutil.disk_usage(place).free
        _write_something(place)
    except OSError as error:
        raise PrerequisiteError(f"{paths.features_dir()}: the cache cannot be written ({error.strerror})", _ELSEWHERE) from error
    needed = cache_bytes(images * options.repeats)
    if free < needed:
        raise IntegrityError(f"{place}: found {free // 2**20} MB free, expected {needed // 2**20} MB for the cache", _ELSEWHERE)


def cache_bytes(images: int) -> int:
    """Bytes of cache that measurements of so many images take at most."""
    return images * _BYTES_AN_IMAGE + _SPARE_DISK


def _existing(folder: Path) -> Path:
    """The folder, or the nearest of its parents that is there."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    return place


def _write_something(folder: Path) -> None:
    with tempfile.TemporaryFile(dir=folder):
        pass


def available_device(wanted: str) -> str:
    """The device to run on, torch's name of it. Raises PrerequisiteError where this machine has no such device."""
    import torch

    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if wanted == "auto":
        return "cuda" if cuda else "cpu"
    number = int(wanted.partition(":")[2] or 0)
    there = {"cpu": True, "cuda": cuda and number < torch.cuda.device_count(), "mps": mps}[wanted.partition(":")[0]]
    if not there:
        raise PrerequisiteError(f"--device {wanted}: torch {torch.__version__} sees no such device here", "--device cpu")
    return wanted


def chosen_dtype(wanted: str, device: str, model: ModelSpec | None = None) -> str:
    """torch's name of the dtype that a model runs in; auto: on CUDA the model's own, else float16, and elsewhere float32."""
    if wanted != "auto":
        return wanted
    own = model.dtype if model is not None else None
    return own or "float16" if device.startswith("cuda") else "float32"

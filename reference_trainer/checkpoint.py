"""Checkpoints: complete, atomic, verified, exact to resume from.

`<run>/checkpoints/00001000/` holds safetensors of what is trained (never of frozen weights, whose hashes are kept instead),
both optimisers, the moving average, and state.json, which is written last and has every file's hash. Random numbers and the
order of prompts are functions of the step, so the step is all there is to them.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from reference_trainer.networks import STUDENT
from reference_trainer.step import Trainer
from sbv2bench.errors import InputError, IntegrityError
from sbv2bench.provenance import sha256_file

STATE = "state.json"
START_AGAIN = "another --output folder, or remove this one to start again"


def save_checkpoint(trainer: Trainer, folder: Path, identity: dict[str, Any], seconds: float) -> Path:
    """Write the checkpoint of the trainer's step, then drop all but the newest `keep_checkpoints`. Returns its folder.

    identity: what must be the same to resume (recipe, base models, prompts). A crash at any moment leaves the older ones whole.
    """
    final = folder / f"{trainer.step:08d}"
    part = folder / f".{final.name}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    networks = trainer.networks
    for name, optimiser in trainer.optimisers.items():
        trained = networks.trained(name)
        tensors: dict[str, Tensor] = {f"weights.{key}": value for key, value in trained.items()}
        for key, value in trained.items():
            tensors |= {f"optimiser.{key}|{field}": held for field, held in optimiser.state[value].items()}
        _write(tensors, part / f"{name}.safetensors")
    if networks.average is not None:
        shadow = dict(zip(networks.trained(STUDENT), networks.average.shadow_params, strict=True))
        _write(shadow, part / "average.safetensors")
    files = {path.name: sha256_file(path) for path in sorted(part.iterdir())}
    average_step = networks.average.optimization_step if networks.average is not None else 0
    state = {"step": trainer.step, "average_step": average_step, "seconds": seconds, "files": files, "identity": identity}
    _write_text(part / STATE, json.dumps(state, indent=1))
    if final.exists():  # the same step again: the sitting ended on a boundary
        shutil.rmtree(final)
    part.replace(final)
    for old in checkpoints(folder)[: -trainer.recipe.keep_checkpoints]:
        shutil.rmtree(old)
    return final


def checkpoints(folder: Path) -> list[Path]:
    """Finished checkpoints, oldest first."""
    return sorted(path.parent for path in folder.glob(f"*/{STATE}") if not path.parent.name.startswith("."))


def resume(trainer: Trainer, folder: Path, identity: dict[str, Any]) -> float:
    """Load the newest checkpoint into the trainer, if there is one. Returns the seconds of training behind it.

    Raises InputError for one of another recipe, base model or prompts (named), IntegrityError for a damaged one.
    """
    found = checkpoints(folder)
    if not found:
        return 0.0
    newest = found[-1]
    state = _verified(newest)
    _check_identity(newest, state["identity"], identity)
    networks = trainer.networks
    for name, optimiser in trainer.optimisers.items():
        tensors = _read(newest / f"{name}.safetensors")
        for key, parameter in networks.trained(name).items():
            with torch.no_grad():
                parameter.copy_(tensors[f"weights.{key}"])
            prefix = f"optimiser.{key}|"
            held = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            # AdamW keeps its step counter on the CPU; moments lie in memory as their parameter does.
            moments = {k: v if k == "step" else torch.empty_like(parameter).detach().copy_(v) for k, v in held.items()}
            optimiser.state[parameter] = moments
    if networks.average is not None:
        shadow = _read(newest / "average.safetensors")
        for value, key in zip(networks.average.shadow_params, networks.trained(STUDENT), strict=True):
            value.copy_(shadow[key])
        networks.average.optimization_step = state["average_step"]
    trainer.step = state["step"]
    return float(state["seconds"])


def _verified(checkpoint: Path) -> dict[str, Any]:
    """state.json of a checkpoint whose files have the hashes in it."""
    try:
        state: dict[str, Any] = json.loads((checkpoint / STATE).read_text("utf-8"))
        expected = state["files"]
    except (ValueError, KeyError) as error:
        raise IntegrityError(f"{checkpoint / STATE}: not a checkpoint's state ({error})", f"remove {checkpoint}") from error
    for name, sha256 in expected.items():
        path = checkpoint / name
        found = sha256_file(path) if path.is_file() else "no file"
        if found != sha256:
            raise IntegrityError(
                f"{path}: found {found[:16]}, expected sha256 {sha256[:16]}", f"remove {checkpoint} to resume an older one"
            )
    return state


def _check_identity(checkpoint: Path, found: dict[str, Any], expected: dict[str, Any]) -> None:
    for what, value in expected.items():
        if found.get(what) == value:
            continue
        change = _changes(found.get(what), value)[0]
        raise InputError(f"{checkpoint}: a checkpoint of other {what.replace('_', ' ')}: {change}", START_AGAIN)


def _changes(found: Any, expected: Any, path: str = "") -> list[str]:
    """Where two trees differ, `key.path found X, expected Y`."""
    if isinstance(found, dict) and isinstance(expected, dict):
        keys = sorted(found.keys() | expected.keys())
        return [line for key in keys for line in _changes(found.get(key), expected.get(key), f"{path}.{key}".lstrip("."))]
    return [] if found == expected else [f"{path} is {found} in it, {expected} now".lstrip()]


def _write(tensors: Mapping[str, Tensor], path: Path) -> None:
    save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, path)
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _write_text(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise IntegrityError(f"{path}: not a whole file ({error})", f"remove {path.parent} to resume an older one") from error

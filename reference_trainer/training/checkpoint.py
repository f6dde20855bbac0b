"""Checkpoints: complete, atomic, verified, exact to resume from, written while training goes on.

`<run>/checkpoints/00001000/` holds safetensors of what is trained (never of frozen weights, whose hashes are kept instead),
both optimisers, the moving average, and state.json, which is written last and has every file's hash. Random numbers and the
order of prompts are functions of the step, so the step is all there is to them.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sbv2bench.atomic import write_whole
from sbv2bench.errors import InputError, IntegrityError
from sbv2bench.provenance import sha256_file

STATE = "state.json"
START_AGAIN = "another --output folder, or remove this one to start again"
_PART = ".part"
_NAME = r"\d{8,}(-warm-up-\d+)?"  # others are copies that somebody made
Snapshot = tuple[dict[str, dict[str, Tensor]], dict[str, object]]  # file -> its tensors on the CPU, and state.json but for hashes


class Trained(Protocol):
    """What training changes, and a checkpoint holds. optimisers: one a network that is trained. step: of the run, done."""

    step: int
    optimisers: dict[str, torch.optim.Optimizer]

    def trained(self, network: str) -> dict[str, nn.Parameter]:
        """Name -> parameter of what an optimiser trains, in a fixed order."""

    def kept(self) -> dict[str, dict[str, Tensor]]:
        """File -> its tensors by name, of what else a step changes: a moving average, statistics. They are copied into."""

    def counters(self) -> dict[str, int]:
        """How far the run is, in whole numbers by name."""

    def set_counters(self, counters: Mapping[str, int]) -> None:
        """Go on from there."""


class CheckpointWriter:
    """Writes a run's checkpoints from a thread of its own: a step waits for the copy to memory, not for the disk.

    At most one is being written; the next waits for it. Whatever goes wrong there is raised by the next call.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        """folder: of the checkpoints. keep: how many of the newest stay."""
        self.folder, self.keep = folder, keep
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[Path] | None = None

    def save(self, trainer: Trained, identity: Mapping[str, object], seconds: float) -> None:
        """Copy the trainer's state to memory and begin to write it; see `write`. Raises what the one before ran into."""
        self.wait()
        name = checkpoint_name(trainer)
        if not (self.folder / name / STATE).is_file():  # the same step again is the same bits
            self._writing = self._pool.submit(write, snapshot(trainer, identity, seconds), self.folder, name, self.keep)

    def wait(self) -> None:
        """Until nothing is being written. Raises IntegrityError where it could not be."""
        writing, self._writing = self._writing, None
        if writing is None:
            return
        try:
            writing.result()
        except (OSError, SafetensorError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise IntegrityError(
                f"{self.folder}: a checkpoint cannot be written ({why}); those before it are whole",
                "free some space, and run the same command again to go on from the newest",
            ) from error

    def close(self) -> None:
        """Let what is being written end, and its thread; what went wrong is not raised: for a way out that has its own error."""
        self._pool.shutdown(wait=True)


def checkpoint_name(trainer: Trained) -> str:
    """00001000; before the student's first step 00000000-warm-up-000200, which sorts before all others."""
    return f"{trainer.step:08d}" if trainer.step else f"{0:08d}-warm-up-{trainer.counters().get('warmed', 0):06d}"


def snapshot(trainer: Trained, identity: Mapping[str, object], seconds: float) -> Snapshot:
    """Copies of everything that a step changes, on the CPU.

    identity: what must be the same to resume (recipe, base models, prompts). seconds: of training so far.
    """
    files, scalars = dict[str, dict[str, Tensor]](), dict[str, dict[str, int | float]]()
    for name, optimiser in trainer.optimisers.items():
        trained = trainer.trained(name)
        tensors: dict[str, Tensor] = {f"weights.{key}": value for key, value in trained.items()}
        for key, value in trained.items():
            for entry, held in optimiser.state[value].items():
                if isinstance(held, Tensor):
                    tensors[f"optimiser.{key}|{entry}"] = held
                else:  # bitsandbytes counts its steps in a plain number
                    scalars.setdefault(name, {})[f"{key}|{entry}"] = held
        files[name] = tensors
    files |= trainer.kept()
    state = {**trainer.counters(), "scalars": scalars, "seconds": seconds, "identity": identity}
    return {name: {key: _copied(value) for key, value in tensors.items()} for name, tensors in files.items()}, state


def _copied(value: Tensor) -> Tensor:
    """A contiguous copy on the CPU that nothing else will change."""
    value = value.detach()
    return value.to("cpu").contiguous() if value.device.type != "cpu" else value.clone(memory_format=torch.contiguous_format)


def write(taken: Snapshot, folder: Path, name: str, keep: int) -> Path:
    """Write a checkpoint whole or not at all, then drop all but the newest `keep`. Returns its folder.

    A crash at any moment leaves the older ones whole. Raises OSError or SafetensorError.
    """
    files, state = taken
    final, part = folder / name, folder / f".{name}{_PART}"
    for old in folder.glob(f".*{_PART}"):  # of writers that were killed
        shutil.rmtree(old)
    for old in folder.glob("[0-9]" * 8 + "*"):  # of removals that were
        if old.is_dir() and not (old / STATE).is_file():
            shutil.rmtree(old)
    part.mkdir(parents=True)
    try:
        for file, tensors in files.items():
            write_tensors(tensors, part / f"{file}.safetensors")
        hashes = {path.name: sha256_file(path) for path in sorted(part.iterdir())}
        write_whole(part / STATE, json.dumps(state | {"files": hashes}, indent=1))
        if final.exists():  # the same step, and so the same bits
            (final / STATE).unlink()
            shutil.rmtree(final)
        part.replace(final)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)  # it may be what filled the disk
        raise
    for old in checkpoints(folder)[:-keep]:
        (old / STATE).unlink()  # first: what is half removed is no checkpoint
        shutil.rmtree(old)
    return final


@dataclass(frozen=True)
class Progress:
    """How far a checkpoint is: steps of the student, and where there is none yet, updates of the LoRA teacher before it."""

    step: int
    warmed: int

    def __str__(self) -> str:
        return f"step {self.step}" if self.step else f"warm-up step {self.warmed}"


def checkpoint_step(folder: Path) -> Progress | None:
    """How far the newest finished checkpoint is, by its name; None where there is none."""
    found = checkpoints(folder)
    if not found:
        return None
    step, _, warmed = found[-1].name.partition("-warm-up-")
    return Progress(int(step), int(warmed or 0))


def checkpoints(folder: Path) -> list[Path]:
    """Finished checkpoints, oldest first."""
    found = [path.parent for path in folder.glob(f"*/{STATE}") if re.fullmatch(_NAME, path.parent.name)]
    return sorted(found, key=lambda path: (not path.name.startswith(f"{0:08d}-"), path.name))


def resume(trainer: Trained, folder: Path, identity: Mapping[str, object]) -> float:
    """Load the newest checkpoint into the trainer, if there is one. Returns the seconds of training behind it.

    Raises InputError for one of another recipe, base model or prompts (named), IntegrityError for a damaged one.
    """
    found = checkpoints(folder)
    if not found:
        return 0.0
    newest = found[-1]
    state = verified(newest, trainer.counters().keys())
    check_identity(newest, state["identity"], identity)
    try:
        _load(trainer, newest, state)
    except (KeyError, RuntimeError, ValueError) as error:
        raise _damaged(newest, newest, f"not the tensors of this recipe ({error!s:.200})") from error
    return float(state["seconds"])


def _load(trainer: Trained, newest: Path, state: dict[str, Any]) -> None:
    for name, optimiser in trainer.optimisers.items():
        tensors, scalars = read_tensors(newest / f"{name}.safetensors"), state.get("scalars", {}).get(name, {})
        for key, parameter in trainer.trained(name).items():
            with torch.no_grad():
                parameter.copy_(tensors[f"weights.{key}"])
            prefix = f"optimiser.{key}|"
            held = {k.removeprefix(prefix): _placed(v, k, parameter) for k, v in tensors.items() if k.startswith(prefix)}
            plain = {k.rpartition("|")[2]: v for k, v in scalars.items() if k.startswith(f"{key}|")}
            optimiser.state[parameter] = held | plain
    for name, kept in trainer.kept().items():
        tensors = read_tensors(newest / f"{name}.safetensors")
        for key, value in kept.items():
            value.copy_(tensors[key])
    trainer.set_counters({name: state[name] for name in trainer.counters()})


def _placed(value: Tensor, key: str, parameter: Tensor) -> Tensor:
    """A field of an optimiser's state where the optimiser keeps it, in its own type.

    AdamW keeps its step counter on the CPU; moments lie in memory as their parameter does; 8-bit moments are bytes, with
    tables of other shapes beside them.
    """
    if key.endswith("|step"):
        return value
    if value.shape == parameter.shape:
        return torch.empty_like(parameter, dtype=value.dtype).detach().copy_(value)
    return value.to(parameter.device)


def verified(checkpoint: Path, counters: Iterable[str]) -> dict[str, Any]:
    """state.json of a checkpoint whose files have the hashes in it. counters: that it must have. Raises IntegrityError."""
    try:
        state: dict[str, Any] = json.loads((checkpoint / STATE).read_text("utf-8"))
        _check_state(state, checkpoint, counters)
        expected = state["files"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise _damaged(checkpoint, checkpoint / STATE, f"not a checkpoint's state ({error!s:.200})") from error
    for name, sha256 in expected.items():
        path = checkpoint / name
        found = sha256_file(path) if path.is_file() else "no file"
        if found != sha256:
            raise _damaged(checkpoint, path, f"found {found[:16]}, expected sha256 {sha256!s:.16}")
    return state


def _check_state(state: dict[str, Any], checkpoint: Path, counters: Iterable[str]) -> None:
    """Raises ValueError, KeyError, TypeError or AttributeError unless it is a state as `snapshot` and `write` make it."""
    for name in counters:
        if type(state[name]) is not int or state[name] < 0:
            raise ValueError(f"{name} is {state[name]!r}")
    if not 0.0 <= float(state["seconds"]) < 1e10:
        raise ValueError(f"seconds is {state['seconds']!r}")
    step, _, warmed = checkpoint.name.partition("-warm-up-")
    if state["step"] != int(step) or (warmed and state["warmed"] != int(warmed)):
        raise ValueError(f"step is {state['step']}, the folder says {checkpoint.name}")
    if {*state["files"]} != {path.name for path in checkpoint.glob("*.safetensors")} or not state["files"]:
        raise ValueError(f"files are {', '.join(state['files'])}")
    for name in ("identity", "scalars"):
        state[name].items()


def check_identity(where: Path, found: Mapping[str, object], expected: Mapping[str, object]) -> None:
    """Raises InputError, naming the first difference, unless what a checkpoint or a finished run is of is what is expected."""
    for what, value in expected.items():
        if found.get(what) == value:
            continue
        change = _changes(found.get(what), value)[0]
        raise InputError(f"{where}: of other {what.replace('_', ' ')}: {change}", START_AGAIN)


def _changes(found: object, expected: object, path: str = "") -> list[str]:
    """Where two trees differ, `key.path found X, expected Y`."""
    if isinstance(found, dict) and isinstance(expected, dict):
        keys = sorted(found.keys() | expected.keys())
        return [line for key in keys for line in _changes(found.get(key), expected.get(key), f"{path}.{key}".lstrip("."))]
    return [] if found == expected else [f"{path} is {found} in it, {expected} now".lstrip()]


def write_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """A safetensors file that is on the disk when this returns. Raises OSError, SafetensorError."""
    save_file(dict(tensors), path)
    with path.open("rb") as file:
        os.fsync(file.fileno())


def read_tensors(path: Path) -> dict[str, Tensor]:
    """A checkpoint's tensors by name, on the CPU. Raises IntegrityError for a file that is not whole."""
    try:
        return load_file(path)
    except SafetensorError as error:
        raise _damaged(path.parent, path, f"not a whole file ({error})") from error


def _damaged(checkpoint: Path, where: Path, why: str) -> IntegrityError:
    """What to say of a checkpoint that cannot be resumed from, with where a run goes on once it is away."""
    before = checkpoints(checkpoint.parent)[:-1]
    then = f"the one before it is {before[-1].name}" if before else "it is the only one: training then starts again at step 0"
    return IntegrityError(f"{where}: {why}\n{then}", f"rm -r {shlex.quote(str(checkpoint))}")

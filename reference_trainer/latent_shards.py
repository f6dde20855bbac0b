"""Latents made once, in shards of a folder that all processes share: each takes the next shard that nobody has begun.

A shard's content is a function of its numbers alone, whoever makes it. A lock is the operating system's, so that of a killed
process is free again, and what that process left half-written is written anew.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sbv2bench.data.remarks import say_once
from sbv2bench.errors import InputError, IntegrityError

SHARD = 250  # latents a file
_POLL = 0.2  # seconds between looks at what others are making

Make = Callable[[Sequence[int]], Tensor]


def all_latents(
    folder: Path,
    count: int,
    shape: tuple[int, int, int],
    make: Make,
    *,
    at_once: int,
    progress: Callable[[int, int], None],
) -> Tensor:
    """float16 [count, C, h, w]: each shard from its file, or made and written whole.

    make: numbers -> latents [len, C, h, w], asked for at most `at_once` numbers at a time. progress: told (latents that are
    there, count). First every shard is made that no other process has begun; then the rest is waited for, or made if whoever
    had begun it is gone. A file that is not a whole shard is made again. Raises InputError (the folder cannot be written),
    IntegrityError (no room on the disk, or latents that are not finite in float16).
    """
    _writable(folder)
    latents = torch.empty(count, *shape, dtype=torch.float16)
    missing = list(range(0, count, SHARD))
    done = 0
    while missing:
        left = []
        for start in missing:
            numbers = range(start, min(start + SHARD, count))
            path = folder / f"{start:08d}.safetensors"
            shard = _read(path, (len(numbers), *shape))
            if shard is None:
                shard = _made(path, numbers, shape, make, at_once)
            if shard is None:
                left.append(start)
                continue
            latents[start : numbers.stop] = shard
            done += len(numbers)
            progress(done, count)
        if len(left) == len(missing):
            time.sleep(_POLL)
        missing = left
    return latents


def _read(path: Path, shape: tuple[int, ...]) -> Tensor | None:
    """A shard's latents, or None where the file is not there or not such a shard."""
    try:
        with safe_open(path, "pt") as file:
            latents: Tensor = file.get_tensor("latents")
            written: dict[str, str] = file.metadata() or {}
    except (OSError, SafetensorError):
        return None
    whole = tuple(latents.shape) == shape and latents.dtype == torch.float16 and bool(latents.isfinite().all())
    found = _sha256(latents)
    if not whole or written.get("sha256", found) != found:  # older shards say none
        say_once(f"pairs: {path} is damaged, and made again")
        return None
    return latents


def _made(path: Path, numbers: range, shape: tuple[int, ...], make: Make, at_once: int) -> Tensor | None:
    """A shard made here and written, or None where another process is making it."""
    try:
        with FileLock(f"{path}.lock").acquire(blocking=False):
            found = _read(path, (len(numbers), *shape))  # another may have finished it since it was looked for
            if found is not None:
                return found
            pieces = (numbers[first : first + at_once] for first in range(0, len(numbers), at_once))
            latents = torch.cat([_finite(piece, make) for piece in pieces])
            _write(path, latents)
            return latents
    except Timeout:
        return None


def _finite(numbers: range, make: Make) -> Tensor:
    """float16 latents on the CPU. Raises IntegrityError, naming the first that is not finite."""
    latents = make(numbers).to(device="cpu", dtype=torch.float16).contiguous()
    wrong = (~latents.flatten(1).isfinite().all(1)).nonzero().flatten().tolist()
    if wrong:
        raise IntegrityError(
            f"pairs: found latents of pair {numbers[wrong[0]]} that are not finite in float16, expected numbers below 65,504"
        )
    return latents


def _write(path: Path, latents: Tensor) -> None:
    part = path.with_suffix(".part")
    try:
        save_file({"latents": latents}, part, metadata={"sha256": _sha256(latents)})
        part.replace(path)
    except (OSError, SafetensorError) as error:
        part.unlink(missing_ok=True)
        raise IntegrityError(f"pairs: {path} cannot be written ({error})", "free some space, and run the same again") from error


def _sha256(latents: Tensor) -> str:
    return hashlib.sha256(latents.numpy().tobytes()).hexdigest()


def _writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"pairs: {folder} cannot be written ({error.strerror})", "SBV2BENCH_HOME=FOLDER with a folder that you may write"
        ) from error

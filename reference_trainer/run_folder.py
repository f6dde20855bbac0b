"""A run's folder: one training writes it at a time, and a disk that is full ends in words."""

from __future__ import annotations

import errno
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from safetensors import SafetensorError
from torch import distributed as dist

from reference_trainer.networks import STUDENT
from reference_trainer.step import MOMENT_BYTES, Trainer
from sbv2bench.atomic import held, write_whole
from sbv2bench.errors import InputError, IntegrityError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def prepare(run: Path, option: str = "--output") -> None:
    """Make the folder that an option names. Raises InputError where it cannot be made or written."""
    try:
        run.mkdir(parents=True, exist_ok=True)
        write_whole(run / ".writable", "")
        (run / ".writable").unlink(missing_ok=True)  # every process tries
    except OSError as error:
        if error.errno in _FULL:
            raise
        raise InputError(f"{option}: {run} cannot be written ({error.strerror})", f"{option} FOLDER") from error


@contextmanager
def locked(run: Path, main: bool) -> Iterator[None]:
    """The folder for one training alone, while the block lasts; of several processes the main one holds it.

    Raises InputError where another training has it. A killed one's lock is gone with it.
    """
    busy = InputError(f"--output: another training is writing {run}", "--output FOLDER of another name")
    with held(run / ".lock", busy) if main else nullcontext():
        yield


@contextmanager
def full_disk_said(place: Path) -> Iterator[None]:
    """Raises IntegrityError in place of whatever a library makes of a full disk."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        if getattr(error, "errno", None) not in _FULL and "No space left" not in str(error):
            raise
        raise IntegrityError(
            f"{place}: the disk is full; checkpoints that were written are whole",
            "free some space, and run the same command again",
        ) from error


def checkpoint_bytes(trainer: Trainer) -> int:
    """Size of a checkpoint when the optimisers' moments are there."""
    bytes_a_weight = dict.fromkeys(trainer.rates, 4 + MOMENT_BYTES[trainer.recipe.optimiser.kind])
    if trainer.networks.average is not None:
        bytes_a_weight[STUDENT] += 4
    sizes = {name: sum(p.numel() for p in trainer.trained(name).values()) for name in trainer.rates}
    return int(sum(bytes_a_weight[name] * size for name, size in sizes.items()))


def check_disk(trainer: Trainer, run: Path) -> None:
    """Raises IntegrityError where the disk cannot hold the checkpoints that are kept, and one more while it is written."""
    size, keep = checkpoint_bytes(trainer), trainer.recipe.keep_checkpoints
    kept = sum(file.stat().st_size for file in (run / "checkpoints").rglob("*") if file.is_file())
    wanted, free = size * (keep + 1) - kept, shutil.disk_usage(run).free
    if wanted > free:
        fix = "--output FOLDER on a larger disk" + (", or keep_checkpoints=1" if keep > 1 else "")
        raise IntegrityError(
            f"{run}: {free / 1e6:,.0f} MB free, expected {wanted / 1e6:,.0f} MB for checkpoints of {size / 1e6:,.0f} MB", fix
        )


def check_shared(run: Path, patience: float = 60.0) -> None:
    """Raises InputError where processes of a group see other folders: each would resume from checkpoints of its own.

    Every process of the group must call it. patience: seconds until a file of process 0 must have come to the others.
    """
    sign, rank = run / ".shared", dist.get_rank()
    token = [secrets.token_hex(8) if rank == 0 else ""]
    dist.broadcast_object_list(token)
    if rank == 0:
        write_whole(sign, token[0])
    limit = time.monotonic() + patience
    while not (seen := sign.is_file() and sign.read_text("utf-8") == token[0]) and time.monotonic() < limit:
        time.sleep(0.2)
    every = [seen] * dist.get_world_size()
    dist.all_gather_object(every, seen)
    if rank == 0:
        sign.unlink()
    if not all(every):
        raise InputError(
            f"{run}: process {every.index(False)} does not see what process 0 writes there, expected one folder for all machines",
            "--output FOLDER on a disk that all machines share",
        )

"""How the processes of one training find each other: within minutes, and stopped by a signal while they wait."""

from __future__ import annotations

import os
import threading
from datetime import timedelta
from typing import TYPE_CHECKING

import torch
from torch import distributed
from torch.distributed.rendezvous import rendezvous

from sbv2bench.errors import InputError, PrerequisiteError
from sbv2bench.machine.devices import number_of

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

WAIT = timedelta(minutes=5)  # for a process that has not been started yet
_PATIENCE = timedelta(hours=2)  # longer than rank 0 needs to export or to measure while the others wait; NCCL's own is 10 min
_GLANCE = 0.2  # seconds: Python sees a signal only between two of them


def join_the_others(device: torch.device) -> None:
    """Join the group of all processes that the environment speaks of, once: NCCL for GPUs, else gloo.

    Raises InputError for numbers of a launcher that cannot be, PrerequisiteError where the others do not come within WAIT or
    the address cannot be reached; a signal ends the wait.
    """
    rank, processes, port = (number_of(os.environ, name, 0) for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"))
    if not 0 <= rank < processes:
        raise InputError(f"RANK={rank}: expected a number below WORLD_SIZE={processes}", "start it by torchrun")
    if not 0 < port < 2**16:
        raise InputError(f"MASTER_PORT={port}: expected a port from 1 to 65535", "MASTER_PORT=29500")
    if distributed.is_initialized():
        return
    stores: list[Store] = []
    errors: list[Exception] = []

    def meet() -> None:
        try:
            stores.append(next(rendezvous("env://", timeout=WAIT))[0])
        except Exception as error:
            errors.append(error)

    waiting = threading.Thread(target=meet, name="rendezvous", daemon=True)  # torch waits deaf to signals
    waiting.start()
    while waiting.is_alive():
        waiting.join(_GLANCE)
    if errors:
        where = f"{os.environ['MASTER_ADDR']}:{port}"
        raise PrerequisiteError(
            f"process {rank} of {processes} waited at {where} for the others, and they did not come ({_why(errors[0])})",
            "start all processes by torchrun or accelerate launch, or unset RANK, WORLD_SIZE and LOCAL_RANK",
        ) from errors[0]
    backend = "nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, store=stores[0], rank=rank, world_size=processes, timeout=_PATIENCE)


def _why(error: Exception) -> str:
    words = " ".join(str(error).split())
    if "EADDRINUSE" in words or "address already in use" in words.lower():
        return "something else listens there: another MASTER_PORT is needed"
    late = "timed out" in words.lower() or "timeout" in words.lower()
    return f"{WAIT.total_seconds() / 60:g} min" if late else words[:120]

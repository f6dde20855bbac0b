"""Which device a process computes on: the one asked for, and of several processes each its own GPU."""

from __future__ import annotations

import re
from collections.abc import Mapping

from sbv2bench.errors import InputError, PrerequisiteError

WORDS = "auto, cpu, cuda, cuda:N or mps"


def number_of(environment: Mapping[str, str], variable: str, default: int) -> int:
    """A whole number that a launcher put into the environment. Raises InputError for anything else."""
    found = environment.get(variable, str(default))
    if not re.fullmatch(r"\d{1,6}", found):
        raise InputError(f"{variable}={found}: expected a whole number, as torchrun sets it", f"unset {variable}")
    return int(found)


def choose_device(wanted: str, environment: Mapping[str, str], *, mps_by_itself: bool = False) -> str:
    """torch's name of the device of a process with this environment: "cpu", "mps", "cuda:N".

    wanted: auto (CUDA, else the CPU, or MPS before it where mps_by_itself), cpu, cuda, cuda:N or mps. Of several processes of
    one run (WORLD_SIZE) each takes the GPU of its LOCAL_RANK. Raises InputError for a word that is no device, or a GPU's number
    under several processes; PrerequisiteError where the device is not there.
    """
    import torch

    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?|mps", wanted):
        raise InputError(f"--device: found {wanted!r}, expected {WORDS}", "--device auto")
    several = number_of(environment, "WORLD_SIZE", 1) > 1
    kind, _, number = wanted.partition(":")
    if number and several:
        raise InputError(f"--device {wanted}: each of several processes takes a GPU of its own, by LOCAL_RANK", "--device cuda")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    mps = torch.backends.mps.is_available()
    if kind == "auto":
        kind = "cuda" if count else "mps" if mps_by_itself and mps and not several else "cpu"
    if kind == "cpu":
        return "cpu"
    if kind == "mps":
        if not mps:
            raise PrerequisiteError("--device mps: torch sees no such device here", "--device cpu")
        return "mps"
    mine = number_of(environment, "LOCAL_RANK", 0) if several else int(number or 0)
    if mine >= count:
        who = f"process {mine} of this machine has no GPU of its own" if several else "torch sees no such device here"
        fix = f"--nproc_per_node {count}" if several and count else "--device cpu"
        raise PrerequisiteError(f"--device {wanted}: {who} ({count} found)", fix)
    return f"cuda:{mine}"


def device_beside_a_training(wanted: str) -> str:
    """The device of a process that shall not slow a training on this machine; auto: the last of several GPUs, else the CPU.

    Another word is returned as it is.
    """
    if wanted != "auto":
        return wanted
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return f"cuda:{count - 1}" if count > 1 else "cpu"

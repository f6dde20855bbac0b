"""Memory that one call takes at its worst, beyond what lay there before."""

from __future__ import annotations

import ctypes
import gc
import resource
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

from sbv2bench.samplers.base import wait_for

ON_GPU = "torch.cuda.max_memory_allocated of a call less what was allocated before it"
ON_CPU = "peak RSS of the process during a call less its RSS before it"
ROUGH = "growth of the process's peak RSS by a call, which earlier calls can hide"
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def memory_of(call: Callable[[], object], device: str) -> tuple[int | None, str]:
    """(bytes, how they were found) of one call; None where the device does not tell."""
    kind = torch.device(device)
    if kind.type == "cuda":
        wait_for(kind)
        torch.cuda.reset_peak_memory_stats(kind)
        before = torch.cuda.memory_allocated(kind)
        call()
        wait_for(kind)
        return torch.cuda.max_memory_allocated(kind) - before, ON_GPU
    if kind.type != "cpu":
        return None, f"not known on {kind.type}"
    gc.collect()
    with suppress(OSError, AttributeError):  # glibc's: what freed memory the process holds would hide what the call takes
        ctypes.CDLL(None).malloc_trim(0)
    try:
        _CLEAR.write_text("5")  # Linux: the peak begins anew
        before = _status("VmRSS")
        call()
        return max(0, _status("VmHWM") - before), ON_CPU
    except OSError:
        before = max_rss()
        call()
        return max_rss() - before, ROUGH


def _status(key: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def max_rss() -> int:
    """Bytes of memory that this process held at its worst moment so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def weights_bytes(networks: dict[str, torch.nn.Module]) -> int:
    """Bytes of all parameters and buffers, each tensor once."""
    tensors = {id(t): t for network in networks.values() for t in (*network.parameters(), *network.buffers())}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())

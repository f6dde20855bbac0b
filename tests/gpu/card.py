"""The card: what it is, and its clocks and power while something runs on it. Asked by nvidia-smi, so that no context is made."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sbv2bench import provenance

_IS = "name,driver_version,memory.total,power.limit,clocks.max.sm,clocks.max.memory,pstate"
_CLOCKS = ("clocks.sm", "clocks.mem", "temperature.gpu", "utilization.gpu")
_POWER = "power.draw"
EVERY = 0.5  # seconds


def is_there() -> bool:
    """Whether there is a GPU."""
    return bool(_ask("--query-gpu=name")) or Path("/dev/nvidia0").exists()


def describe(device: str) -> dict[str, Any]:
    """Name, memory and limits of the device, and how busy the machine was at the beginning."""
    load = os.getloadavg()[0]
    base = {"kind": device, "cpu": provenance.cpu_model(), "cores": os.cpu_count(), "load_average": load}
    said = _ask(f"--query-gpu={_IS}") if device == "cuda" else []
    names = [key.replace(".", "_") for key in _IS.split(",")]
    own: dict[str, str | None] = dict.fromkeys(names) | dict(zip(names, said[0] if said else [], strict=False))
    others = _ask("--query-compute-apps=pid") if device == "cuda" else []
    return base | own | {"name": own["name"] or base["cpu"], "other_processes": len(others)}


@contextmanager
def watched(device: str) -> Iterator[dict[str, Any]]:
    """{"clocks", "power"}, filled in at the end: lowest, median and highest of each reading twice a second; None off a GPU."""
    found: dict[str, Any] = {"clocks": None, "power": None}
    if device != "cuda":
        yield found
        return
    over, lines = threading.Event(), list[str]()

    def read() -> None:
        while not over.wait(EVERY):
            lines.extend(", ".join(row) for row in _ask(f"--query-gpu={','.join((*_CLOCKS, _POWER))}")[:1])

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield found
    finally:
        over.set()
        reader.join(30)
        found |= summary("\n".join(lines))


def summary(readings: str) -> dict[str, Any]:
    """Lines of numbers to lowest, median and highest; what is no number, as of a card that does not tell, is left out."""
    columns: dict[str, list[float]] = {name: [] for name in (*_CLOCKS, _POWER)}
    for line in readings.splitlines():
        for name, text in zip(columns, line.split(","), strict=False):
            try:
                columns[name].append(float(text))
            except ValueError:
                continue
    spans = {name: [min(all_), statistics.median(all_), max(all_)] if all_ else None for name, all_ in columns.items()}
    return {"clocks": {name: spans[name] for name in _CLOCKS}, "power": {_POWER: spans[_POWER]}}


def _ask(query: str) -> list[list[str]]:
    """Rows of nvidia-smi's answer for the first card; none where there is no such program, or no card."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, query, "--format=csv,noheader,nounits"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    return [[value.strip() for value in line.split(",")] for line in done.stdout.splitlines()] if done.returncode == 0 else []

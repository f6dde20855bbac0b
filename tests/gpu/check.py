"""Everything there is to measure on one GPU, part by part, each in a process of its own that is killed at its limit.

python -m gpu.check --out FOLDER [--rehearse] [--seconds N] [--only PART ...]. FOLDER/gpu.json has the figures and is written
again after every part: device, versions, clocks and power while each part ran, and what it had measured, whatever came of it.
Exit code 1 where anything failed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpu import asserts, card
from gpu.figures import errors, holds

from sbv2bench import provenance
from sbv2bench.atomic import write_whole

# Seconds of a part, most important first: in all a little less than check.sh may take. What one leaves, the next may use.
LIMITS = {"training": 195, "evaluation": 80, "latency": 155, "pipelines": 48, "rung": 32}
REHEARSED_LIMIT = 1200.0  # of a part on a CPU, which others may keep busy
GRACE = 8.0  # of its limit that a part which takes what there is leaves, to end by itself
LAST = 15.0  # for the assertions at the end
_SIDES = [f"batch_{size}.{whose}" for size in (1, 4, 32) for whose in ("ours", "diffusers")]
# What gpu.json must have of each part, measured or said why not.
EXPECTED = {
    "training": [
        "ceiling",
        *(
            f"{model}.{run}"
            for model in "AB"
            for run in ("recipe", "plain_loop", "ema_on_cpu", "without_checkpointing", "adamw8bit")
        ),
    ],
    "evaluation": ["plan", "run", *(f"features.{name}" for name in ("inception", "clip", "hpsv2"))],
    "latency": [
        *("protocol", "eager.batch_1.ours_25_guided_steps", "eager.batch_1.ours_taesd", "compiled.batch_1.ours_taesd", "best"),
        *(f"{way}.{side}" for way in ("eager", "compiled") for side in _SIDES),
        *(f"graphs.batch_{size}.ours" for size in (1, 4, 32)),
    ],
    "pipelines": ["sd3", "sdxl"],
    "rung": ["run"],
}
_LIBRARIES = ("accelerate", "torchvision", "triton", "bitsandbytes", "huggingface_hub", "nvidia-cudnn-cu13", "nvidia-cudnn-cu12")


def main(arguments: list[str]) -> int:
    """Run the parts; returns the exit code."""
    parser = argparse.ArgumentParser(prog="check.sh", description="measure everything on one GPU; figures in OUT/gpu.json")
    parser.add_argument("--out", type=Path, required=True, help="folder of gpu.json")
    parser.add_argument("--rehearse", action="store_true", help="the same on this CPU, with small networks")
    parser.add_argument("--seconds", type=float, default=sum(LIMITS.values()) + LAST, help="for everything")
    parser.add_argument("--only", nargs="+", choices=list(LIMITS), default=list(LIMITS), help="these parts alone")
    asked = parser.parse_args(arguments)
    device = "cpu" if asked.rehearse else "cuda"
    if device == "cuda" and not card.is_there():
        print("error: nvidia-smi finds no GPU here\nfix: tests/gpu/check.sh --rehearse", file=sys.stderr)
        return 3
    asked.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as place:
        found = run_all(asked.only, device, Path(place), asked.out, asked.seconds)
    failed = errors(found["parts"])
    for where, why in failed.items():
        print(f"FAILED {where}: {why}", file=sys.stderr)
    absent = [path for name in asked.only for path in EXPECTED[name] if not holds(found["parts"], f"{name}.{path}")]
    for path in absent:
        print(f"NOT MEASURED {path}", file=sys.stderr)
    return 1 if failed or absent else 0


def run_all(names: list[str], device: str, place: Path, out: Path, seconds: float) -> dict[str, Any]:
    """Every part in its order, then the assertions; gpu.json's content."""
    deadline = time.monotonic() + seconds - LAST if device == "cuda" else math.inf
    found: dict[str, Any] = {"device": card.describe(device), "versions": _versions(), "clocks": {}, "power": {}, "parts": {}}
    (place / "models").mkdir()
    with contextlib.ExitStack() as ended:
        waiting = [ended.enter_context(_started(names[0], device, place, out))]
        for number, name in enumerate(names):
            if number + 1 < len(names):
                waiting.append(ended.enter_context(_started(names[number + 1], device, place, out)))
            _wait_for_imports(waiting[number], place / f"{name}.json.ready", deadline)
            later = sum(LIMITS[other] for other in names[number + 1 :])
            limit = REHEARSED_LIMIT if device == "cpu" else max(1.0, deadline - time.monotonic() - later)
            with card.watched(device) as seen:
                found["parts"][name] = _run(name, waiting[number], place, limit)
            found["clocks"][name], found["power"][name] = seen["clocks"], seen["power"]
            write_whole(out / "gpu.json", json.dumps(found, indent=1))
            print(f"{name}: {found['parts'][name]['seconds']:.0f} s of {limit:.0f}", file=sys.stderr)
    found["parts"]["asserts"] = asserts.run(out)
    write_whole(out / "gpu.json", json.dumps(found, indent=1))
    return found


@contextlib.contextmanager
def _started(name: str, device: str, place: Path, out: Path) -> Iterator[subprocess.Popen[str]]:
    """A part's process, which imports and waits; at the end it is killed, with a compiler's workers or what else it started."""
    own = {"SBV2BENCH_HOME": str(place / "home"), "TORCHINDUCTOR_CACHE_DIR": str(place / "inductor"), "HF_HUB_OFFLINE": "1"}
    own |= {"OMP_NUM_THREADS": "1"} if device == "cpu" else {}  # networks so small are no faster on more
    environment = {key: value for key, value in os.environ.items() if key not in ("SBV2BENCH_CATALOG", "SBV2BENCH_SUITE")} | own
    command = [sys.executable, "-m", "gpu.part", name, device, str(place / "models"), str(place / f"{name}.json")]
    with (out / f"{name}.log").open("w") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=log, stderr=log, text=True, env=environment, start_new_session=True
        )
    try:
        yield process
    finally:
        _end(process)


def _wait_for_imports(process: subprocess.Popen[str], ready: Path, deadline: float) -> None:
    while not ready.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)


def _run(name: str, process: subprocess.Popen[str], place: Path, limit: float) -> dict[str, Any]:
    """What a part measured within its limit, the "seconds" that it took, and "error" where it did not end well."""
    began, why = time.monotonic(), ""
    with contextlib.suppress(BrokenPipeError):  # it ended before it began
        assert process.stdin is not None
        process.stdin.write(f"{max(1.0, limit - GRACE)}\n")
        process.stdin.flush()
    try:
        code = process.wait(limit)
        why = f"ended with exit code {code}; its log is {name}.log" if code else ""
    except subprocess.TimeoutExpired:
        why = f"stopped at its limit of {limit:.0f} s"
    _end(process)
    path = place / f"{name}.json"
    found: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    return {**found, "seconds": round(time.monotonic() - began, 1), **({"error": found.get("error", why)} if why else {})}


def _end(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _versions() -> dict[str, Any]:
    made = provenance.environment("cpu")
    libraries = made["libraries"] | {name: provenance.library_version(name) for name in _LIBRARIES}
    code = {name: made[name] for name in ("sbv2bench", "git_commit", "git_dirty", "date_utc")}
    return {"python": platform.python_version(), **libraries, **code}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

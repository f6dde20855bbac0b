"""Finished rungs become the package's weights: float16 safetensors, a manifest of hashes, and how they were trained."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from reference_trainer.ladder import RUNGS
from sbv2bench.errors import PrerequisiteError

_SHIPPED_PICTURES = (
    "samples.png",
    "samples.txt",
    "reconstructions.png",
    "pairs.png",
    "retrieved.png",
    "retrieved.txt",
    "misread.png",
)


def ship_family(runs: Path, output: Path) -> None:
    """Write every finished rung of `runs` to `output`, replacing what is there.

    output/<rung>/... the genuine layout in float16; output/training/<rung>.json seconds, figures and log;
    output/manifest.json the SHA-256 and size of every file. Raises PrerequisiteError when a rung is not finished.
    """
    missing = [rung.name for rung in RUNGS if not (runs / rung.name / "done.json").is_file()]
    if missing:
        found = f"ship: found no done.json for {', '.join(missing)} in {runs}"
        raise PrerequisiteError(found, "python -m reference_trainer ladder mini")
    files: dict[str, dict[str, Any]] = {}
    (output / "training").mkdir(parents=True, exist_ok=True)
    for rung in RUNGS:
        shutil.rmtree(output / rung.name, ignore_errors=True)
        _ship_training(runs / rung.name, output / "training", rung.name)
        if not rung.shipped:
            continue
        for source in sorted(path for path in (runs / rung.name / "export").rglob("*") if path.is_file()):
            target = output / rung.name / source.relative_to(runs / rung.name / "export")
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.suffix == ".safetensors":
                save_file(_half(load_file(source)), target, metadata={"format": "pt"})
            else:
                shutil.copy(source, target)
            content = target.read_bytes()
            files[target.relative_to(output).as_posix()] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (output / "manifest.json").write_text(json.dumps({"files": files}, indent=1) + "\n")


def _half(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.half() if value.is_floating_point() else value for name, value in tensors.items()}


def _ship_training(run: Path, output: Path, name: str) -> None:
    """The log (every entry), the time and the figures of one rung, and its pictures."""
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    record = json.loads((run / "done.json").read_text()) | {"log": log}
    lines = json.dumps(record | {"log": "LOG"}, indent=1)
    entries = ",\n  ".join(json.dumps(entry) for entry in log)
    (output / f"{name}.json").write_text(lines.replace('"LOG"', f"[\n  {entries}\n ]") + "\n")
    for picture in _SHIPPED_PICTURES:
        if (run / picture).is_file():
            shutil.copy(run / picture, output / f"{name}-{picture}")
